"""Measure the observation distribution of a trained model: density, calibration, samples.

It is what `sos.analysis.evaluation` measures of models that were trained on dequantised images.
"""

import torch
from torch import Tensor

from sos import datasets
from sos.analysis import calibration, density, metrics
from sos.analysis.sampling import BATCH
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system.devices import device, generator
from sos.training.store import Model

CODES = 2  # of each image for the ELBO
LADDER = 1, 8, 64  # codes of each image for the importance-weighted bounds
BOUNDED = 64  # images whose bounds are measured
CALIBRATED = 300  # images whose calibration is measured
COMPARED = 500  # images and samples whose variance and spectra are compared
KINDS = "means", "coherent", "samples"  # μ, μ + Pω, and y


def test_images(model: Model, count: int) -> Tensor:
    """Return the first test images, dequantised, (N, C, H, W); the noise is always the same."""
    images = torch.from_numpy(datasets.load_split(model.experiment.data, "test").images[:count])
    return density.dequantise(images, generator("dequantised test images")).to(device())


def assess(model: Model, count: int, extractor: metrics.Extractor) -> dict:
    """Measure a model on `count` test images: {name: number, or list of numbers}.

    The names are those of the functions of this module together. Distances are to the images as
    they are; all else is of dequantised ones. Bounds are measured of seed 0 alone.
    """
    x = test_images(model, count)
    return (
        densities(model, x)
        | (bounds(model, x[:BOUNDED]) if not model.experiment.training.seed else {})
        | calibrations(model, x[:CALIBRATED])
        | variances(model, x[:COMPARED])
        | distances(model, count, extractor)
    )


@torch.no_grad()
def densities(model: Model, x: Tensor) -> dict[str, float]:
    """Measure the ELBO, with its standard error over images, and what it consists of, in nats.

    "rank_nats" is ½ log|I + D^-½PPᵀD^-½|, what ω carries as the code z carries "kl_nats".
    """
    vae, seed = model.vae, model.experiment.training.seed
    stream = generator("elbo", seed, device=device())
    elbo = density.elbo(vae, x, CODES, stream)
    mean, std = vae.encode(x)
    numbers = {
        "elbo": elbo.mean().item(),
        "elbo_error": (elbo.std() / len(elbo) ** 0.5).item(),
        "bits": float(density.bits_per_dimension(elbo.mean(), x[0].numel())),
        "kl_nats": density.kl_from_prior(mean.double(), std.double()).mean().item(),
    }
    p = vae.decode(mean[:BATCH])
    if isinstance(p, LowRankNormal):
        numbers["rank_nats"] = p.rank_entropy.mean().item() if p.rank else 0.0
        numbers["epsilon"] = p.cov_diag.mean().item()
    return numbers


def bounds(model: Model, x: Tensor) -> dict:
    """Measure how much importance-weighted bounds are above the ELBO, for the ladder of codes."""
    stream = generator("bounds", model.experiment.training.seed, device=device())
    found = density.importance_bounds(model.vae, x, LADDER, stream)
    gains = found["bounds"] - found["elbo"]
    return {
        "bound_codes": list(LADDER),
        "bound_gains": gains.mean(1).tolist(),
        "effective_samples": found["effective_samples"].mean().item(),
    }


@torch.no_grad()
def calibrations(model: Model, x: Tensor) -> dict:
    """Measure squares of components, χ²/S, and intervals of whitened residuals, z ~ q(z|x)."""
    vae = model.vae
    stream = generator("calibration", model.experiment.training.seed, device=device())
    flat, squares, chi, white = x.flatten(1), [], [], []
    for part in flat.split(BATCH):
        mean, std = vae.encode(part.view(-1, *x.shape[1:]))
        p = vae.decode(mean + std * torch.randn(mean.shape, generator=stream, device=device()))
        chi.append(calibration.chi_square(p, part))
        white.append(calibration.whiten(p, part))
        if model.experiment.network.rank:
            squares.append(calibration.component_scores(p, part))
    chi, white = torch.cat(chi), torch.cat(white)
    numbers = {
        "chi_square": chi.mean().item(),
        "chi_square_spread": chi.std().item(),
        "coverage_50": calibration.coverage(white, 0.5).mean().item(),
        "coverage_90": calibration.coverage(white, 0.9).mean().item(),
        "kurtosis": calibration.kurtosis(white.flatten()).item(),
        "pit": (calibration.histogram(calibration.pit(white)) / white.numel()).tolist(),
    }
    if squares:
        scores = torch.cat(squares)
        found = calibration.component_squares(scores)
        numbers["components"] = found["square"].tolist()
        numbers["component_errors"] = found["error"].tolist()
        counts = calibration.histogram(calibration.pit(scores))
        numbers["component_pit"] = (counts / counts.sum()).tolist()
    return numbers


