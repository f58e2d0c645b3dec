"""Training steps, likelihood, sampling and conditioning, each beside its baseline and its floor.

    python benchmarks/training.py [--json out.json] [--sizes 64x64x3 ...] [--ranks 5 25 100]

One run prints everything side by side, for the paper's network on a GPU, for the demo's on a CPU.
Step: ours as `sos.training` runs it (bfloat16 trunk and channels_last where they pay, on a GPU a
CUDA graph; with --compile also its trunks by torch.compile, which nothing here uses) and the plain
one, float32 and eager with torch's LowRankMultivariateNormal, as the authors have it: by torch's
default, which lets its convolutions use TF32, and in true float32. Likelihood: log-density and rank
entropy, forward and backward. Floors: floating-point operations of the step's convolutions and
products over the measured rate of a large matrix product, and the bytes that the likelihood has to
move (P is read twice, its gradient written once) over the measured bandwidth of a copy.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from timing import medians, synchronise
from torch import nn
from torch.distributions import LowRankMultivariateNormal
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos import models, profiles
from sos.analysis import evaluation
from sos.config import Data, Experiment  # noqa: E402
from sos.distributions.low_rank_normal import LowRankNormal  # noqa: E402
from sos.models.vae import VAE  # noqa: E402
from sos.system import devices
from sos.training import cuda_graph, loop, store  # noqa: E402

SIZES = {"cuda": ("64x64x1", "64x64x3", "218x178x3", "233x197x1"), "cpu": ("64x64x1", "64x64x3")}
RANKS = {"cuda": (5, 25, 100), "cpu": (5, 25)}
EDITS = 3000  # values that are given, in `conditioning`
IMAGES = 50_000  # of an evaluation


def experiment_of(size: str, rank: int) -> Experiment:
    height, width, channels = map(int, size.split("x"))
    profile = "paper" if devices.device().type == "cuda" else "demo"
    e = profiles.PROFILES[profile].experiments["faces-sos"]
    data = Data("faces", height, width, channels, train=100, validation=1, test=1)
    objective = replace(e.objective, rank_entropy_target=7.5 * rank)
    plain = replace(e.training, pretraining=0, init_covariance=False)
    return replace(
        e, data=data, network=replace(e.network, rank=rank), objective=objective, training=plain
    )


def step(experiment: Experiment, kind: str) -> Callable:
    """One optimiser step on images that stay in memory: "ours", "compiled", "plain", "float32"."""
    data, where = experiment.data, devices.device()
    size = (4 * experiment.training.batch, data.channels, data.height, data.width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, device=where)
    run = loop.Run(experiment, images, where)
    if kind == "compiled":
        run.vae.encoder.trunk.compile()
        run.vae.decoder.trunk.compile()
    plain = kind in ("plain", "float32")
    if plain:
        for module in run.vae.modules():  # theirs have biases, which a normalisation takes away
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels, device=where))
        run.vae.to(memory_format=torch.contiguous_format)
        run.optimiser = torch.optim.Adam(run.vae.parameters(), experiment.training.learning_rate)
    run.vae.train()

    def ours() -> None:
        run.training_step(loop.batch(images, 0, experiment.training), mean_only=False)

    def theirs() -> None:
        x = loop.batch(images, 0, experiment.training)
        mean, std = run.vae.encode(x)
        p = run.vae.decode(mean + std * torch.randn_like(mean))
        diag = torch.full_like(p.loc, experiment.network.diagonal)
        q = LowRankMultivariateNormal(p.loc, p.cov_factor, diag, validate_args=False)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1).mean()
        nll, entropy = -q.log_prob(x.flatten(1)).mean(), q.entropy().mean()
        run.optimiser.zero_grad()
        (nll + run.kl.penalty(kl) + run.rank_entropy.penalty(entropy)).backward()
        run.optimiser.step()

    def float32() -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            theirs()

    return {"plain": theirs, "float32": float32}.get(kind, ours)


def likelihoods(experiment: Experiment) -> dict[str, Callable]:
    """Forward and backward of log-density and entropy: ours, as in a captured step, and torch's."""
    batch, data = experiment.training.batch, experiment.data
    pixels, rank = data.channels * data.height * data.width, experiment.network.rank
    where, epsilon = devices.device(), experiment.network.diagonal
    loc = torch.rand(batch, pixels, device=where, requires_grad=True)
    rows = (0.1 * torch.randn(batch, rank, pixels, device=where)).requires_grad_()
    x = torch.rand(batch, pixels, device=where)

    def ours() -> None:
        loc.grad = rows.grad = None
        p = LowRankNormal(loc, rows.mT, epsilon, validate_args=False)
        log_prob, rank_entropy = p.log_prob_and_rank_entropy(x)
        (log_prob.mean() + rank_entropy.mean()).backward()

    def theirs() -> None:
        loc.grad = rows.grad = None
        diag = torch.full_like(loc, epsilon)
        p = LowRankMultivariateNormal(loc, rows.mT, diag, validate_args=False)
        (p.log_prob(x).mean() + p.entropy().mean()).backward()

    if where.type != "cuda":
        return {"likelihood_ms": ours, "likelihood_torch_ms": theirs}
    with cuda_graph.stream(where):
        for _ in range(3):
            ours()
        loc.grad = rows.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            ours()
    return {"likelihood_ms": graph.replay, "likelihood_torch_ms": theirs}


