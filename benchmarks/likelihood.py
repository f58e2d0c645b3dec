"""Time, memory and accuracy of LowRankNormal beside torch's LowRankMultivariateNormal.

    python benchmarks/likelihood.py --batch 25 --pixels 116412 --rank 25 --repeats 5 --json out.json

With GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000 in front, freed
memory is kept: what remains is the arithmetic, without the page faults of fresh memory.

Time: log_prob + entropy, forward and backward, the two classes taking turns in one process, each
with its own defaults (validation on) and with validation off. Memory: growth of the peak resident
set over a fresh process that holds the inputs, in copies of P; the gradient of P, one copy, is in
it. Accuracy: error in nats of the log-density of a true sample, of float32 inputs, against float64.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.distributions import LowRankMultivariateNormal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos.distributions.low_rank_normal import LowRankNormal  # noqa: E402

EPSILON = 1e-5


def spectra(rank: int) -> dict[str, torch.Tensor]:
    """Squared singular values of P: the paper's two traces, and what broke other classes."""
    decay = torch.logspace(3, 0, rank, dtype=torch.float64)
    return {
        "constrained, trace 3747": decay / decay.sum() * 3747,
        "exploded, trace 1.369e6": decay / decay.sum() * 1.369e6,
        "3e4 to 1e-5": torch.logspace(math.log10(3e4), -5, rank, dtype=torch.float64),
        "one of 150, the rest 0": torch.eye(rank, dtype=torch.float64)[0] * 150,
    }


def inputs(batch: int, pixels: int, eigenvalues: torch.Tensor, rotate: bool = False):
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
    value += math.sqrt(EPSILON) * torch.randn(batch, pixels, generator=generator)
    return loc.requires_grad_(), factor.requires_grad_(), value


def ours(loc, factor, value, validate_args=None):
    p = LowRankNormal(loc, factor.mT, EPSILON, validate_args=validate_args)
    log_prob, rank_entropy = p.log_prob_and_rank_entropy(value)
    (log_prob + rank_entropy).mean().backward()


def torchs(loc, factor, value, validate_args=None):
    diag = torch.full_like(loc, EPSILON)
    p = LowRankMultivariateNormal(loc, factor.mT, diag, validate_args=validate_args)
    (p.log_prob(value) + p.entropy()).mean().backward()


CLASSES = {"ours": ours, "torch": torchs}


def measure_time(batch: int, pixels: int, rank: int, repeats: int) -> dict[str, list[float]]:
    """Median wall and CPU milliseconds of each class, with and without validation, in turns.

    On a machine with other work wall time measures mostly that; CPU time with one thread does not.
    """
    arguments = inputs(batch, pixels, spectra(rank)["constrained, trace 3747"])
    runs = {(name, check): [] for name in CLASSES for check in (None, False)}
    for repeat in range(repeats + 1):
        for (name, check), seconds in runs.items():
            arguments[0].grad = arguments[1].grad = None
            start = time.perf_counter(), time.process_time()
            CLASSES[name](*arguments, check)
            stop = time.perf_counter(), time.process_time()
            if repeat:  # the first is a warm-up
                seconds.append([b - a for a, b in zip(start, stop, strict=True)])
    label = {None: "validated", False: "unvalidated"}
    return {
        f"{name}, {label[check]}": [1e3 * statistics.median(x) for x in zip(*seconds, strict=True)]
        for (name, check), seconds in runs.items()
    }


def peak_copies(name: str, batch: int, pixels: int, rank: int) -> float:
    """Growth of the peak resident set during the first full-size step, in copies of P."""
    small = inputs(2, 1000, spectra(rank)["constrained, trace 3747"])
    CLASSES[name](*small)  # libraries and thread pools are loaded before the count begins
    arguments = inputs(batch, pixels, spectra(rank)["constrained, trace 3747"])
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is resident now
    before = resident("VmRSS")
    CLASSES[name](*arguments)
    return (resident("VmHWM") - before) / (4 * batch * pixels * rank)


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure_memory(batch: int, pixels: int, rank: int) -> dict[str, float]:
    """Copies of P for each class, each in a process of its own."""
    shape = ["--batch", str(batch), "--pixels", str(pixels), "--rank", str(rank)]
    results = {}
    for name in CLASSES:
        command = [sys.executable, __file__, *shape, "--peak-of", name]
        results[name] = float(subprocess.run(command, check=True, capture_output=True).stdout)
    return results


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
        arguments = inputs(1, pixels, eigenvalues, rotate=eigenvalues[-1] > 0)
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
    rows = ["| forward + backward | ours | torch | ratio |", "|---|---:|---:|---:|"]
    for label in ("validated", "unvalidated"):
        pairs = zip(times[f"ours, {label}"], times[f"torch, {label}"], strict=True)
        for clock, (a, b) in zip(("wall", "CPU"), pairs, strict=True):
            rows.append(f"| {clock} ms, {label} | {a:.1f} | {b:.1f} | {b / a:.2f} |")
    a, b = memory["ours"], memory["torch"]
    rows.append(f"| peak memory, copies of P | {a:.2f} | {b:.2f} | {b / a:.2f} |")
    rows += ["", "| error in nats, spectrum of P P^T | ours | torch |", "|---|---:|---:|"]
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
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--peak-of", choices=CLASSES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = (args.batch, args.pixels, args.rank)
    if args.peak_of:
        print(peak_copies(args.peak_of, *shape))
        return
    times = measure_time(*shape, args.repeats)
    memory, accuracy = measure_memory(*shape), measure_accuracy(args.pixels, args.rank)
    kernels, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    machine = f"torch {torch.__version__}, {kernels}, {threads} threads"
    print(f"batch {shape[0]}, pixels {shape[1]}, rank {shape[2]}; {machine}\n")
    print(report(times, memory, accuracy))
    if args.json:
        results = {"shape": shape, "machine": machine, "wall_and_cpu_ms": times}
        results |= {"copies_of_factor": memory, "error_nats": accuracy}
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