@torch.no_grad()
def draws(model: Model, count: int) -> dict[str, Tensor]:
    """Draw flat images from z ~ N(0, I): μ, μ + Pω and y of the same z and ω, where there is a P.

    Also "factor" (N,), the mean over pixels of the variance that P has, and "noise" (N, S), the
    rest y - μ - Pω.
    """
    vae, rank = model.vae, model.experiment.network.rank
    stream = generator("assessment", model.experiment.training.seed, device=device())
    parts = []
    for z in vae.prior(count, stream).split(BATCH):
        p = vae.decode(z)
        mean = p.loc
        y = p.rsample(generator=stream)
        part = {"means": mean, "noise": y - mean, "samples": y}
        if rank:
            factor = p.cov_factor
            omega = torch.randn(len(z), rank, generator=stream, device=device())
            coherent = (factor @ omega[..., None])[..., 0]
            noise = _local_noise(p, stream)
            part = {"means": mean, "coherent": mean + coherent, "noise": noise}
            part["samples"] = mean + coherent + noise
            part["factor"] = factor.square().sum((1, 2)) / factor.shape[1]
        parts.append(part)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _local_noise(p, stream: torch.Generator) -> Tensor:
    """Draw what stands beside Pω in a sample: noise of variance D, or L⁻ᵀu."""
    if isinstance(p, LowRankNormal):
        noise = torch.randn(p.loc.shape, generator=stream, device=p.loc.device)
        return p.cov_diag.sqrt() * noise
    return p.local.rsample(generator=stream) - p.loc


def variances(model: Model, x: Tensor) -> dict[str, float]:
    """Split the variance of y over z ~ N(0, I), and compare samples with images x.

    "variance_latent", "variance_factor" and "variance_noise" are those of μ, of Pω and of the rest,
    as shares of the data's variance. The others are those of `calibration.predictive_checks`.
    """
    drawn = draws(model, len(x))
    data = x.flatten(1).var(0).mean()
    numbers = {
        "variance_latent": (drawn["means"].var(0).mean() / data).item(),
        "variance_factor": (drawn["factor"].mean() / data).item() if "factor" in drawn else 0.0,
        "variance_noise": (drawn["noise"].square().mean() / data).item(),
    }
    samples = model.vae.images(drawn["samples"]).cpu()
    return numbers | calibration.predictive_checks(samples, x.cpu())


def distances(model: Model, count: int, extractor: metrics.Extractor) -> dict[str, float]:
    """Measure Fréchet and kernel distances of KINDS of generated images to test images."""
    images = torch.from_numpy(datasets.load_split(model.experiment.data, "test").images[:count])
    real, drawn, numbers = extractor(images), draws(model, count), {}
    for kind in KINDS:
        if kind in drawn:
            made = metrics.quantise(model.vae.images(drawn[kind])).cpu()
            numbers |= distance(extractor(made), real, kind)
    return numbers


def distance(fake: Tensor, real: Tensor, kind: str) -> dict[str, float]:
    """Measure the Fréchet distance of features, and the kernel distance with its error."""
    both = (metrics.FeatureStatistics.of(features) for features in (fake, real))
    kernel = metrics.kernel_distance(fake, real, min(250, len(real) // 2))
    return {
        f"distance_{kind}": metrics.frechet_distance(*both),
        f"kernel_distance_{kind}": kernel["distance"],
        f"kernel_distance_{kind}_error": kernel["error"],
    }
