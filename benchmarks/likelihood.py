"""Time, memory and accuracy of LowRankNormal beside torch's LowRankMultivariateNormal.

    python benchmarks/likelihood.py --json benchmarks/likelihood.json

Time: log_prob + entropy, forward and backward, in both classes and in turns, with validation on.
Ours both in one call and in two. There are two noise levels, since ours takes float32 products
where ε allows it, and three settings, each a process of its own. "fresh memory" is what a program
gets that does nothing about it: the system supplies and clears the memory of every gradient.
"kept memory" has the allocator keep what was freed, as `run_all.sh` has it. "both cores taken" is
that with as many other processes at work as there are threads. The floor is measured there too:
reading P, writing something as large as its gradient, and the products, in float64 at the paper's
ε, at the rate of a large one. Memory: growth of the peak resident set
over a fresh process that holds the inputs, in copies of P; the gradient of P, one copy, is in it.
Accuracy: error in nats of the log-density of a true sample, of float32 inputs, against float64.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from timing import medians
from torch.distributions import LowRankMultivariateNormal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos.distributions.low_rank_normal import LowRankNormal  # noqa: E402

EPSILON = 1e-5  # the paper's
NOISE = (EPSILON, 5e-3)  # and about what a learnt one is
LOOP = "while True: pass"


def spectra(rank: int) -> dict[str, torch.Tensor]:
    """Squared singular values of P: the paper's two traces, and what broke other classes."""
    decay = torch.logspace(3, 0, rank, dtype=torch.float64)
    return {
        "constrained, trace 3747": decay / decay.sum() * 3747,
        "exploded, trace 1.369e6": decay / decay.sum() * 1.369e6,
        "3e4 to 1e-5": torch.logspace(math.log10(3e4), -5, rank, dtype=torch.float64),
        "one of 150, the rest 0": torch.eye(rank, dtype=torch.float64)[0] * 150,
    }


def usual_spectrum(rank: int) -> torch.Tensor:
    return spectra(rank)["constrained, trace 3747"]


def inputs(batch: int, pixels: int, eigenvalues: torch.Tensor, epsilon: float, rotate=False):
    """loc (batch, S), R-major P (batch, R, S), and a true sample (batch, S); float32."""
    generator = torch.Generator().manual_seed(0)
    rank = len(eigenvalues)
    factor = torch.randn(batch, rank, pixels, generator=generator)
    factor *= (eigenvalues / pixels).sqrt().float()[:, None]
    if rotate:
        mix = torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64))[0]
        factor = (mix @ factor.double()).float()
    loc = torch.rand(batch, pixels, generator=generator)
    noise = torch.randn(batch, 1, rank, generator=generator)
    value = loc + (noise @ factor)[:, 0]
    value += math.sqrt(epsilon) * torch.randn(batch, pixels, generator=generator)
    return loc.requires_grad_(), factor.requires_grad_(), value


def ours(loc, factor, value, epsilon):
    log_prob, entropy = LowRankNormal(loc, factor.mT, epsilon).log_prob_and_rank_entropy(value)
    (log_prob + entropy).mean().backward()


def ours_in_two_calls(loc, factor, value, epsilon):
    p = LowRankNormal(loc, factor.mT, epsilon)
    (p.log_prob(value) + p.entropy()).mean().backward()


def torchs(loc, factor, value, epsilon):
    p = LowRankMultivariateNormal(loc, factor.mT, torch.full_like(loc, epsilon))
    (p.log_prob(value) + p.entropy()).mean().backward()


CLASSES = {"ours": ours, "ours, two calls": ours_in_two_calls, "torch's": torchs}
KEPT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1099511627776"}
SETTINGS = {"fresh memory": {}, "kept memory": KEPT, "both cores taken": KEPT}


def times(batch: int, pixels: int, rank: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each class at each noise level, and of the floors, in turns."""
    found = {}
    for epsilon in NOISE:
        loc, factor, value = inputs(batch, pixels, usual_spectrum(rank), epsilon)

        def step(name, arguments=(loc, factor, value, epsilon)):
            arguments[0].grad = arguments[1].grad = None
            CLASSES[name](*arguments)

        runs = {name: partial(step, name) for name in CLASSES}
        plain = factor.detach()
        runs |= {"reading P": plain.sum, "writing a copy of P": plain.clone}
        found[f"{epsilon:g}"] = medians(runs, repeats) | {"products": products(plain, epsilon)}
    return found


def products(factor: torch.Tensor, epsilon: float) -> float:
    """Milliseconds of the Gram matrices and of the gradient at the rate of a large product."""
    batch, rank, pixels = factor.shape
    square = torch.randn(1536, 1536, dtype=torch.float64 if epsilon < 1e-4 else torch.float32)
    operations = 2 * batch * pixels * (rank + 1) * (rank + rank + 1)
    return medians({"": lambda: square @ square}, 5)[""] * operations / (2 * len(square) ** 3)


def in_every_setting(options: list[str], threads: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run `times` in a process for each setting; the last with other processes beside it."""
    results = {}
    for setting, variables in SETTINGS.items():
        busy = []
        if setting == "both cores taken":
            busy = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(threads)]
        try:
            results[setting] = asked([*options, "--times"], variables)
        finally:
            for process in busy:
                process.kill()
    return results


