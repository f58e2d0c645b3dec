"""Train and measure all models of a profile, several at a time on a CPU.

Under torchrun or accelerate all processes work on one model after the other instead.
"""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from joblib import Parallel, cpu_count, delayed

from sos import datasets
from sos.analysis import evaluation
from sos.config import Evaluation, Experiment
from sos.system import devices, distributed, progress
from sos.training import store


@dataclass(frozen=True)
class Worker:
    """Hold what a worker process knows: its parent, its threads, and the number of workers."""

    parent: int
    threads: int
    of: int

    @property
    def line(self) -> int:
        """Return the line of its progress bars, below that of the whole run."""
        number = multiprocessing.current_process().name.rpartition("-")[2]
        return 1 + int(number) % self.of if number.isdecimal() else 1


def prepare_all(
    experiments: Sequence[Experiment],
    weights: str,
    settings: Evaluation,
    finished: Callable[[str], None] = lambda name: None,
) -> dict[str, Exception]:
    """Train and measure every model that is not finished; return {name: error} of failures.

    `finished` is called with the name of each model when it is done. On a CPU each model gets a
    core, because small networks use two cores badly.
    """
    # The longest trainings first, so that no core waits for long at the end.
    ordered = sorted(experiments, key=lambda experiment: -experiment.network.rank)
    jobs = min(len(ordered), cpu_count())
    alone, several = devices.device().type == "cuda" or jobs < 2, distributed.world_size() > 1
    if several or not alone:  # images are made by all cores, before they part
        untrained = [e.data for e in ordered if store.find(e, weights) is None]
        splits = [(data, "train") for data in untrained] + [(e.data, "test") for e in ordered]
        for data, split in dict.fromkeys(splits):
            try:
                with distributed.main_process_first():
                    datasets.load_split(data, split)
            except Exception:  # reported by every model that needs them; others are trained
                if several:
                    raise
    errors = {}
    if several or alone:
        done = (prepare(experiment, weights, settings) for experiment in ordered)
    else:
        worker = Worker(os.getpid(), cpu_count() // jobs, jobs)
        tasks = (delayed(prepare)(experiment, weights, settings, worker) for experiment in ordered)
        done = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
    with warnings.catch_warnings():  # joblib restarts workers whose memory has grown
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for name, error in done:
            finished(name)
            if error is not None:
                errors[name] = error
    return {e.name: errors[e.name] for e in ordered if e.name in errors}


def prepare(
    experiment: Experiment, weights: str, settings: Evaluation, worker: Worker | None = None
) -> tuple[str, Exception | None]:
    """Train and measure one model; return its name and the error that stopped it, or None.

    With several processes the error is raised, because the others wait for this one and have to
    end too.
    """
    if worker is not None:
        torch.set_num_threads(worker.threads)
        threading.Thread(target=leave_with, args=(worker.parent,), daemon=True).start()
    progress.stand(worker.line if worker else 1, experiment.name)
    try:
        model = store.load_or_train(experiment, weights)
        evaluation.load_or_measure(model, settings)
        if settings.png:
            evaluation.write_pngs(model, settings)
    except Exception as error:
        if distributed.world_size() > 1:
            raise
        return experiment.name, error
    finally:
        progress.stand()
    return experiment.name, None


def leave_with(parent: int) -> None:
    """End this process when its parent is gone, so that no two write the same checkpoint."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
