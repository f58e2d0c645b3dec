"""Measure a trained model once, and keep the results in the cache or with its weights."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sos import datasets
from sos.analysis import assessment, metrics
from sos.analysis.sampling import BATCH, data_residuals, sampled_residuals, test_images
from sos.config import Data, Evaluation
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system import distributed, paths
from sos.system.devices import device, generator
from sos.system.progress import tqdm
from sos.system.version import commit
from sos.training.store import Model, machine

VERSION = 1  # bump when the same model no longer gives the same numbers
REFERENCES = ("exact", "linear PCA")  # samples without a training, that notebook 06 compares
REFERENCES_VERSION = 1  # bump when `sos.analysis.pca` no longer gives the same samples
# What is compared with real images: μ + t(y - μ), y ~ p(y|z). The paper has t = 0 and 1.
IMAGES = {"means": 0.0, "half_samples": 0.5, "samples": 1.0}
SPLIT_DRAWS = 512  # draws of z for variances and correlations
VARIANCE_DRAWS = 16  # samples of y for each z where the exact variance would take seconds
REACH = 16  # correlations are shown for distances below this many pixels


@cache
def extractor(name: str) -> metrics.Extractor:
    """Return the extractor "efficientnet-lite0" or "inception", built once per process.

    Only the distance of "inception" is called FID. Raises ValueError for other names.
    """
    known = {"efficientnet-lite0": metrics.efficientnet_lite0, "inception": metrics.inception}
    if name not in known:
        raise ValueError(f"extractor is {name!r}; expected one of {', '.join(known)}")
    return known[name](device=device())


def real_statistics(
    data: Data, split: str, count: int, extractor_name: str
) -> metrics.FeatureStatistics:
    """Compute the feature statistics of the first `count` images of a split, cached on disk.

    Raises ValueError where the split has fewer images.
    """
    name = f"{datasets.cache_key(data, split)}-{count}-{extractor_name}.npz"
    file = paths.CACHE / "statistics" / name
    if distributed.broadcast(file.exists()):
        return metrics.FeatureStatistics.load(file)
    images = torch.tensor(datasets.load_split(data, split).images[:count])
    if len(images) < count:
        raise ValueError(
            f"{count} images are to be compared, but the {split} split of {data.name} has "
            f"{len(images)}: lower Evaluation.images in sos/config.py or give more images"
        )
    mine = ({split: images[start : start + BATCH]} for start in starts(count))
    statistics = statistics_of(mine, count, extractor_name, f"{data.name} {split}")[split]
    if distributed.process_index() == 0:
        statistics.save(file)
    return statistics


def starts(count: int) -> range:
    """Return where this process's batches begin among `count` images."""
    return range(0, count, BATCH)[distributed.process_index() :: distributed.world_size()]


def statistics_of(
    batches: Iterable[dict[str, Tensor]], count: int, extractor_name: str, title: str
) -> dict[str, metrics.FeatureStatistics]:
    """Compute the feature statistics of `count` images of each kind, merged from all processes.

    A batch is {kind: uint8 images (N, C, H, W)}; with several processes, each has its own batches.
    """
    total, watched = min(count, len(starts(count)) * BATCH), distributed.process_index() == 0
    parts = metrics.statistics_of_kinds(batches, extractor(extractor_name), total, watched, title)
    first, *others = (found for found in distributed.all_gather(parts) if found)
    for kind, part in first.items():
        for other in others:
            part.merge(other[kind])
    return first


def real_vs_real_distance(data: Data, count: int, generated: int, extractor_name: str) -> float:
    """Compute the distance of two disjoint sets of real images, which a perfect model would reach.

    The first set is `count` test images. The second is training images, as many as are generated,
    if there are so many.
    """
    test = real_statistics(data, "test", count, extractor_name)
    others = min(generated, datasets.count(data, "train"))
    return metrics.frechet_distance(test, real_statistics(data, "train", others, extractor_name))