def asked(options: list[str], variables: dict[str, str] | None = None):
    """What this program prints with these options, as JSON, in a process of its own."""
    command, environment = [sys.executable, __file__, *options], os.environ | (variables or {})
    output = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    return json.loads(output)


def peak_copies(name: str, batch: int, pixels: int, rank: int) -> float:
    """Growth of the peak resident set during the first full-size step, in copies of P."""
    small = inputs(2, 1000, usual_spectrum(rank), EPSILON)
    CLASSES[name](*small, EPSILON)  # libraries and thread pools are loaded before the count begins
    arguments = *inputs(batch, pixels, usual_spectrum(rank), EPSILON), EPSILON
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is resident now
    before = resident("VmRSS")
    CLASSES[name](*arguments)
    return (resident("VmHWM") - before) / (4 * batch * pixels * rank)


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def reference(loc, factor, value) -> float:
    """log p(value) in float64 through a QR of [P; sqrt(epsilon) I]: no Gram matrix, no Woodbury."""
    loc, factor, value = (x.detach()[0].double() for x in (loc, factor, value))
    rank, pixels = factor.shape
    ridge = math.sqrt(EPSILON) * torch.eye(rank, dtype=torch.float64)
    q, r = torch.linalg.qr(torch.cat([factor.T, ridge]))
    residual = torch.cat([value - loc, torch.zeros(rank, dtype=torch.float64)])
    distance = (residual - q @ (q.T @ residual)).square().sum() / EPSILON
    log_det = 2 * r.diagonal().abs().log().sum() + (pixels - rank) * math.log(EPSILON)
    return -0.5 * (pixels * math.log(2 * math.pi) + log_det + distance).item()


def measure_accuracy(pixels: int, rank: int) -> dict[str, dict[str, float | None]]:
    """Error of the log-density in nats for each spectrum; None where a Cholesky failed."""
    table = {}
    for name, eigenvalues in spectra(rank).items():
        arguments = inputs(1, pixels, eigenvalues, EPSILON, rotate=eigenvalues[-1] > 0)
        loc, factor, value = (x.detach() for x in arguments)
        expected = reference(*arguments)
        error = LowRankNormal(loc, factor.mT, EPSILON).log_prob(value).item() - expected
        table[name] = {"ours": error, "torch": None}
        try:
            p = LowRankMultivariateNormal(loc, factor.mT, torch.full_like(loc, EPSILON))
            table[name]["torch"] = p.log_prob(value).item() - expected
        except RuntimeError:
            pass
    return table


def report(times, memory, accuracy) -> str:
    rows = ["| ms, forward and backward | ε | ours | in two calls | torch's | ratio | floor |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for setting, by_epsilon in times.items():
        for epsilon, found in by_epsilon.items():
            one, two, other, *floors = found.values()
            cells = (*(f"{x:.0f}" for x in (one, two, other)), f"{other / one:.1f}")
            rows.append(f"| {setting} | {epsilon} | {' | '.join(cells)} | {sum(floors):.0f} |")
    a, b = memory.values()
    rows += [
        "",
        "Floor: P read once, its gradient written, the products at the rate of a large one.",
        "",
    ]
    rows.append(f"Peak memory in copies of P: {a:.2f} (torch's: {b:.2f}).")
    rows += ["", "| error in nats, spectrum of P P^T | ours | torch's |", "|---|---:|---:|"]
    for name, error in accuracy.items():
        other = "Cholesky failed" if error["torch"] is None else f"{error['torch']:+.3f}"
        rows.append(f"| {name} | {error['ours']:+.6f} | {other} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--pixels", type=int, default=218 * 178 * 3)
    parser.add_argument("--rank", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--times", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", choices=CLASSES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = (args.batch, args.pixels, args.rank)
    if args.peak_of:
        print(json.dumps(peak_copies(args.peak_of, *shape)))
        return
    if args.times:
        print(json.dumps(times(*shape, args.repeats)))
        return
    names = ("batch", "pixels", "rank", "repeats", "threads")
    options = [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    milliseconds = in_every_setting(options, args.threads)
    memory = {name: asked([*options, "--peak-of", name]) for name in ("ours", "torch's")}
    accuracy = measure_accuracy(args.pixels, args.rank)
    kernels, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    machine = f"torch {torch.__version__}, {kernels}, {threads} threads"
    print(f"batch {shape[0]}, pixels {shape[1]}, rank {shape[2]}; {machine}\n")
    print(report(milliseconds, memory, accuracy))
    if args.json:
        results = {"shape": shape, "machine": machine, "milliseconds": milliseconds}
        results |= {"copies_of_factor": memory, "error_nats": accuracy}
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
