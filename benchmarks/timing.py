"""Timings as medians of runs that take turns, so that a busy moment hits all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def synchronise() -> None:
    """Waits for what the GPU has been given, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median wall milliseconds of each; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            synchronise()
            began = time.perf_counter()
            run()
            synchronise()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
