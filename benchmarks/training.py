"""Training steps, likelihood and sampling of the paper's networks, each beside its baseline.

    python benchmarks/training.py --profile paper --experiment faces-sos --json out.json

Step: ours as `sos.training` runs it (bfloat16 trunk and channels_last where they pay) and the
plain one, float32 throughout with torch's LowRankMultivariateNormal as the authors have it; the
two take turns in one process. Likelihood: log-density and entropy, forward and backward, of the
step's own mu and P. Floors: floating-point operations of the step's convolutions and products over
the measured rate of a large matrix product, and the bytes that the likelihood has to move (P is
read twice, its gradient is written once) over the measured bandwidth of a copy.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from timing import medians
from torch.distributions import LowRankMultivariateNormal
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos import config, models, training  # noqa: E402
from sos.config import Experiment  # noqa: E402
from sos.low_rank_normal import LowRankNormal  # noqa: E402
from sos.vae import VAE  # noqa: E402


def step(experiment: Experiment, plain: bool) -> Callable:
    """One optimiser step on images that stay in memory."""
    data, where = experiment.data, training.device()
    size = (4 * experiment.training.batch, data.channels, data.height, data.width)
    images = torch.randint(0, 256, size, dtype=torch.uint8)
    run = training.Run(experiment, images, where)
    images, run.kl.share = images.to(where), 1.0
    if plain:
        run.vae.to(memory_format=torch.contiguous_format)
    run.vae.train()

    def ours() -> None:
        run.optimise(training.batch(images, 0, experiment.training), mean_only=False)

    def theirs() -> None:
        x = training.batch(images, 0, experiment.training)
        mean, std = run.vae.encode(x)
        p = run.vae.decode(mean + std * torch.randn_like(mean))
        diag = torch.full_like(p.loc, experiment.network.diagonal)
        q = LowRankMultivariateNormal(p.loc, p.cov_factor, diag)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1).mean()
        nll, entropy = -q.log_prob(x.flatten(1)).mean(), q.entropy().mean()
        run.optimiser.zero_grad()
        (nll + run.kl.penalty(kl) + run.rank_entropy.penalty(entropy)).backward()
        run.optimiser.step()

    return theirs if plain else ours


def likelihood(experiment: Experiment) -> Callable:
    """Forward and backward of log-density and rank entropy, as in a step."""
    batch, data = experiment.training.batch, experiment.data
    pixels, rank = data.channels * data.height * data.width, experiment.network.rank
    where = training.device()
    loc = torch.rand(batch, pixels, device=where, requires_grad=True)
    rows = (0.1 * torch.randn(batch, rank, pixels, device=where)).requires_grad_()
    x = torch.rand(batch, pixels, device=where)

    def run() -> None:
        loc.grad = rows.grad = None
        p = LowRankNormal(loc, rows.mT, experiment.network.diagonal, validate_args=False)
        log_prob, rank_entropy = p.log_prob_and_rank_entropy(x)
        (log_prob.mean() + rank_entropy.mean()).backward()

    return run


def sampler(experiment: Experiment, batch: int) -> Callable:
    """Codes, one decoder pass and one sample each."""
    vae = VAE(experiment.data, experiment.network).to(training.device()).eval()
    vae.to(memory_format=training.memory_format(experiment.network))

    @torch.no_grad()
    def run() -> None:
        with training.precision(training.device()):
            vae.decode(vae.prior(batch)).rsample()

    return run


def rates() -> tuple[float, float]:
    """Measured floating-point operations per second of a product and bytes per second of a copy."""
    where = training.device()
    fast = training.has_fast_bfloat16(where)
    side = 8192 if where.type == "cuda" else 2048
    a = torch.randn(side, side, device=where, dtype=torch.bfloat16 if fast else torch.float32)
    source = torch.empty(2**30 if where.type == "cuda" else 2**27, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    ms = medians({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, 5)
    return 2 * side**3 / ms["product"] * 1e3, 2 * source.numel() / ms["copy"] * 1e3


def measure(experiment: Experiment, repeats: int) -> dict:
    batch, data = experiment.training.batch, experiment.data
    ours = step(experiment, plain=False)
    with FlopCounterMode(display=False) as counter:
        ours()
    peaks = {}
    ms = {}
    for name, run in (("ours", ours), ("plain", step(experiment, plain=True))):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        run()
        if torch.cuda.is_available():
            peaks[f"peak_gib_{name}"] = torch.cuda.max_memory_allocated() / 2**30
        ms |= {f"step_{name}_ms": run}
    result = medians(ms | {"likelihood_ms": likelihood(experiment)}, repeats)
    result |= medians({"sampling_ms": sampler(experiment, batch)}, repeats)
    flops, bandwidth = rates()
    values = batch * data.channels * data.height * data.width * experiment.network.rank
    return {
        **result,
        **peaks,
        "step_ratio": result["step_plain_ms"] / result["step_ours_ms"],
        "likelihood_share": result["likelihood_ms"] / result["step_ours_ms"],
        "step_floor_ms": 1e3 * counter.get_total_flops() / flops,
        "likelihood_floor_ms": 1e3 * 3 * 4 * values / bandwidth,
        "samples_per_second": 1e3 * batch / result["sampling_ms"],
        "tera_flops_of_a_product": flops / 1e12,
        "gigabytes_per_second_of_a_copy": bandwidth / 1e9,
        "paper_run_minutes_extrapolated": result["step_ours_ms"] * 28_000 / 60_000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="paper", choices=config.PROFILES)
    parser.add_argument("--experiment", action="append", help="faces-sos, brains-sos or gray-sos")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    content = {**models.machine(), "profile": args.profile, "experiments": {}}
    for name in args.experiment or ["faces-sos"]:
        experiment = config.PROFILES[args.profile].experiments[name]
        content["experiments"][name] = numbers = measure(experiment, args.repeats)
        print(f"\n{name}, {args.profile}: {content['device']}, torch {content['torch']}")
        for key, value in numbers.items():
            print(f"  {key:<34} {value:,.4g}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
