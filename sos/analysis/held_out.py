"""Hide pixels of test images, predict them from the others, and score the predictions.

An edit of an image is a prediction: given these pixels, what are the others? On the paper's page it
is judged by eye (§4.4). Here the revealed pixels have their true values, so that the truth of the
others is known.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sos.analysis import calibration, editing, prediction, regions
from sos.analysis.prediction import Change
from sos.config import Data
from sos.distributions import LowRankNormal
from sos.models.networks import Observation
from sos.models.vae import VAE
from sos.system.devices import generator
from sos.system.progress import tqdm

REGION = {"faces": "hair", "brains": "ventricles"}  # of each simulator
STROKE = [(0.3, 0.3), (0.7, 0.3)], 0.06  # points and diameter, in shares of the image
Scores = dict[str, list[float | None]]  # a number for each image; None where there is none
SCORES = "rmse", "unconditioned", "nats", "coverage_50", "coverage_90", "width"


def masks(data: Data, count: int) -> dict[str, Tensor]:
    """Return which values of each of the first `count` test images are revealed: (count, S) bool.

    A pixel is revealed with all its channels. A region is there for simulated images alone, and is
    empty where an image has no such region.
    """
    shape = data.channels, data.height, data.width
    pixels, stream = data.height * data.width, generator("revealed pixels")
    order = torch.rand(count, pixels, generator=stream).argsort(1).argsort(1)  # ranks
    column = torch.arange(pixels) % data.width
    stroke = torch.zeros(pixels, dtype=torch.bool)
    stroke[list(editing.sketch(*STROKE, 0.5, shape).pixels)] = True
    found = {
        "left half": (column < data.width // 2).expand(count, -1),
        "50 % at random": order < pixels // 2,
        "5 % at random": order < round(0.05 * pixels),
        "10 pixels": order < 10,
        "a stroke": stroke.expand(count, -1),
    }
    if regions.has_masks(data):
        name = REGION[data.name]
        scenes = regions.scenes(data, count)
        found[f"the {name}"] = scenes.masks[:, scenes.names.index(name)].flatten(1)
    return {name: mask.repeat(1, shape[0]) for name, mask in found.items()}


def scores(p: Observation, y: Tensor, revealed: Tensor) -> dict[str, float]:
    """Score the prediction of the hidden values of an image y (S,) by one distribution.

    "rmse" of the conditional mean and, "unconditioned", of the mean of p itself; "nats", the
    log-density of the hidden values, per value; "coverage_50" and "coverage_90", the shares of them
    in central intervals; and "width", the mean standard deviation. All NaN where nothing is
    revealed or nothing is hidden.
    """
    hidden = ~revealed
    if not (revealed.any() and hidden.any()):
        return dict.fromkeys(SCORES, math.nan)
    given = prediction.predict(p, y, revealed)
    std = given.variance[hidden].sqrt()
    errors = y[hidden].double() - given.mean[hidden]
    z = (errors / std)[None]
    return {
        "rmse": errors.square().mean().sqrt().item(),
        "unconditioned": (y - p.loc)[hidden].square().mean().sqrt().item(),
        "nats": given.nats / int(hidden.sum()),
        "coverage_50": calibration.coverage(z, 0.5).item(),
        "coverage_90": calibration.coverage(z, 0.9).item(),
        "width": std.mean().item(),
    }


def rounded(value: float) -> float | None:
    """Round to four digits, as in files; NaN, which JSON lacks, becomes None."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def listed(rows: Iterable[dict[str, float]]) -> Scores:
    """Collect the scores of images by name, rounded."""
    found = list(rows)
    return {name: [rounded(row[name]) for row in found] for name in found[0]}


def of_model(
    vae: VAE, x: Tensor, revealed: dict[str, Tensor], average: Tensor, change: Change, title: str
) -> dict[str, dict[str, Scores]]:
    """Score a model on images x (N, C, H, W): {mask: {way: {score: numbers}}}.

    The code is the encoder's for the whole image, or inferred from the revealed values alone. Then
    it starts at the encoder's for the revealed values and the training images' `average` (C, H, W)
    elsewhere. `change` is done to each p(y|z) first.
    """
    y, result = x.flatten(1), {}
    with torch.no_grad():
        whole = [change(vae.decode(z)) for z in vae.encode(x)[0].split(prediction.CODES)]
    known = [p[n] for p in whole for n in range(len(p.loc))]
    for name, mask in tqdm(revealed.items(), desc=title, unit="mask"):
        rows = [scores(*each) for each in zip(known, y, mask, strict=True)]
        some = mask.any(1).nonzero()[:, 0]
        filled = torch.where(mask, y, average.flatten().to(y)).view_as(x)
        start = vae.encode(filled)[0]
        _, inferred = prediction.infer(vae, y[some], mask[some], start[some], change)
        found = dict(zip(some.tolist(), inferred, strict=True))
        others = (scores(found.get(n, known[n]), y[n], mask[n]) for n in range(len(y)))
        result[name] = {"whole": listed(rows), "revealed": listed(others)}
    return result


def of_distribution(
    p: Observation, x: Tensor, revealed: dict[str, Tensor]
) -> dict[str, dict[str, Scores]]:
    """Score one distribution for all images, such as probabilistic PCA, as `of_model` does."""
    y = x.flatten(1)
    return {
        name: {"revealed": listed(scores(p, *pair) for pair in zip(y, mask, strict=True))}
        for name, mask in revealed.items()
    }


def of_nearest(
    train: Tensor, x: Tensor, revealed: dict[str, Tensor]
) -> dict[str, dict[str, Scores]]:
    """Score the hidden part of the training image whose revealed part is nearest: "rmse" alone."""
    y, t = x.flatten(1), train.flatten(1)

    def error(one: Tensor, mask: Tensor) -> dict[str, float]:
        if not (mask.any() and (~mask).any()):
            return {"rmse": math.nan}
        nearest = (t[:, mask] - one[mask]).square().sum(1).argmin()
        return {"rmse": (t[nearest] - one)[~mask].square().mean().sqrt().item()}

    return {
        name: {"revealed": listed(error(*pair) for pair in zip(y, mask, strict=True))}
        for name, mask in revealed.items()
    }


def softened(variance: float) -> Callable[[LowRankNormal], LowRankNormal]:
    """Return what gives a low rank D = σ²I with this variance, chosen after training."""

    def change(p: LowRankNormal) -> LowRankNormal:
        return p._derived(p._loc, p._factor, torch.full((1,), variance, dtype=torch.float64))

    return change
