"""What a sparse precision, a low rank and both cost, at 32, 64 and 128 pixels a side.

    python benchmarks/sparse.py --json benchmarks/sparse.json

Gray images, a 5x5 neighbourhood, R = 25. Times: log-density with gradients, and one sample of each
of `--batch` distributions, medians of runs that take turns. Memory: what the parameters of one
distribution occupy in float32. Then two ways to solve L^T e = u at 64x64, our wavefront and scipy's
sparse triangular solver with its matrices built beforehand, and 50,000 samples of 50,000
distributions.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from scipy.sparse.linalg import spsolve_triangular
from timing import medians, synchronise

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos.distributions.low_rank_normal import LowRankNormal  # noqa: E402
from sos.distributions.sparse_precision_normal import (
    LowRankPlusSparseNormal,
    SparsePrecisionNormal,
    offsets,
)
from sos.figures.labels import KIND  # noqa: E402
from sos.system import devices  # noqa: E402
from sos.training import store  # noqa: E402

NEIGHBOURHOOD, RANK = 5, 25
NAMES = {kind: KIND[kind] for kind in ("dorta", "sos", "hybrid")}


def inputs(batch: int, side: int) -> dict[str, torch.Tensor]:
    """Parameters of the size that the trained models have, with gradients."""
    size, generator = side * side, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(devices.device())

    count = len(offsets(NEIGHBOURHOOD, 1))
    parts = {
        "loc": 0.5 + 0.1 * normal(batch, size),
        "log_diag": 3.5 + 0.2 * normal(batch, size),
        "off_diag": 4.0 * normal(batch, count, size),
        "rows": 0.02 * normal(batch, RANK, size),
    }
    return {name: x.requires_grad_() for name, x in parts.items()}


def build(name: str, x: dict[str, torch.Tensor], side: int):
    factor = x["rows"].mT
    if name == "sos":
        return LowRankNormal(x["loc"], factor, 1e-5, validate_args=False)
    sparse = x["loc"], x["log_diag"], x["off_diag"], (1, side, side)
    local = SparsePrecisionNormal(*sparse, validate_args=False)
    return local if name == "dorta" else LowRankPlusSparseNormal(local, factor)


def costs(side: int, batch: int, repeats: int) -> dict[str, dict[str, float]]:
    x = inputs(batch, side)
    value = torch.rand(batch, side * side, device=devices.device())

    def density(name: str) -> None:
        for part in x.values():
            part.grad = None
        build(name, x, side).log_prob(value).mean().backward()

    ms = medians({name: lambda name=name: density(name) for name in NAMES}, repeats)
    draws = medians(
        {name: lambda name=name: build(name, x, side).sample() for name in NAMES}, repeats
    )
    row = medians(
        {name: lambda name=name: build(name, x, side).covariance_row(5) for name in NAMES}, repeats
    )
    used = {"dorta": ("loc", "log_diag", "off_diag"), "sos": ("loc", "rows"), "hybrid": tuple(x)}
    return {
        name: {
            "numbers_per_pixel": sum(x[part][0].numel() for part in used[name]) / side**2,
            "megabytes": 4e-6 * sum(x[part][0].numel() for part in used[name]),
            "log_prob_ms": ms[name] / batch,
            "sample_ms": draws[name] / batch,
            "covariance_row_ms": row[name] / batch,
        }
        for name in NAMES
    }


def solvers(side: int, repeats: int) -> dict[str, float]:
    """Milliseconds for 16 samples of one distribution, and for one sample of each of 16."""
    p = build("dorta", inputs(16, side), side)
    one, u = p[0], torch.randn(16, side * side)
    upper = one.root().T.tocsr()
    uppers = [p.root(item).T.tocsr() for item in range(16)]
    return medians(
        {
            "one, wavefront": lambda: one.sample((16,)),
            "one, scipy": lambda: spsolve_triangular(upper, u.double().numpy().T, lower=False),
            "each, wavefront": lambda: p.sample(),
            "each, scipy": lambda: [
                spsolve_triangular(matrix, one_u.double().numpy(), lower=False)
                for matrix, one_u in zip(uppers, u, strict=True)
            ],
            "each, scipy and its matrices": lambda: [
                spsolve_triangular(p.root(item).T.tocsr(), u[item].double().numpy(), lower=False)
                for item in range(16)
            ],
        },
        repeats,
    )


def many(side: int, count: int = 50_000, batch: int = 250) -> float:
    """Seconds for one sample of each of `count` distributions."""
    p = build("dorta", inputs(batch, side), side)
    began = time.perf_counter()
    for _ in range(0, count, batch):
        p.sample()
    synchronise()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    content = {**store.machine(), "batch": args.batch, "costs": {}}
    for side in (32, 64, 128):
        content["costs"][str(side)] = table = costs(side, args.batch, args.repeats)
        for name, numbers in table.items():
            print(f"{side:>4} {NAMES[name]:<20}", {k: round(v, 3) for k, v in numbers.items()})
    content["solvers_ms"] = solvers(64, args.repeats)
    print(content["solvers_ms"])
    content["seconds_for_50000"] = many(64)
    print(f"50,000 samples of 64x64: {content['seconds_for_50000']:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
