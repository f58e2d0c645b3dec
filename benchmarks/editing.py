"""Conditioning, sliders and strokes: times beside the dense formula and beside what feels instant.

    python benchmarks/editing.py --json benchmarks/editing.json

Conditional mean: `LowRankNormal.condition` of 3,000 edited values at 218x178x3, R = 25, beside
equation 7 as it stands, with the blocks of the covariance written down and inverted in float32, as
the authors' code does it. Log-density of these values, and leave-one-out means and variances of all
values at 32x32x3: beside the dense covariance in float64. Sparse precision, given half of its
values at 64x64: mean and exact variances beside a sparse LU with a solve for each value. Slider: a
moved slider of `Sampler` to the new PNG, on the kernel's side. Browser: the module's own time from
a stroke's event to the drawn picture, in headless Chromium on a page that `export_page` made; "not
run" where there is no Chromium.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse.linalg
import torch
from timing import medians
from torch.distributions import MultivariateNormal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos.distributions.low_rank_normal import LowRankNormal  # noqa: E402
from sos.distributions.sparse_precision_normal import (  # noqa: E402
    SparsePrecisionNormal,
    offsets,
)
from sos.figures.tables import markdown_table, number  # noqa: E402
from sos.widgets import Sampler, export_page  # noqa: E402
from tests import browser  # noqa: E402

PAPER, DEMO, SMALL, RANK = (3, 218, 178), (3, 64, 64), (3, 32, 32), 25
EPSILON, EDITED = 1e-5, 3000
HEADER = ("what", "image", "ours", "target", "other", "ratio")


def distribution(shape) -> LowRankNormal:
    """Random smooth-spectrum factor whose traces are about the paper's."""
    generator = torch.Generator().manual_seed(0)
    size = shape[0] * shape[1] * shape[2]
    scales = torch.logspace(1.5, 0.5, RANK) / size**0.5
    factor = torch.randn(RANK, size, generator=generator) * scales[:, None]
    return LowRankNormal(torch.rand(size, generator=generator), factor.mT, EPSILON)


def milliseconds(work, repeats: int) -> float:
    """Median of `repeats` calls after one that warms up."""
    return medians({"work": work}, repeats)["work"]


