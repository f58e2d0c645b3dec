"""Trains and measures all models of a profile, on a CPU several at a time.

Under torchrun or accelerate the processes join in one model after the other instead.
"""

import os
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from joblib import Parallel, cpu_count, delayed

from sos import datasets, evaluation, models, parallel, training
from sos.config import Evaluation, Experiment


@dataclass(frozen=True)
class Worker:
    """A worker process: who started it, its threads, and the line of its progress bar."""

    parent: int
    threads: int
    line: int


def prepare_all(
    experiments: Sequence[Experiment], weights: str, settings: Evaluation
) -> dict[str, Exception]:
    """Every model trained and measured, or found to be; {name: error} of those that failed.

    On a CPU each model gets a core: small networks use two cores badly.
    """
    # The longest trainings first, so that no core waits for long at the end.
    ordered = sorted(experiments, key=lambda experiment: -experiment.network.rank)
    jobs = min(len(ordered), cpu_count())
    alone, several = training.device().type == "cuda" or jobs < 2, parallel.world_size() > 1
    if several or not alone:  # images are made by all cores, before they part
        untrained = [e.data for e in ordered if models.find(e, weights) is None]
        splits = [(data, "train") for data in untrained] + [(e.data, "test") for e in ordered]
        for data, split in dict.fromkeys(splits):
            try:
                with parallel.first():
                    datasets.load_split(data, split)
            except Exception:  # every model that needs them will say so, and the others be trained
                if several:
                    raise
    if several or alone:
        errors = [prepare(experiment, weights, settings) for experiment in ordered]
    else:
        tasks = (
            delayed(prepare)(experiment, weights, settings, worker)
            for line, experiment in enumerate(ordered)
            for worker in [Worker(os.getpid(), cpu_count() // jobs, line)]
        )
        with warnings.catch_warnings():  # joblib renews workers whose memory a training has filled
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            errors = Parallel(n_jobs=jobs)(tasks)
    return {e.name: error for e, error in zip(ordered, errors, strict=True) if error is not None}


def prepare(
    experiment: Experiment, weights: str, settings: Evaluation, worker: Worker | None = None
) -> Exception | None:
    """One model, trained and measured; returns the error that stopped it.

    Among several processes it is raised: the others wait for this one, and have to end too.
    """
    if worker is not None:
        torch.set_num_threads(worker.threads)
        threading.Thread(target=leave_with, args=(worker.parent,), daemon=True).start()
    try:
        model = models.load_or_train(experiment, weights, line=worker.line if worker else 0)
        evaluation.load_or_measure(model, settings)
        if settings.png:
            evaluation.write_pngs(model, settings)
    except Exception as error:
        if parallel.world_size() > 1:
            raise
        return error
    return None


def leave_with(parent: int) -> None:
    """Ends this process when its parent is gone: nobody else may write the same checkpoint."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
