"""Train and measure models from several seeds, and release what was measured of them.

The weights of all seeds but 0 stay in the cache: notebooks show their numbers alone. A model that
is measured already is not trained again, so that a run can be stopped and goes on.

python -m sos.run.seeds epsilon-faces-learnt epsilon-gray --seeds 5
python -m sos.run.seeds epsilon-brains-learnt --seeds 5 --measure editing
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace

from sos import profiles
from sos.analysis import seeds
from sos.config import Experiment
from sos.run.prepare import prepare_all
from sos.training import store


def main() -> None:
    """Train and measure the seeds of models, and release what is measured of the demo's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", help="names, or beginnings such as epsilon-faces")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (5)")
    parser.add_argument("--profile", choices=tuple(profiles.PROFILES), default="demo")
    kinds = tuple(seeds.MEASUREMENTS)
    parser.add_argument("--measure", choices=kinds, default=kinds[0], help=f"({kinds[0]})")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}: give how many seeds to train, at least 1")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    profile = profiles.profile(args.profile)
    chosen = named(profile.experiments, args.names)
    if not chosen:
        parser.error(f"no model is called {' or '.join(args.names)}; see sos/profiles.py")
    for seed in range(args.seeds):
        experiments = [replace(e, training=replace(e.training, seed=seed)) for e in chosen]
        wanted = profile.evaluation, "train", args.measure
        missing = [e for e in experiments if seeds.recorded(e, *wanted) is None]
        measure = seeds.MEASUREMENTS[args.measure].load_or_measure
        errors = prepare_all(missing, "train", profile.evaluation, logging.info, measure)
        for name, error in errors.items():
            logging.error("%s, seed %d: %s", name, seed, error)
        if args.profile == "demo":
            # What is released stays, as released weights do; delete its entry to renew it.
            found = (e for e in experiments if store.find(e, "train") is not None)
            for experiment in found:
                if seeds.released(experiment, profile.evaluation, args.measure) is None:
                    model = store.load_or_train(experiment, "train")
                    seeds.release(model, profile.evaluation, args.measure)


def named(experiments: dict[str, Experiment], words: Sequence[str]) -> list[Experiment]:
    """Return the experiments with these names; a word that is no name is a beginning of names."""
    whole = {word for word in words if word in experiments}
    begun = tuple(word for word in words if word not in experiments)
    return [e for name, e in experiments.items() if name in whole or name.startswith(begun)]


if __name__ == "__main__":
    main()