def generated(model: Model, count: int) -> Iterator[dict[str, Tensor]]:
    """Generate `count` images of each of the kinds as uint8, in batches, from z ~ N(0, I).

    All kinds have the same z and noise. With several processes, each generates its own batches.
    """
    for start in starts(count):
        yield generated_batch(model, start, min(BATCH, count - start))


@torch.no_grad()
def generated_batch(model: Model, start: int, size: int) -> dict[str, Tensor]:
    """Generate the batches of `size` images of `generated` whose first index is `start`."""
    stream = generator("evaluation", model.experiment.training.seed, start, device=device())
    p = model.vae.decode(model.vae.prior(size, stream))
    mean = p.mean
    deviation = p.rsample(generator=stream) - mean
    flat = {kind: mean + IMAGES[kind] * deviation for kind in kinds(model)}
    flat["means"] = mean  # also where an exploded deviation is infinite
    return {kind: metrics.quantise(model.vae.images(y)).cpu() for kind, y in flat.items()}


def kinds(model: Model) -> list[str]:
    """Return the kinds of IMAGES by which a model is measured.

    Half samples are left out where the noise is white, because half of white noise is white too.
    """
    network = model.experiment.network
    return [k for k in IMAGES if k != "half_samples" or network.rank or network.neighbourhood]


def write_pngs(model: Model, settings: Evaluation) -> None:
    """Write the images behind the distances as <cache>/png/<model>/<kind>/<number>.png.

    The kind of real images is "real". Existing files are kept, so that an interrupted run
    continues.
    """
    key, data = cache_key(model, settings), model.experiment.data
    real = torch.from_numpy(datasets.load_split(data, "test").images)
    place, made = paths.CACHE / "png" / model.folder.name, key.get("generated", key["images"])
    for start in tqdm(starts(made), desc=f"{model.experiment.name} files", unit="batch"):
        numbers = range(start, min(start + BATCH, made))
        files = {kind: [place / kind / f"{n:06d}.png" for n in numbers] for kind in kinds(model)}
        if all(file.exists() for row in files.values() for file in row):
            continue
        for kind, images in generated_batch(model, start, len(numbers)).items():
            _write_pngs(files[kind], images)
    for start in starts(key["images"]):
        numbers = range(start, min(start + BATCH, key["images"]))
        files = [place / "real" / f"{number:06d}.png" for number in numbers]
        if not all(file.exists() for file in files):
            _write_pngs(files, real[start : start + BATCH])


def _write_pngs(files: list[Path], images: Tensor) -> None:
    """Write uint8 images (N, C, H, W), each file whole or not at all."""
    for file, image in zip(files, images, strict=True):
        with paths.replacing(file) as temporary:
            pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(pixels).save(temporary, format="png")


def load_or_measure(model: Model, settings: Evaluation) -> dict[str, float]:
    """Return a model's measurements, which are released with its weights, cached, or made now.

    Measurements that are made now are cached.
    """
    key = cache_key(model, settings)
    files = model.folder / "evaluation.json", cached_file(model.experiment.name, key)

    def measure() -> dict[str, float]:
        if model.experiment.training.dequantise:
            return assessment.assess(model, key["images"], extractor(settings.extractor))
        numbers = distances(model, key, settings.extractor)
        return numbers | prior_variances(model) | held_out(model)

    return load_or_make(key, files, measure)


def distance_of(name: str, draw: Callable[[], Tensor], model: Model, settings: Evaluation) -> float:
    """Return the Fréchet distance to N test images of N images (N, S) made without the model.

    `name` is one of REFERENCES, which the model's data, rank and ε determine. The distance is
    released with the model's weights, cached, or measured now; only then are the images drawn.
    """
    key, shape = reference_key(name, model, settings), model.vae.image_shape

    def measure() -> dict[str, float]:
        flat = draw().float().split(BATCH)
        parts = (metrics.quantise(part.unflatten(-1, shape)) for part in flat)
        fake = metrics.statistics_of(parts, extractor(settings.extractor), key["images"])
        real = real_statistics(model.experiment.data, "test", key["images"], settings.extractor)
        return {"distance": metrics.frechet_distance(fake, real)}

    files = reference_file(name, model), cached_file(name, key)
    return load_or_make(key, files, measure)["distance"]


