"""Measure what editing predicts, of one trained model or of none: see the modules it puts together.

The numbers are single ones for each image, in the order of the test split, so that models can be
compared image by image and with intervals.
"""

import numpy as np
import torch
from torch import Tensor

from sos import datasets
from sos.analysis import (
    anomalies,
    assessment,
    counterfactual,
    density,
    editing,
    evaluation,
    held_out,
    prediction,
)
from sos.analysis.prediction import Change
from sos.config import Data, Evaluation
from sos.distributions import LowRankNormal
from sos.system.devices import device, generator
from sos.training.store import Model

VERSION = 2  # bump when the numbers change
# Images whose pixels are held out; half as many have a factor changed, a quarter are searched
IMAGES = 200
RANK = 35  # of probabilistic PCA, as many as the demo's code and ω have together
CHOSEN = 20  # pixels that are revealed one by one
SOFT = 100  # validation images of which the variance of soft edits is measured


def count(data: Data, settings: Evaluation) -> int:
    """Return how many images are used: IMAGES, or fewer in quick profiles."""
    return min(IMAGES, settings.images // 6, datasets.count(data, "test"))


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the measurements: weights, images, number, code."""
    weights = {"weights_sha256": model.meta["weights_sha256"]}
    return weights | data_key(model.experiment.data, settings)


def data_key(data: Data, settings: Evaluation) -> dict[str, str | int]:
    """Return the part of the cache key that all models on the same images share."""
    return {
        "train": datasets.cache_key(data, "train"),
        "test": datasets.cache_key(data, "test"),
        "images": count(data, settings),
        "editing_version": VERSION,
    }


def variants(soft: float | None) -> dict[str, Change]:
    """Return how a model's distributions are used: {word: what is done to each}.

    A low rank with a fixed ε is used for "exact" edits, and for "soft" ones, in which a variance
    takes the place of ε. All others know their noise and are used "as trained".
    """
    if soft is None:
        return {"as trained": lambda p: p}
    return {"exact": lambda p: p, "soft": held_out.softened(soft)}


@torch.no_grad()
def soft_variance(model: Model) -> float:
    """Measure the variance of validation images outside the span of P."""
    images = datasets.load_split(model.experiment.data, "validation").images[:SOFT]
    stream = generator("dequantised validation images")
    x = density.dequantise(torch.from_numpy(images), stream).to(device())
    squares = []
    for part in x.split(prediction.CODES):
        p = model.vae.decode(model.vae.encode(part)[0])
        squares.append(evaluation.explained(p, part.flatten(1))[1].square().mean(1))
    return torch.cat(squares).mean().item()


def average(data: Data) -> Tensor:
    """Return the mean of training images (C, H, W) in [0, 1]."""
    return torch.from_numpy(datasets.load_split(data, "train").images.mean(0)).float() / 255


def load_or_measure(model: Model, settings: Evaluation) -> dict:
    """Return what editing by a model predicts, from the cache or measured now."""
    key = cache_key(model, settings)
    file = evaluation.cached_file(f"editing-{model.experiment.name}", key)
    return evaluation.load_or_make(key, (file,), lambda: measure(model, settings))


def measure(model: Model, settings: Evaluation) -> dict:
    """Measure {theme: {variant: numbers}} of a model, for the themes that its images allow.

    "held out" is of `held_out.of_model`, "edits" of `counterfactual.of_model`, "anomalies" of
    `anomalies.measure`, and "order" of `pixel_order`.
    """
    data, vae, images = model.experiment.data, model.vae, count(model.experiment.data, settings)
    network, name = model.experiment.network, model.experiment.name
    x, revealed = assessment.test_images(model, images), held_out.masks(data, images)
    simulated = data.name in datasets.SIMULATORS
    learnt = isinstance(network.diagonal, str) and network.rank > 0 and not network.neighbourhood
    result: dict[str, dict] = {"held out": {}, "edits": {}, "anomalies": {}, "order": {}}
    soft = None if network.epsilon is None else soft_variance(model)
    for word, change in variants(soft).items():
        result["held out"][word] = held_out.of_model(
            vae, x, revealed, average(data), change, f"{name}, held-out pixels"
        )
        if simulated:
            result["edits"][word] = counterfactual.of_model(
                vae, data, images // 2, change, learnt, f"{name}, edits"
            )
        if data.name == "brains":
            result["anomalies"][word] = anomalies.measure(
                lambda lesions, change=change: change(
                    vae.decode(vae.encode(lesions.to(device()))[0])
                ),
                data, images,
            )  # fmt: skip
        if learnt:
            result["order"][word] = pixel_order(vae, x[: images // 4])
    if soft is not None:
        result["soft variance"] = soft
    return {theme: numbers for theme, numbers in result.items() if numbers}


@torch.no_grad()
def pixel_order(vae, x: Tensor) -> dict[str, list[list[float]]]:
    """Reveal pixels one by one, the most telling first or at random: (N, 1 + CHOSEN) errors.

    They are root mean squares of the conditional mean over the pixels that neither order reveals.
    """
    shape, stream = tuple(x.shape[1:]), generator("random order")
    most = min(CHOSEN, shape[1] * shape[2] // 3)
    result: dict[str, list] = {"most telling first": [], "random": []}
    p = vae.decode(vae.encode(x)[0])
    for one, truth in zip((p[n] for n in range(len(x))), x.flatten(1), strict=True):
        best, _ = editing.greedy_pixels(one, shape, most)
        random = torch.randperm(shape[1] * shape[2], generator=stream)[:most].tolist()
        hidden = torch.ones(shape[1] * shape[2], dtype=torch.bool)
        hidden[best + random] = False
        for rows, pixels in zip(result.values(), (best, random), strict=True):
            rows.append(_errors(one, truth, pixels, hidden, shape[0]))
    return result


def _errors(
    p: LowRankNormal, truth: Tensor, pixels: list[int], hidden: Tensor, channels: int
) -> list[float]:
    """Errors at hidden pixels (H·W,) bool after none, one, two … of the others are known."""
    found, known = [], torch.zeros_like(hidden)
    for pixel in (None, *pixels):
        if pixel is not None:
            known[pixel] = True
        values = known.repeat(channels)
        error = (p.condition(values, truth[values]).mean - truth)[hidden.repeat(channels)]
        found.append(held_out.rounded(error.square().mean().sqrt().item()))
    return found


def load_or_measure_controls(name: str, data: Data, settings: Evaluation) -> dict:
    """Return what probabilistic PCA, the nearest image and simple edits predict.

    They are released under `editing-controls-<name>`, cached, or measured now.
    """
    from sos.analysis.seeds import released_file  # which knows this module

    key, name = data_key(data, settings), f"editing-controls-{name}"
    files = released_file(name), evaluation.cached_file(name, key)
    return evaluation.load_or_make(key, files, lambda: controls(data, settings))


@torch.no_grad()
def controls(data: Data, settings: Evaluation) -> dict:
    """Measure the themes of `measure` without a network."""
    images = count(data, settings)
    train = torch.from_numpy(datasets.load_split(data, "train").images)
    test = torch.from_numpy(datasets.load_split(data, "test").images[:images])
    t = density.dequantise(train, generator("dequantised training images"))
    x = density.dequantise(test, generator("dequantised test images"))
    revealed, word = held_out.masks(data, images), f"PPCA, R = {RANK}"
    p = density.ppca(t.double(), min(RANK, len(t) - 1))
    result: dict[str, dict] = {
        "held out": {
            word: held_out.of_distribution(p, x, revealed),
            "nearest training image": held_out.of_nearest(t, x, revealed),
        }
    }
    if data.name in datasets.SIMULATORS:
        result["edits"] = {word: counterfactual.of_distribution(p, data, images // 2)}
    if data.name == "brains":
        result["anomalies"] = {word: anomalies.measure(lambda _: p, data, images)}
    return result


def means(record: dict, path: tuple[str, ...] = ()) -> dict[str, float]:
    """Return the means over images of a record, {path, joined by commas: mean}.

    A path is that of the nested record, such as "edits, as trained, covariance, skin tone, 10,
    error". Images without a number are left out.
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        here = (*path, name)
        if isinstance(value, dict):
            found |= means(value, here)
        elif isinstance(value, list):
            each = np.array(value, dtype=float)
            if np.isfinite(each).any():
                found[", ".join(here)] = float(np.nanmean(each))
    return found
