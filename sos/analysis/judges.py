"""Judge generated images by more than one distance, each with its error, for Table 1 over seeds.

A Fréchet distance of network features ranks blur against noise more than anything else, and it
prefers exploded samples to tame ones. Beside it stand precision and recall, which tell realism from
variety, and a distance of thumbnails, which no network sees.
"""

import numpy as np
import torch
from torch import Tensor

from sos import datasets
from sos.analysis import evaluation, metrics
from sos.config import Data, Evaluation
from sos.system import paths
from sos.training.store import Model

VERSION = 1  # bump when the same model no longer gives the same numbers
BLOCK = 250  # images, at least, in a block of the kernel distance
NEIGHBOURS = 3  # k of the neighbourhoods of precision and recall, as in Kynkäänniemi et al. (2019)


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the numbers: what determines an evaluation, and this code."""
    return evaluation.cache_key(model, settings) | {"judges_version": VERSION}


def load_or_measure(model: Model, settings: Evaluation) -> dict[str, float]:
    """Return what all judges say of a model, cached or measured now.

    Beside `judge` of each kind of images there is what `evaluation` measures without a distance.
    """
    key = cache_key(model, settings)

    def measure() -> dict[str, float]:
        numbers = judged(model, key["images"], settings.extractor)
        return numbers | evaluation.prior_variances(model) | evaluation.held_out(model)

    file = evaluation.cached_file(f"judges-{model.experiment.name}", key)
    return evaluation.load_or_make(key, (file,), measure)


def judged(model: Model, count: int, extractor_name: str) -> dict[str, float]:
    """Judge `count` images of each of the kinds of `evaluation`, {judge_kind: number}."""
    data, extractor = model.experiment.data, evaluation.extractor(extractor_name)
    real = torch.from_numpy(datasets.load_split(data, "test").images[:count])
    real_features = features_of_test_images(data, count, extractor_name)
    batches, numbers = list(evaluation.generated(model, count)), {}
    for kind in batches[0]:
        images = torch.cat([batch[kind] for batch in batches])
        found = judge(images, real, extractor(images).numpy(), real_features)
        numbers |= {f"{name}_{kind}": value for name, value in found.items()}
    floor = evaluation.real_vs_real_distance(data, count, count, extractor_name)
    return numbers | {"distance_floor": floor}


def judge(images: Tensor, real: Tensor, features: np.ndarray, others: np.ndarray) -> dict:
    """Compare images with real ones, both uint8 (N, C, H, W), and their features (N, dim).

    "distance" is the Fréchet distance of the features with its standard error over images,
    "kernel_distance" that of `metrics.kernel_distance`, "precision" and "recall" those of
    `metrics.precision_and_recall`, and "thumbnails" `metrics.thumbnail_distance` in gray levels.
    """
    distance, error = metrics.frechet_distance_and_error(features, others)
    kernel = metrics.kernel_distance(features, others, min(BLOCK, len(real) // 2))
    precision, recall = metrics.precision_and_recall(features, others, NEIGHBOURS)
    return {
        "distance": distance,
        "distance_error": error,
        "kernel_distance": kernel["distance"],
        "kernel_distance_error": kernel["error"],
        "precision": precision,
        "recall": recall,
        "thumbnails": metrics.thumbnail_distance(images, real),
    }


def real_images(name: str, data: Data, settings: Evaluation) -> dict[str, float]:
    """Return what all judges say of training images, which a perfect model would reach.

    It is released as `judges-real-<name>`, cached, or measured now.
    """
    key = real_key(data, settings)
    count = key["images"]

    def measure() -> dict[str, float]:
        train, test = (
            torch.from_numpy(datasets.load_split(data, split).images[:count])
            for split in ("train", "test")
        )
        features = evaluation.extractor(settings.extractor)(train).numpy()
        others = features_of_test_images(data, count, settings.extractor)
        return judge(train, test, features, others)

    name = f"judges-real-{name}"
    files = paths.DATA / "evaluations" / f"{name}.json", evaluation.cached_file(name, key)
    return evaluation.load_or_make(key, files, measure)


def real_key(data: Data, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the numbers of real images."""
    available = [datasets.count(data, split) for split in ("train", "test")]
    return {
        "train": datasets.cache_key(data, "train"),
        "test": datasets.cache_key(data, "test"),
        "images": min(settings.images, *available),
        "extractor": settings.extractor,
        "judges_version": VERSION,
    }


def features_of_test_images(data: Data, count: int, extractor_name: str) -> np.ndarray:
    """Return the features (count, dim) of the first test images, cached on disk."""
    name = f"{datasets.cache_key(data, 'test')}-{count}-{extractor_name}.npy"
    file = paths.CACHE / "features" / name
    if file.exists():
        return np.load(file)
    images = torch.from_numpy(datasets.load_split(data, "test").images[:count])
    features = evaluation.extractor(extractor_name)(images).numpy()
    with paths.replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, features)
    return features