def load_or_make(
    key: dict, files: tuple[Path, Path], make: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Return what one of the files has for this key; otherwise make it and write the last file."""
    numbers = distributed.broadcast(measured(key, files))
    if numbers is not None:
        return numbers
    began = time.perf_counter()
    content = {"cache_key": key, "numbers": make(), **machine(), "commit": commit()}
    content["seconds"] = round(time.perf_counter() - began, 1)
    if distributed.process_index() == 0:
        paths.write_text(files[-1], json.dumps(content, indent=1) + "\n")
    return content["numbers"]


def measured(key: dict, files: Iterable[Path]) -> dict[str, float] | None:
    """Return the measurements of a cache key, or None where no file has them."""
    for file in files:
        if file.exists():
            content = json.loads(file.read_text())
            if content["cache_key"] == key:
                return content["numbers"]
    return None


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the measurements: weights, test images, number, extractor, code."""
    available = datasets.count(model.experiment.data, "test")
    more = {} if settings.generated is None else {"generated": settings.generated}
    return more | {
        "weights_sha256": model.meta["weights_sha256"],
        "data": datasets.cache_key(model.experiment.data, "test"),
        "images": min(settings.images, available),
        "extractor": settings.extractor,
        "version": VERSION,
    }


def reference_key(name: str, model: Model, settings: Evaluation) -> dict[str, str | int | float]:
    """Return what determines the distance of one of REFERENCES: all but the model's weights."""
    key, network = cache_key(model, replace(settings, generated=None)), model.experiment.network
    del key["weights_sha256"]
    return key | {
        "samples": name,
        "samples_version": REFERENCES_VERSION,
        "train": datasets.cache_key(model.experiment.data, "train"),
        "rank": network.rank,
        "epsilon": network.diagonal,
    }


def reference_file(name: str, model: Model) -> Path:
    """Return the file beside the model's weights for the distance of one of REFERENCES."""
    return model.folder / f"{name.replace(' ', '_')}.json"


def cached_file(name: str, key: dict) -> Path:
    """Return the file in the cache for what is named so and has this cache key."""
    return paths.CACHE / "evaluations" / f"{name.replace(' ', '_')}-{paths.fingerprint(key)}.json"


def distances(model: Model, key: dict, extractor_name: str) -> dict[str, float]:
    """Compute the Fréchet distances of means and samples to test images, and the floor."""
    data, result, count = model.experiment.data, {}, key["images"]
    made = key.get("generated", count)
    real = real_statistics(data, "test", count, extractor_name)
    fake = statistics_of(generated(model, made), made, extractor_name, model.experiment.name)
    for kind, statistics in fake.items():
        result[f"distance_{kind}"] = metrics.frechet_distance(statistics, real)
    return result | {"distance_floor": real_vs_real_distance(data, count, made, extractor_name)}


@torch.no_grad()
def prior_variances(model: Model) -> dict[str, float]:
    """Split the variance over z ~ N(0, I), and correlate neighbours in y - μ.

    The variance is split by the law of total variance.
    """
    vae, pairs, residuals = model.vae, [], []
    stream = generator("variances", model.experiment.training.seed, device=device())
    for z in vae.prior(SPLIT_DRAWS, stream).split(BATCH):
        p = vae.decode(z)
        if model.experiment.network.neighbourhood:
            draws = p.rsample((VARIANCE_DRAWS,), generator=stream)
            variance = (draws - p.mean).square().mean(0)
        else:
            variance = p.variance
        pairs.append((vae.images(p.mean), vae.images(variance)))
        residuals.append(vae.images(p.rsample(generator=stream) - p.mean))
    split = metrics.variance_split(pairs)
    images = datasets.load_split(model.experiment.data, "test").images
    data_variance = (images / 255.0).var(axis=0, ddof=1).mean()
    return {
        "variance_latent": split.latent,
        "variance_observation": split.observation,
        "variance_data": float(data_variance),
        "neighbour_correlation": metrics.neighbour_correlation(torch.cat(residuals)),
    }


@torch.no_grad()
def held_out(model: Model) -> dict[str, float]:
    """Compute the terms of eq. 3 on test images, and how well the covariance is calibrated there.

    `calibration` is the mean of ‖ω̂‖²/R, where ω̂ = (PᵀP + εI)⁻¹Pᵀ(x - μ) is the noise that best
    explains the residual. It is 1 where the factor is as large as the residuals in its span, and
    above 1 where it is smaller. `residual_outside` is the unexplained variance per pixel.
    """
    x = test_images(model, SPLIT_DRAWS)
    stream = generator("held out", model.experiment.training.seed, device=device())
    sums: dict[str, float] = defaultdict(float)
    fixed = model.experiment.network.diagonal
    for part in x.split(BATCH):
        noise = torch.randn(len(part), model.vae.latent, generator=stream, device=device())
        for name, value in vars(model.vae.terms(part, noise)).items():
            if value is not None:
                sums[name] += value.item() * len(part)
        if model.experiment.network.rank and fixed is not None:
            mean, std = model.vae.encode(part)
            omega, outside = explained(model.vae.decode(mean + std * noise), part.flatten(1))
            sums["calibration"] += omega.square().mean(1).sum().item()
            sums["residual_outside"] += outside.square().mean(1).sum().item()
    result = {f"test_{name}": value / len(x) for name, value in sums.items()}
    if isinstance(fixed, str):
        fixed = model.vae.head.shared_variance().item()
    return result if fixed is None else result | {"epsilon": fixed}


def explained(p: LowRankNormal, x: Tensor) -> tuple[Tensor, Tensor]:
    """Solve for the noise ω̂ = (PᵀP + εI)⁻¹Pᵀ(x - μ) that explains x - μ best, for D = εI.

    Returns ω̂ (batch, R) and the part of x - μ that it leaves unexplained, in float64.
    """
    factor, residual = p.cov_factor.double(), (x - p.loc).double()
    gram = factor.mT @ factor
    gram.diagonal(dim1=-2, dim2=-1).add_(p.cov_diag.double()[..., 0, None])
    omega = torch.linalg.solve(gram, factor.mT @ residual[..., None])
    return omega[..., 0], residual - (factor @ omega)[..., 0]


def local_and_global(sampled: Tensor, real: Tensor) -> dict[str, float]:
    """Compare residuals of samples with those of test images, both (N, C, H, W).

    Returns the correlations of pixels that are one pixel (near) and a quarter of the height (far)
    apart, and the ratio of the power of samples to that of the data at the lowest (coarse) and at
    the highest (fine) quarter of frequencies.
    """
    far, numbers, power = real.shape[2] // 4, {}, {}
    for name, residuals in (("samples", sampled), ("data", real)):
        curve = metrics.correlation_by_distance(residuals, far)
        numbers |= {f"near_{name}": curve[1].item(), f"far_{name}": curve[far].item()}
        frequency, spectrum = metrics.radial_power_spectrum(residuals)
        low, high = (frequency > 0) & (frequency < 0.125), frequency > 0.375
        power[name] = {"coarse": spectrum[low].mean(), "fine": spectrum[high].mean()}
    ratios = {f"{part}_ratio": (power["samples"][part] / power["data"][part]).item()
              for part in ("coarse", "fine")}  # fmt: skip
    return numbers | ratios


def correlation_curves(models: dict[str, Model], data: str) -> dict[str, Tensor]:
    """Compute the correlation of residuals by pixel distance, for both models and the data.

    The models' residuals are those of samples. The data's residuals are those that the mean of the
    SOS-VAE leaves.
    """
    residuals = {
        "β-VAE": sampled_residuals(models[f"{data}-beta"]),
        "SOS-VAE": sampled_residuals(models[f"{data}-sos"]),
        "data": data_residuals(models[f"{data}-sos"]),
    }
    return {
        name: metrics.correlation_by_distance(images, REACH - 1)
        for name, images in residuals.items()
    }
