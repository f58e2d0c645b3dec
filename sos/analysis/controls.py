"""What models are compared with: normals and mixtures without a network, and spoilt real images."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from sos import datasets
from sos.analysis import assessment, calibration, density, evaluation, metrics, mixture
from sos.analysis.seeds import released_file
from sos.config import Data, Evaluation
from sos.system.devices import generator

VERSION = 1  # bump when the numbers change
RANKS = 25, 35, 100  # of probabilistic PCA
MIXTURE = 8, 20  # components, and the rank of each
BLURS = 0.5, 1.0, 2.0  # standard deviations in pixels
NOISES = 0.02, 0.05, 0.1, 0.2  # standard deviations in intensity


def load_or_measure(name: str, data: Data, settings: Evaluation) -> dict:
    """Return densities and distances of PPCA, of a mixture, and of spoilt test images.

    They are released under `controls-<name>`, cached, or measured now. Densities are exact, in
    nats per dequantised test image.
    """
    key, name = cache_key(data, settings), f"controls-{name}"
    files = released_file(name), evaluation.cached_file(name, key)
    count, extractor = key["images"], settings.extractor
    return evaluation.load_or_make(key, files, lambda: measure(data, count, extractor))


def cache_key(data: Data, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the controls: images, number, extractor, code."""
    return {
        "train": datasets.cache_key(data, "train"),
        "test": datasets.cache_key(data, "test"),
        "images": min(settings.images, datasets.count(data, "test")),
        "extractor": settings.extractor,
        "controls_version": VERSION,
    }


def measure(data: Data, count: int, extractor_name: str) -> dict:
    """Measure {control: {measurement: number}} on the first `count` test images."""
    test, x, y = _images(data, count)
    found = {}
    for rank in (r for r in RANKS if r < min(x.shape)):
        p = density.ppca(x, rank)
        found[f"PPCA, R = {rank}"] = _density(p.log_prob(y), density.stored_values(p))
    components, rank = MIXTURE
    if len(x) > 20 * components * rank:
        fitted = mixture.fit(x, components, rank)
        words = f"{components} PPCAs, R = {rank}"
        found[words] = _density(fitted.log_prob(y), fitted.stored_values)
    extractor = evaluation.extractor(extractor_name)
    real = extractor(test)
    for words, images in spoilt(test):
        found[words] = assessment.distance(extractor(images), real, "images")
    return found


def of_ranks(name: str, data: Data, settings: Evaluation, ranks: Sequence[int]) -> dict:
    """Return {rank: numbers} of probabilistic PCA for the ranks that images allow.

    Exact log-densities of test images with the standard error, χ²/S, coverage of 90 % intervals,
    the distance of samples, and stored values. They are released under `controls-ranks-<name>`,
    cached, or measured now.
    """
    key, name = ranks_key(data, settings, ranks), f"controls-ranks-{name}"
    files = released_file(name), evaluation.cached_file(name, key)
    found = evaluation.load_or_make(key, files, lambda: _of_ranks(data, key, ranks))
    return {int(rank): numbers for rank, numbers in found.items()}


def ranks_key(data: Data, settings: Evaluation, ranks: Sequence[int]) -> dict:
    """Return what determines the numbers of `of_ranks`."""
    return cache_key(data, settings) | {"ranks": list(ranks)}


def _of_ranks(data: Data, key: dict, ranks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Measure PPCA of each rank on the images that models are assessed on."""
    test, x, y = _images(data, key["images"])
    extractor, found = evaluation.extractor(key["extractor"]), {}
    real = extractor(test)
    for rank in (r for r in ranks if 1 <= r < min(x.shape)):
        p = density.ppca(x, rank)
        white = calibration.whiten(p, y[: assessment.CALIBRATED])
        drawn = p.rsample((len(test),), generator=generator("ppca", rank)).unflatten(
            -1, test.shape[1:]
        )
        found[str(rank)] = (
            _density(p.log_prob(y), density.stored_values(p))
            | {"chi_square": calibration.chi_square(p, y).mean().item()}
            | {"coverage_90": calibration.coverage(white, 0.9).mean().item()}
            | assessment.distance(extractor(metrics.quantise(drawn.float())), real, "samples")
        )
    return found


def _images(data: Data, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return test images, uint8, and training and test images dequantised and flat, float64."""
    train, test = (torch.from_numpy(datasets.load_split(data, s).images) for s in ("train", "test"))
    test = test[:count]
    x = density.dequantise(train, generator("dequantised training images")).flatten(1).double()
    # The very images that models are assessed on.
    y = density.dequantise(test, generator("dequantised test images")).flatten(1).double()
    return test, x, y


def _density(nats: Tensor, stored: int) -> dict[str, float]:
    return {
        "density": nats.mean().item(),
        "density_error": (nats.std() / math.sqrt(len(nats))).item(),
        "stored_values": stored,
    }


def spoilt(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield real images (N, C, H, W), uint8, in words and spoilt: blurred more and more, or noisy.

    They show what a distance between images ranks.
    """
    x = images.float() / 255
    for sigma in BLURS:
        size = 2 * math.ceil(3 * sigma) + 1
        yield f"blur, {sigma:g} pixels", metrics.quantise(gaussian_blur(x, size, sigma))
    for sigma in NOISES:
        noise = torch.randn(x.shape, generator=generator("spoilt", int(1000 * sigma)))
        yield f"noise, {sigma:g}", metrics.quantise(x + sigma * noise)
