"""Detect defective solar cells by models of sound ones: scores of images, and how well they rank.

A model that was trained on sound cells should find a defective one improbable. The score of an
image is its log-density (less is more suspicious), or what a map of scores has in it. The maps are
those of `anomalies`: |r|/σ pixel by pixel, and what *all other* pixels say of one.
"""

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

from sos import datasets
from sos.analysis import anomalies, assessment, density, evaluation
from sos.config import Data, Evaluation
from sos.datasets import cells
from sos.system.devices import device, generator
from sos.system.progress import tqdm
from sos.training.store import Model

VERSION = 1  # bump when the same model no longer gives the same numbers
RANKS = 25, 35  # of probabilistic PCA
PEAK = 0.01  # share of pixels whose mean score is the "peak" of a map
AT_A_TIME = 25  # images
RESAMPLES = 1000
FALSE_ALARMS = np.linspace(0, 1, 51)  # rates at which curves are kept
SUBSETS = "all", "certain", "mono", "poly"  # of defective cells; "certain" has probability one


def cache_key(model: Model, settings: Evaluation) -> dict[str, str | int]:
    """Return what determines the numbers: what determines an evaluation, and this code."""
    return evaluation.cache_key(model, settings) | {"defects_version": VERSION}


def load_or_measure(model: Model, settings: Evaluation) -> dict:
    """Return how well a model detects defective cells, cached or measured now."""
    key, name = cache_key(model, settings), f"defects-{model.experiment.name}"
    return evaluation.load_or_make(
        key, (evaluation.cached_file(name, key),), lambda: measure(model)
    )


def images(data: Data, split: str) -> Tensor:
    """Return the images of a split of cells, dequantised, (N, C, H, W); always the same noise."""
    found = torch.from_numpy(datasets.load_split(data, split).images)
    return density.dequantise(found, generator(f"dequantised {split} images")).to(device())


def measure(model: Model) -> dict:
    """Measure {score, subset, number}: all scores by one trained model."""
    data, seed = model.experiment.data, model.experiment.training.seed
    scores: dict[str, list[Tensor]] = {}
    for split in ("test", "defective"):
        stream = generator("defects", seed, device=device())
        parts = images(data, split).split(AT_A_TIME)
        found = [of_model(model.vae, x, stream) for x in tqdm(parts, desc=split, unit="batch")]
        for name in found[0]:
            scores.setdefault(name, []).append(torch.cat([part[name] for part in found]))
    return judged(scores, data)


@torch.no_grad()
def of_model(vae, x: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
    """Compute all scores of images x (N, C, H, W), {score: (N,)}; large ones are suspicious."""
    elbo = density.elbo(vae, x, assessment.CODES, stream)
    return {"density": -elbo.cpu()} | of_maps(vae.decode(vae.encode(x)[0]), x)


def of_maps(p, x: Tensor) -> dict[str, Tensor]:
    """Compute the mean square of each map of `anomalies.score_maps`, and its peak, {score: (N,)}.

    The peak is the mean over the PEAK of the pixels that have the largest scores.
    """
    found = {}
    for name, values in anomalies.score_maps(p, x.flatten(1)).items():
        most = values.topk(max(1, round(PEAK * values.shape[1]))).values
        found[f"{name}, mean square"] = values.square().mean(1).cpu()
        found[f"{name}, peak"] = most.mean(1).cpu()
    return found


@torch.no_grad()
def load_or_measure_controls(data: Data) -> dict:
    """Return how well defects are found without a network: {model: {score, subset, number}}.

    They are released under `defects-controls`, cached, or measured now.
    """
    from sos.analysis.seeds import released_file  # which knows this module

    key = controls_key(data)
    files = released_file("defects-controls"), evaluation.cached_file("defects-controls", key)
    return evaluation.load_or_make(key, files, lambda: controls(data))


def controls_key(data: Data) -> dict[str, str | int]:
    """Return what determines the numbers of `controls`."""
    return {"train": datasets.cache_key(data, "train"), "defects_version": VERSION}


@torch.no_grad()
def controls(data: Data) -> dict:
    """Measure probabilistic PCA, the nearest training image, and the darkness of a cell."""
    x, result = images(data, "train"), {}
    both = [images(data, split) for split in ("test", "defective")]
    for rank in (r for r in RANKS if r < min(len(x), x[0].numel())):
        p = density.ppca(x.flatten(1).double(), rank)
        scores: dict[str, list[Tensor]] = {"density": [-p.log_prob(y.flatten(1)) for y in both]}
        for y in both:
            for name, values in of_maps(p, y).items():
                scores.setdefault(name, []).append(values)
        result[f"PPCA, R = {rank}"] = judged(scores, data)
    distances = [torch.cdist(y.flatten(1), x.flatten(1)).min(1).values for y in both]
    result["nearest training image"] = judged({"distance": distances}, data)
    result["darkness"] = judged({"mean": [-y.mean((1, 2, 3)) for y in both]}, data)
    return result


def judged(scores: dict[str, list[Tensor]], data: Data) -> dict:
    """Judge how scores rank, {score: [of sound cells (N,), of defective ones (M,)]}.

    {"score, subset, number"}: "auroc", with the ends "low" and "high" of its 95 % interval, which
    resamples sound and defective cells, and "precision", the average precision; "curve" has the
    share of defects found at the rates FALSE_ALARMS of all cells.
    """
    sound, defective = cells.cells(data, "test"), cells.cells(data, "defective")
    result: dict[str, float | list[float]] = {}
    for name, (normal, other) in scores.items():
        normal, other = (values.double().cpu().numpy() for values in (normal, other))
        for subset in SUBSETS:
            ours = normal[[subset not in ("mono", "poly") or c.kind == subset for c in sound]]
            theirs = other[[_belongs(cell, subset) for cell in defective]]
            found = ranked(ours, theirs)
            result |= {f"{name}, {subset}, {key}": value for key, value in found.items()}
        truth = np.repeat([0, 1], [len(normal), len(other)])
        false, true, _ = roc_curve(truth, np.concatenate([normal, other]))
        result[f"{name}, curve"] = np.interp(FALSE_ALARMS, false, true).round(4).tolist()
    return result


def _belongs(cell: cells.Cell, subset: str) -> bool:
    return {"all": True, "certain": cell.defect == 1}.get(subset, cell.kind == subset)


def ranked(sound: np.ndarray, defective: np.ndarray) -> dict[str, float]:
    """Return "auroc" with its bootstrap interval, and "precision", of scores (N,) and (M,)."""
    truth = np.repeat([0, 1], [len(sound), len(defective)])
    together = np.concatenate([sound, defective])
    rng, areas = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        mine, theirs = (rng.choice(values, len(values)) for values in (sound, defective))
        areas.append(_area(mine, theirs))
    low, high = np.quantile(areas, [0.025, 0.975])
    return {
        "auroc": float(roc_auc_score(truth, together)),
        "low": float(low),
        "high": float(high),
        "precision": float(average_precision_score(truth, together)),
    }


def _area(sound: np.ndarray, defective: np.ndarray) -> float:
    """Return the share of pairs in which the defective cell has the larger score; ties are half."""
    order = np.sort(sound)
    below = np.searchsorted(order, defective) + np.searchsorted(order, defective, "right")
    return float(below.mean() / (2 * len(sound)))