def sampling_and_conditioning(experiment: Experiment) -> dict[str, Callable]:
    """A batch of codes, a decoder pass and a sample each; one distribution given some values."""
    where, batch = devices.device(), experiment.training.batch
    vae = VAE(experiment.data, experiment.network).to(where).eval()
    vae.to(memory_format=models.memory_format(experiment.network))
    with torch.no_grad():
        p = vae.decode(vae.prior(1))[0]
    pixels = p.event_shape[0]
    index = torch.randperm(pixels, device=where)[:EDITS]
    values = torch.rand(len(index), device=where)

    @torch.no_grad()
    def sample() -> None:
        with devices.precision(where):
            vae.decode(vae.prior(batch)).rsample()

    return {"sampling_ms": sample, "conditioning_ms": lambda: p.condition(index, values)}


def rates() -> tuple[float, float]:
    """Measured floating-point operations per second of a product and bytes per second of a copy."""
    where = devices.device()
    fast = devices.has_fast_bfloat16(where)
    side = 8192 if where.type == "cuda" else 2048
    a = torch.randn(side, side, device=where, dtype=torch.bfloat16 if fast else torch.float32)
    source = torch.empty(2**30 if where.type == "cuda" else 2**27, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    ms = medians({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, 5)
    return 2 * side**3 / ms["product"] * 1e3, 2 * source.numel() / ms["copy"] * 1e3


def peak_gib(run: Callable) -> float | None:
    """The most memory that one call has on the GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    synchronise()
    return torch.cuda.max_memory_allocated() / 2**30


@contextmanager
def refusing(name: str, result: dict) -> Iterator[None]:
    """Notes that torch's class gave up: its float32 Cholesky factorisation fails for some P."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        result.setdefault("refused", {})[name] = str(error).partition("\n")[0][:200]


def ratio(result: dict, above: str, below: str) -> float | None:
    return result[above] / result[below] if {above, below} <= result.keys() else None


def measure(
    experiment: Experiment, repeats: int, flops: float, bandwidth: float, compiled: bool
) -> dict:
    batch, data, where = experiment.training.batch, experiment.data, devices.device()
    values = batch * data.channels * data.height * data.width * experiment.network.rank
    result: dict = {}
    kinds = ["ours", "plain"] + ["float32"] * (where.type == "cuda") + ["compiled"] * compiled
    for name in kinds:  # one after the other, not in turns: two need not fit the memory
        with cuda_graph.stream(where), refusing(name, result):
            call = step(experiment, name)
            if name == "ours":
                with FlopCounterMode(display=False) as counter:
                    call()
                result["step_floor_ms"] = 1e3 * counter.get_total_flops() / flops
            result[f"peak_gib_{name}"] = peak_gib(call)  # eager: a graph's own memory is not seen
            for _ in range(1 + cuda_graph.EAGER_STEPS if where.type == "cuda" else 1):
                call()
            result |= medians({f"step_{name}_ms": call}, repeats)
        del call
        if where.type == "cuda":
            torch.cuda.empty_cache()
    for name, call in likelihoods(experiment).items():
        with refusing(name, result):
            result |= medians({name: call}, repeats)
    result |= medians(sampling_and_conditioning(experiment), repeats)
    return {
        **result,
        "step_ratio": ratio(result, "step_plain_ms", "step_ours_ms"),
        "step_float32_ratio": ratio(result, "step_float32_ms", "step_ours_ms"),
        "likelihood_ratio": ratio(result, "likelihood_torch_ms", "likelihood_ms"),
        "likelihood_share": ratio(result, "likelihood_ms", "step_ours_ms"),
        "likelihood_floor_ms": 1e3 * 3 * 4 * values / bandwidth,
        "samples_per_second": 1e3 * batch / result["sampling_ms"],
    }


def extraction() -> dict[str, float | None]:
    """Images per second from device memory through quantisation and the feature extractor."""
    where = devices.device()
    batch = torch.rand(evaluation.BATCH, 3, 218, 178, device=where)
    try:
        extract = evaluation.extractor("efficientnet-lite0")
    except ImportError:  # its weights are a package of their own
        return {"extraction_images_per_second": None}
    ms = medians({"batch": lambda: extract(evaluation.metrics.quantise(batch))}, 5)["batch"]
    return {"extraction_images_per_second": 1e3 * len(batch) / ms}


def table(rows: dict) -> str:
    """Markdown: a line for each size and rank."""
    header = ("size", "R", "step", "compiled", "plain step", "ratio", "float32 step", "floor",
              "likelihood", "torch's", "ratio", "share of step", "floor", "samples/s", "condition",
              "GiB", "plain GiB")  # fmt: skip
    lines = [header, ["---"] * len(header)]

    def shown(n: dict, key: str, form: str, unit: str = "") -> str:
        return f"{n[key]:{form}}{unit}" if n.get(key) is not None else "–"

    for name, n in rows.items():
        lines.append((
            *name.rsplit(" R", 1), shown(n, "step_ours_ms", ".3g", " ms"),
            shown(n, "step_compiled_ms", ".3g", " ms"), shown(n, "step_plain_ms", ".3g", " ms"),
            shown(n, "step_ratio", ".2f"), shown(n, "step_float32_ms", ".3g", " ms"),
            shown(n, "step_floor_ms", ".2g", " ms"), shown(n, "likelihood_ms", ".3g", " ms"),
            shown(n, "likelihood_torch_ms", ".3g", " ms"), shown(n, "likelihood_ratio", ".1f"),
            shown(n, "likelihood_share", ".1%"), shown(n, "likelihood_floor_ms", ".2g", " ms"),
            shown(n, "samples_per_second", ".0f"), shown(n, "conditioning_ms", ".2g", " ms"),
            shown(n, "peak_gib_ours", ".1f"), shown(n, "peak_gib_plain", ".1f"),
        ))  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kind = devices.device().type
    parser.add_argument("--sizes", nargs="+", default=SIZES[kind], help="height x width x channels")
    parser.add_argument("--ranks", nargs="+", type=int, default=RANKS[kind])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="a minute more for each row")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    flops, bandwidth = rates()
    content = {
        **store.machine(),
        "network": "paper" if kind == "cuda" else "demo",
        "tera_flops_of_a_product": flops / 1e12,
        "gigabytes_per_second_of_a_copy": bandwidth / 1e9,
        **extraction(),
        "rows": {},
    }
    for size in args.sizes:
        for rank in args.ranks:
            experiment = experiment_of(size, rank)
            content["batch"] = experiment.training.batch
            row = measure(experiment, args.repeats, flops, bandwidth, args.compile)
            content["rows"][f"{size} R{rank}"] = row
            print(table({f"{size} R{rank}": row}).splitlines()[-1], flush=True)
            if args.json:
                args.json.write_text(json.dumps(content, indent=1) + "\n")
    row = content["rows"].get("218x178x3 R25")
    if row and content["network"] == "paper":
        minutes = row["step_ours_ms"] * 28_000 / 60_000
        content["paper_training_minutes_extrapolated"] = minutes
        speed = content["extraction_images_per_second"]
        if speed:
            seconds = IMAGES / row["samples_per_second"] + IMAGES / speed
            content["evaluation_seconds_extrapolated"] = seconds
    print(f"\n{content['device']}, {content['threads']} threads, torch {content['torch']}, batch "
          f"{content['batch']}\n\n{table(content['rows'])}")  # fmt: skip
    for name, value in content.items():
        if isinstance(value, float):
            print(f"{name}: {value:.4g}")
    if args.json:
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
