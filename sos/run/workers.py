"""Processes that work beside each other, and end with the one that started them."""

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


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

    def begin(self) -> None:
        """Take its share of the cores, and end with its parent."""
        import torch

        torch.set_num_threads(self.threads)
        threading.Thread(target=leave_with, args=(self.parent,), daemon=True).start()


def leave_with(parent: int) -> None:
    """End this process when its parent is gone, so that no two write the same file."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def at_once(tasks: int) -> int:
    """Return how many tasks run beside each other: one on a GPU, otherwise one on each core."""
    from joblib import cpu_count

    from sos.system.devices import device

    return 1 if device().type == "cuda" else min(tasks, cpu_count())


def threads_each(jobs: int) -> int:
    """Return how many threads each of so many tasks gets beside the others."""
    from joblib import cpu_count

    return max(1, cpu_count() // max(1, jobs))


def side_by_side(run: Callable, tasks: Iterable, jobs: int) -> Iterator:
    """Call run(task, worker) for every task, `jobs` at a time; yield results as they come.

    Tasks are taken from the iterable as workers become free, at most `jobs` of them at a time. With
    one job all calls happen in this process, and `worker` is None.
    """
    if jobs < 2:
        yield from (run(task, None) for task in tasks)
        return
    from joblib import Parallel, delayed

    worker = Worker(os.getpid(), threads_each(jobs), jobs)
    calls = (delayed(run)(task, worker) for task in tasks)
    with warnings.catch_warnings():  # joblib restarts workers whose memory has grown
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        one_by_one = {"pre_dispatch": jobs, "batch_size": 1}
        yield from Parallel(jobs, return_as="generator_unordered", **one_by_one)(calls)
