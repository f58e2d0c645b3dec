"""Predict what a run does and how long it takes on this machine: measured, then scheduled."""

import heapq
import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from joblib import Parallel, cpu_count, delayed

from sos import datasets, models
from sos.config import Data, Experiment
from sos.run.prepare import longest_first
from sos.run.workers import threads_each
from sos.system import devices
from sos.training import loop, store

STEPS = 3  # steps of a training that are timed, after one that warms up
LONGEST_STEP = 2.0  # seconds; where a step takes longer, only one is timed
ROOM = 2**28  # bytes that a run needs besides images and models: figures, notebooks, fonts


def words(experiment: Experiment) -> str:
    """Describe a training in words, from its settings."""
    network, objective, run = experiment.network, experiment.objective, experiment.training
    if network.neighbourhood:
        parts = ["low rank + sparse precision" if network.rank else "sparse precision"]
    elif not network.rank:
        parts = ["β-VAE" if network.diagonal is None else "σ-VAE"]
    else:
        parts = ["SOS-VAE" if network.latent else "no network"]
        kinds = {None: "learnt D", "shared": "learnt ε", "image": "ε per image"}
        parts.append(kinds.get(network.diagonal, "fixed D"))
    if objective.rank_entropy_target is not None:
        parts.append("entropy constraint")
        if objective.rank_entropy_factor != 1:
            parts.append(f"at {objective.rank_entropy_factor:g} of its target")
        if not objective.entropy_damping:
            parts.append("without damping")
    elif network.rank and not network.neighbourhood:
        parts.append("no constraint")
    if network.latent and not run.pretraining:
        parts.append("no pre-training")
    if run.stop_at_variance is not None and run.decay:
        parts.append("scheduled rate")
    if not network.latent and run.span_gain:
        parts.append("span gradient")
    return ", ".join(parts)


@dataclass(frozen=True)
class Estimate:
    """Hold the wall-clock seconds of each part of a run, or None where nothing is known."""

    images: float | None
    models: float | None
    notebooks: float

    @property
    def total(self) -> float | None:
        """Return the seconds of the whole run, or None where a part is not known."""
        known = [self.images, self.models, self.notebooks]
        return None if None in known else sum(known)


def missing_images(data: Data, split: str) -> int:
    """Return how many images of a split are still to be made or read."""
    if datasets.is_cached(data, split):
        return 0
    started = datasets.partial_folder(datasets.cache_folder(data, split))
    blocks = len(list(started.glob("*.npz")))
    return max(0, len(datasets.items(data, split)) - blocks * datasets.BLOCK)


def seconds_of_steps(experiment: Experiment) -> tuple[float, float]:
    """Measure the seconds of a step of pre-training and of a step after it, on images of noise."""
    data, run = experiment.data, experiment.training
    shape = (2 * run.batch, data.channels, data.height, data.width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    target = None if experiment.objective.rank_entropy_target is None else 1.0
    plain = replace(
        experiment,
        objective=replace(experiment.objective, rank_entropy_target=target),
        training=replace(run, init_covariance=experiment.network.constants),
    )
    timed = loop.Run(plain, images, torch.device("cpu"))
    x = images[: run.batch].float() / 255
    return tuple(
        _timed(lambda m=mean_only: timed.training_step(x, m)) for mean_only in (True, False)
    )


def _timed(step) -> float:
    """Measure the median seconds of a call, over several calls unless it takes long."""
    step()
    seconds = []
    while len(seconds) < STEPS and sum(seconds) < LONGEST_STEP:
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _kind(experiment: Experiment) -> tuple:
    """Return what the time of a step depends on."""
    data, network = experiment.data, experiment.network
    size = data.height, data.width, data.channels, experiment.training.batch
    return size, replace(network, diagonal=network.diagonal if network.epsilon is None else 1.0)


def _measured(experiments: Sequence[Experiment], threads: int) -> tuple[float, float]:
    """Measure steps of the first experiment on so many threads."""
    torch.set_num_threads(threads)
    return seconds_of_steps(experiments[0])


def step_seconds(experiments: Sequence[Experiment], jobs: int) -> dict[str, tuple[float, float]]:
    """Measure the seconds of a step of pre-training and after it, `jobs` models beside each other.

    Returns {name: (first, other)}. A few steps of each kind of model are timed.
    """
    kinds = {}
    for experiment in experiments:
        kinds.setdefault(_kind(experiment), []).append(experiment)
    tasks = (delayed(_measured)(group, threads_each(jobs)) for group in kinds.values())
    found = dict(zip(kinds, Parallel(n_jobs=jobs)(tasks), strict=True))
    return {e.name: found[_kind(e)] for e in experiments}


def steps_left(
    experiments: Sequence[Experiment], weights: str, threads: int
) -> dict[str, tuple[int, int]]:
    """Count the steps of pre-training and after it that each training has left.

    Returns {name: (early, late)}. Pre-training that several have in common counts for the first.
    """
    result, shared = {}, set()
    for experiment in experiments:
        run, begun = experiment.training, store.steps_done(experiment, weights)
        common = store.pretraining_of(experiment, threads)
        if common is not None and not begun and weights != "fresh":
            if common.file in shared or common.file.exists():
                begun = run.pretraining
            shared.add(common.file)
        early = max(0, run.pretraining - begun)
        result[experiment.name] = early, run.steps - max(begun, run.pretraining)
    return result


def cost(steps: tuple[int, int], seconds: tuple[float, float]) -> float:
    """Compute the seconds of so many steps of pre-training and after it."""
    return steps[0] * seconds[0] + steps[1] * seconds[1]


def scheduled(seconds: Sequence[float], jobs: int) -> float:
    """Compute the wall-clock seconds of tasks that start in this order, `jobs` at a time."""
    ends = [0.0] * max(1, jobs)
    for task in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + task)
    return max(ends)


