"""Find simulated lesions in brain slices by what a model finds improbable.

Pixel by pixel there are two scores: the residual over its predicted deviation, |y_i - μ_i|/√Σ_ii,
and the leave-one-out score |y_i - m_i|/s_i, how far a pixel is from what *all others* say of it
(`leave_one_out` of each distribution). For independent pixels they are the same.
"""

import math

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from sklearn.metrics import average_precision_score
from torch import Tensor

from sos import datasets
from sos.analysis import density
from sos.analysis.held_out import rounded
from sos.config import Data
from sos.datasets.brains import Lesion, render_lesion
from sos.models.networks import Observation
from sos.system.devices import generator

LESIONS = {
    "6 mm, dark": Lesion(6, -0.2),
    "9 mm, dark": Lesion(9, -0.2),
    "13 mm, dark": Lesion(13, -0.2),
    "9 mm, faint": Lesion(9, -0.1),
    "9 mm, bright": Lesion(9, 0.2),
    "9 mm, texture": Lesion(9, 0.0, 0.2),
}
SCORES = "residual", "leave-one-out"


def slices(data: Data, lesion: Lesion, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Render test slices with a lesion: dequantised (N, 1, H, W), lesion and brain (N, H, W) bool.

    A pixel belongs to the lesion if more than half of it does.
    """
    indices = datasets.items(data, "test")[:count]
    size = data.height, data.width
    made = Parallel(n_jobs=cpu_count())(
        delayed(render_lesion)(index, lesion, *size) for index in indices
    )
    images = torch.from_numpy(np.stack([one.image for one, _ in made]))
    share = torch.from_numpy(np.stack([share for _, share in made]))
    brain = torch.from_numpy(np.stack([one.regions > 0 for one, _ in made]))
    x = density.dequantise(images, generator("dequantised test images"))
    return x, (share > 0.5) & brain, brain


@torch.no_grad()
def score_maps(p: Observation, y: Tensor) -> dict[str, Tensor]:
    """Compute both scores of flat images y (N, S), by a distribution of each or of all: (N, S)."""
    y = y.to(p.loc.device)
    residual = (y.double() - p.loc.double()).abs() / p.variance.double().sqrt()
    mean, variance = p.leave_one_out(y)
    return {"residual": residual, "leave-one-out": (y - mean).abs() / variance.sqrt()}


def precisions(maps: Tensor, lesion: Tensor, brain: Tensor) -> list[float | None]:
    """Compute the average precision of a map over the pixels of each brain, None without a lesion.

    The arguments are (N, H, W). A map that knows nothing has the lesion's share of the brain.
    """
    found = []
    for scores, truth, inside in zip(maps, lesion, brain, strict=True):
        value = math.nan
        if truth.any():
            value = average_precision_score(truth[inside].numpy(), scores[inside].numpy())
        found.append(rounded(value))
    return found


def measure(predict, data: Data, count: int) -> dict[str, dict[str, list[float | None]]]:
    """Measure {lesion: {score: average precision of each image}}; None without one.

    `predict` returns the distributions of images x (N, C, H, W).
    """
    result: dict[str, dict[str, list[float | None]]] = {}
    for name, lesion in LESIONS.items():
        x, truth, brain = slices(data, lesion, count)
        maps = {k: v.cpu() for k, v in score_maps(predict(x), x.flatten(1)).items()}
        result[name] = {
            score: precisions(values.view(len(x), *x.shape[2:]), truth, brain)
            for score, values in maps.items()
        }
    return result


def chance(data: Data, count: int) -> dict[str, float]:
    """Compute the average precision that a random order of pixels has on `count` slices.

    With m of n pixels it is (h + (m - 1)(n - h)/(n - 1))/n, h = 1 + 1/2 + … + 1/n, on average over
    all orders, which for small lesions is well above their share m/n.
    """
    result: dict[str, float] = {}
    of_size: dict[float, float] = {}
    for name, lesion in LESIONS.items():
        if lesion.radius_mm not in of_size:
            _, truth, brain = slices(data, lesion, count)
            m, n = truth.flatten(1).sum(1).double(), brain.flatten(1).sum(1).double()
            h = torch.digamma(n + 1) - torch.digamma(torch.ones_like(n))
            expected = (h + (m - 1) * (n - h) / (n - 1)) / n
            of_size[lesion.radius_mm] = expected[m > 0].mean().item()
        result[name] = of_size[lesion.radius_mm]
    return result