def dense_mean(p: LowRankNormal, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Equation 7 with Sigma_12 (S - q, q) and the inverse of Sigma_22 (q, q)."""
    free = torch.ones(p.event_shape[0], dtype=torch.bool)
    free[index] = False
    known, rest = p.cov_factor[index], p.cov_factor[free]
    sigma_22 = known @ known.T + EPSILON * torch.eye(len(index))
    mean = p.loc.clone()
    mean[index] = values
    mean[free] += rest @ known.T @ torch.inverse(sigma_22) @ (values - p.loc[index])
    return mean


def conditional_mean(repeats: int) -> tuple[list[str], dict]:
    p = distribution(PAPER)
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(p.event_shape[0], generator=generator)[:EDITED]
    values = p.sample(generator=generator)[index]
    ours = milliseconds(lambda: p.condition(index, values), repeats)
    began = time.perf_counter()
    dense = dense_mean(p, index, values)
    other = 1e3 * (time.perf_counter() - began)
    exact = LowRankNormal(p.loc.double(), p.cov_factor.double(), EPSILON).condition(index, values)
    errors = {
        "ours": (p.condition(index, values).mean - exact.mean).abs().max().item(),
        "dense": (dense - exact.mean).abs().max().item(),
    }
    row = [
        f"conditional distribution given {EDITED} values", "218x178x3", f"{number(ours, 2)} ms",
        "< 20 ms, 500 x", f"{number(other / 1e3, 2)} s (dense)", f"{other / ours:.0f} x",
    ]  # fmt: skip
    return row, {"ours_ms": ours, "dense_ms": other, "largest_error": errors}


def density(repeats: int) -> tuple[list[str], dict]:
    """The log-density of EDITED values beside their dense covariance, in float64."""
    p = distribution(PAPER)
    generator = torch.Generator().manual_seed(1)
    index = torch.randperm(p.event_shape[0], generator=generator)[:EDITED].sort().values
    values = p.sample(generator=generator)[index]
    ours = milliseconds(lambda: p.marginal_log_prob(index, values), repeats)
    known = p.cov_factor[index].double()

    def dense():
        sigma = known @ known.T + EPSILON * torch.eye(EDITED)
        return MultivariateNormal(p.loc[index].double(), sigma).log_prob(values.double())

    other, gap = milliseconds(dense, 1), abs(dense() - p.marginal_log_prob(index, values)).item()
    row = [f"log-density of {EDITED} values", "218x178x3", f"{number(ours, 2)} ms", "",
           f"{number(other, 2)} ms (dense)", f"{other / ours:.0f} x"]  # fmt: skip
    return row, {"ours_ms": ours, "dense_ms": other, "gap_nats": gap}


def leave_one_out(repeats: int) -> tuple[list[str], dict]:
    """Leave-one-out moments of all values beside the inverse of the covariance."""
    p = distribution(SMALL)
    value = p.sample()
    ours = milliseconds(lambda: p.leave_one_out(value), repeats)
    factor = p.cov_factor.double()

    def dense():
        sigma = factor @ factor.T + EPSILON * torch.eye(len(factor))
        precision = torch.linalg.inv(sigma)
        push = precision @ (value.double() - p.loc.double())
        return value.double() - push / precision.diagonal(), 1 / precision.diagonal()

    other = milliseconds(dense, 1)
    pairs = zip(p.leave_one_out(value), dense(), strict=True)
    gap = max((a - b).abs().max().item() for a, b in pairs)
    row = ["leave-one-out moments of all values", "32x32x3", f"{number(ours, 2)} ms", "",
           f"{number(other, 2)} ms (dense)", f"{other / ours:.0f} x"]  # fmt: skip
    return row, {"ours_ms": ours, "dense_ms": other, "gap": gap}


def sparse(repeats: int) -> tuple[list[str], dict]:
    """A sparse precision given half of its values beside a sparse LU of what is free."""
    size, generator = 64 * 64, torch.Generator().manual_seed(0)
    weights = 0.1 * torch.randn(len(offsets(5, 1)), size, generator=generator)
    p = SparsePrecisionNormal(torch.zeros(size), torch.zeros(size), weights, (1, 64, 64))
    index = torch.randperm(size, generator=generator)[: size // 2].sort().values
    values = p.sample(generator=generator)[index]

    def ours():
        given = p.condition(index, values)
        return given.mean, given.variance

    def by_lu():
        root, known = p.root(), index.numpy()
        free = np.setdiff1d(np.arange(size), known)
        precision = (root @ root.T).tocsc()
        solve = scipy.sparse.linalg.splu(precision[free][:, free]).solve
        mean = np.zeros(size)
        mean[known] = values
        mean[free] = solve(-precision[free][:, known] @ values.double().numpy())
        variance = np.zeros(size)
        variance[free] = solve(np.eye(len(free))).diagonal()
        return mean, variance

    mine, other = milliseconds(ours, repeats), milliseconds(by_lu, 1)
    pairs = zip(ours(), by_lu(), strict=True)
    gap = max(np.abs(a.numpy() - b).max() for a, b in pairs)
    row = ["sparse precision given half: mean and variances", "64x64x1", f"{number(mine, 2)} ms",
           "", f"{number(other, 2)} ms (sparse LU)", f"{other / mine:.0f} x"]  # fmt: skip
    return row, {"ours_ms": mine, "sparse_lu_ms": other, "gap": float(gap)}


def slider(shape, target: float, repeats: int) -> tuple[list[str], dict]:
    sampler = Sampler(distribution(shape), shape)
    values = iter(i / 10 % 4 for i in range(10**6))

    def move():
        sampler.sliders[3].value = next(values)

    ours = milliseconds(move, repeats)
    size = f"{shape[1]}x{shape[2]}x{shape[0]}"
    row = ["slider to new image, kernel", size, f"{number(ours, 2)} ms", f"< {target:g} ms", "", ""]
    return row, {"ours_ms": ours}


def stroke(shape, target: str) -> tuple[list[str], dict]:
    size = f"{shape[1]}x{shape[2]}x{shape[0]}"
    row = ["stroke event to new image, browser", size, "not run", target, "", ""]
    if browser.executable() is None:
        return row, {}
    with (
        tempfile.TemporaryDirectory() as folder,
        browser.launched() as chromium,
        browser.page(chromium) as page,
    ):
        target_file = export_page(Path(folder, "p.html"), {"p": distribution(shape)}, shape, "p")
        page.goto(target_file.as_uri())
        page.wait_for_function("globalThis.sos")
        page.evaluate("globalThis.ms = []")
        page.evaluate("addEventListener('sos-drawn', (e) => ms.push(e.detail), true)")
        box = page.locator("#editor canvas[role=application]").bounding_box()
        left, top = box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"]
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(left + 0.6 * box["width"], top + 0.3 * box["height"], steps=60)
        page.mouse.up()
        page.wait_for_timeout(500)
        times = page.evaluate("ms")
    median, worst = statistics.median(times), max(times)
    row[2] = f"{number(median, 2)} ms (largest of {len(times)}: {number(worst, 2)} ms)"
    return row, {"ours_ms": median, "largest_ms": worst, "events": len(times)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    measured = {
        "condition": conditional_mean(args.repeats),
        "density": density(args.repeats),
        "leave-one-out": leave_one_out(args.repeats),
        "sparse": sparse(args.repeats),
        "slider 64x64": slider(DEMO, 16, args.repeats),
        "slider 218x178": slider(PAPER, 60, args.repeats),
        "stroke 64x64": stroke(DEMO, "< 16 ms"),
        "stroke 218x178": stroke(PAPER, ""),
    }
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    rows = [row for row, _ in measured.values()]
    print(f"{markdown_table(HEADER, rows)}\n{machine}")
    print("largest error of the mean:", measured["condition"][1]["largest_error"])
    if args.json:
        numbers = {name: values for name, (_, values) in measured.items()}
        content = {"machine": machine, "rows": rows, "numbers": numbers}
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