def estimate(
    experiments: Sequence[Experiment],
    untrained: Sequence[Experiment],
    notebooks: float,
    weights: str = "train",
) -> Estimate:
    """Estimate how long images, models and notebooks take here, from timings and records.

    The time to evaluate a model is the recorded one of the released weights, times the ratio of
    training seconds here and there. `notebooks` are the recorded seconds of the notebooks. With
    the `weights` "fresh" no pre-training is shared.
    """
    if devices.device().type != "cpu" or not untrained:
        return Estimate(0.0, None if untrained else 0.0, notebooks)
    ordered, jobs = longest_first(untrained), min(len(untrained), cpu_count())
    seconds = step_seconds(ordered, jobs)
    left = steps_left(ordered, weights, threads_each(jobs))
    runs = {e.name: e.training for e in ordered}
    whole = {n: (run.pretraining, run.steps - run.pretraining) for n, run in runs.items()}
    records = {e.name: store.recorded_seconds(e, "released") for e in ordered}
    ratios = [cost(whole[n], seconds[n]) / record for n, record in records.items() if record]
    ratio = statistics.median(ratios) if ratios else 1.0
    work = []
    for experiment in ordered:
        measuring = store.recorded_seconds(experiment, "released", "evaluation.json") or 0.0
        trained = cost(left[experiment.name], seconds[experiment.name])
        work.append(trained + ratio * measuring)
    images = sum(map(_seconds_of_images, dict.fromkeys(e.data for e in experiments)))
    return Estimate(images, scheduled(work, jobs), notebooks)


def _seconds_of_images(data: Data) -> float:
    """Estimate the seconds of missing train and test images on all cores, by timing two on one."""
    missing = sum(missing_images(data, split) for split in ("train", "test"))
    if not missing or datasets.can_be_made_gray(data):
        return 0.0
    seconds = []
    for item in datasets.items(data, "test")[:3]:
        began = time.perf_counter()
        with suppress(ValueError):  # reported when the images are read
            datasets.make(data, item)
        seconds.append(time.perf_counter() - began)
    return missing * statistics.fmean(seconds[1:] or seconds) / cpu_count()


def bytes_needed(experiments: Sequence[Experiment], untrained: Sequence[Experiment]) -> int:
    """Estimate the bytes of the cache: images twice while they are made, and trainings."""
    total, shared = ROOM, set()
    for data in dict.fromkeys(e.data for e in experiments):
        each = data.height * data.width * data.channels
        total += 2 * each * sum(missing_images(data, split) for split in datasets.FIRST_INDEX)
    for experiment in untrained:
        with torch.device("meta"):
            model = models.new_model(experiment.data, experiment.network)
        parameters = sum(p.numel() for p in model.parameters())
        total += 4 * 4 * parameters  # with Adam's two moments
        common = store.pretraining_of(experiment)
        if common is not None and common.file not in shared:
            shared.add(common.file)
            total += 3 * 4 * parameters
    return total


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def amount(size: float) -> str:
    """Format a number of bytes in GB."""
    return f"{size / 1e9:.1f} GB"


def clock(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
