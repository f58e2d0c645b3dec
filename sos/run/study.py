"""Train and measure what a study compares, and keep one small record of each training.

The weights of these trainings stay in the cache: notebooks read the records alone, which are
released in data/evaluations/. What is recorded is not made again, so that a study can be stopped at
any moment and goes on.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator
from itertools import groupby

from sos import profiles
from sos.config import Evaluation, Experiment, Study
from sos.system import deadline


def run(args: argparse.Namespace) -> int:
    """Do what is missing of args.study; return the exit status."""
    study, profile = profiles.STUDIES[args.study], profiles.profile(args.profile)
    every = list(profiles.trainings(study, profile))
    left = every if args.fresh else missing(every, study, profile.evaluation)
    print(f"study {args.study}: {study.asks}")
    print(f"{len(every)} trainings, of which {len(every) - len(left)} are measured")
    if left and args.profile != "smoke":
        print(needed(left))
    if args.dry_run:
        return 0
    failed = False
    for name, error in perform(left, study, profile.evaluation, args.fresh):
        failed = True
        print(f"{name}: {type(error).__name__}: {error}")
    if args.write:
        release(every, study, profile.evaluation)
    lacking = len(missing(every, study, profile.evaluation))
    print(f"study {args.study}: {len(every) - lacking} of {len(every)} trainings are measured")
    if lacking and deadline.passed():
        print(f"stopped after {args.minutes:g} minutes; the same command goes on from here")
        return deadline.EXIT_STATUS
    return 1 if failed or lacking else 0


def missing(
    trainings: Iterable[Experiment], study: Study, settings: Evaluation
) -> list[Experiment]:
    """Return the trainings of which nothing is recorded."""
    from sos.analysis import seeds  # the options' listing needs no packages

    known = (e for e in trainings if not seeds.recorded(e, settings, "released", study.measure))
    return list(known)


def by_seed(trainings: Iterable[Experiment]) -> Iterator[list[Experiment]]:
    """Yield the trainings of each seed, in which names are unique."""
    for _, group in groupby(trainings, lambda e: e.training.seed):
        yield list(group)


def needed(left: list[Experiment]) -> str:
    """Say how long the trainings take, estimated from timings of those of one seed."""
    from sos.run import plan
    from sos.training import store

    sample = max(by_seed(left), key=len)
    untrained = [e for e in sample if store.find(e) is None]
    if not untrained:
        return "all of them are trained, and have to be measured"
    seconds = plan.estimate(sample, untrained, 0.0).total
    if seconds is None:
        return "how long that takes on this device is not known"
    return f"about {plan.clock(seconds * len(left) / len(sample))} on this machine as it is now"


def perform(
    left: list[Experiment], study: Study, settings: Evaluation, fresh: bool
) -> Iterator[tuple[str, Exception]]:
    """Train and measure until the time is over; yield what failed, with its seed, and why."""
    from sos.analysis import seeds
    from sos.run.prepare import prepare_all
    from sos.system.progress import tqdm

    measure = seeds.MEASUREMENTS[study.measure].load_or_measure
    weights = "fresh" if fresh else "released"

    def finished(_) -> None:
        if not deadline.passed():
            bar.update()

    with tqdm(total=len(left), desc="study", unit="training") as bar:
        for group in by_seed(left):
            if deadline.passed():
                return
            errors = prepare_all(group, weights, settings, finished, measure)
            for name, error in errors.items():
                if not isinstance(error, deadline.OutOfTime):
                    yield f"{name}, seed {group[0].training.seed}", error


def release(every: list[Experiment], study: Study, settings: Evaluation) -> None:
    """Add what was measured to the released records; what is released stays."""
    from sos.analysis import seeds
    from sos.training import store

    for experiment in every:
        if seeds.released(experiment, settings, study.measure) is None:
            folder = store.find(experiment)
            if folder is None:
                logging.warning("%s was not trained", experiment.name)
                continue
            seeds.release(store.load(experiment, folder), settings, study.measure)
