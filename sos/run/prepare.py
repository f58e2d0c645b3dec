"""Train and measure all models of a profile, several at a time on a CPU.

Under torchrun or accelerate all processes work on one model after the other instead.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

from sos import datasets
from sos.analysis import evaluation
from sos.config import Evaluation, Experiment
from sos.run.workers import Worker, at_once, side_by_side, threads_each
from sos.system import deadline, distributed, progress
from sos.training import store


def prepare_all(
    experiments: Sequence[Experiment],
    weights: str,
    settings: Evaluation,
    finished: Callable[[str], None] = lambda name: None,
    measure: Callable = evaluation.load_or_measure,
) -> dict[str, Exception]:
    """Train and measure every model that is not finished; return {name: error} of failures.

    `measure` is called with each model and the settings.

    `finished` is called with the name of each model when it is done. On a CPU each model gets a
    core, because small networks use two cores badly.
    """
    ordered = longest_first(experiments)
    several = distributed.world_size() > 1
    jobs = 1 if several else at_once(len(ordered))
    if several or jobs > 1:  # images are made by all cores, before they part
        untrained = [e for e in ordered if store.find(e, weights) is None]
        splits = [(e.data, "train") for e in untrained] + [(e.data, "test") for e in ordered]
        for data, split in dict.fromkeys(splits):
            try:
                with distributed.main_process_first():
                    datasets.load_split(data, split)
            except Exception:  # reported by every model that needs them; others are trained
                if several:
                    raise
    errors, tasks = {}, ordered
    if jobs > 1 and weights != "fresh":
        tasks = in_turn(ordered, untrained, threads_each(jobs))
    run = partial(prepare, weights=weights, settings=settings, measure=measure)
    for name, error in side_by_side(run, tasks, jobs):
        finished(name)
        if error is not None:
            errors[name] = error
    return {e.name: errors[e.name] for e in ordered if e.name in errors}


def longest_first(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Sort experiments such that no core waits for long at the end: the short ones come last."""
    return sorted(experiments, key=lambda experiment: -_size(experiment))


def _size(experiment: Experiment) -> int:
    """Return a number to which the time of a training is roughly proportional."""
    data, network, training = experiment.data, experiment.network, experiment.training
    # Of each pixel: the trunk's channels, and what is predicted of P and of L, which takes longer
    # than P and is slow to sample.
    features = 8 * network.width + data.channels * (network.rank + 20 * network.neighbourhood)
    items = training.batch if network.latent else 1  # a bare model has one P for all images
    return training.steps * items * data.height * data.width * features


def in_turn(
    ordered: Sequence[Experiment], untrained: Collection[Experiment], threads: int
) -> Iterator[Experiment]:
    """Yield experiments in this order, but later where another is at their common pre-training.

    This is decided when the next is asked for, and `threads` are those of a worker. No worker ever
    waits: where nothing else is left to begin, the same pre-training is done twice.
    """
    shared = {e.name: store.pretraining_of(e, threads) for e in untrained}
    files = {name: pretraining.file for name, pretraining in shared.items() if pretraining}
    left, begun = list(ordered), set()
    while left:
        ready = (e for e in left if (file := files.get(e.name)) not in begun or file.exists())
        chosen = next(ready, left[0])
        left.remove(chosen)
        if chosen.name in files:
            begun.add(files[chosen.name])
        yield chosen


def prepare(
    experiment: Experiment,
    worker: Worker | None,
    weights: str,
    settings: Evaluation,
    measure: Callable = evaluation.load_or_measure,
) -> tuple[str, Exception | None]:
    """Train and measure one model; return its name and the error that stopped it, or None.

    With several processes the error is raised, because the others wait for this one and have to
    end too.
    """
    if worker is not None:
        worker.begin()
    progress.stand(worker.line if worker else 1, experiment.name)
    try:
        deadline.check()
        model = store.load_or_train(experiment, weights)
        deadline.check()
        measure(model, settings)
        if settings.png:
            evaluation.write_pngs(model, settings)
    except Exception as error:
        if distributed.world_size() > 1:
            raise
        return experiment.name, error
    finally:
        progress.stand()
    return experiment.name, None
