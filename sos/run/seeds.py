"""Train and measure models from several seeds, and release what was measured of them.

The weights of all seeds but 0 stay in the cache: notebooks show their numbers alone. A model that
is measured already is not trained again, so that a run can be stopped and goes on.

python -m sos.run.seeds epsilon-faces-learnt epsilon-gray --seeds 5
"""

import argparse
import logging
from dataclasses import replace

from sos import profiles
from sos.analysis import seeds
from sos.run.prepare import prepare_all
from sos.training import store


def main() -> None:
    """Train, measure and release the seeds of the demo's models whose names begin so."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", help="beginnings of names, such as epsilon-faces")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (5)")
    parser.add_argument("--profile", choices=tuple(profiles.PROFILES), default="demo")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    profile = profiles.profile(args.profile)
    chosen = [e for n, e in profile.experiments.items() if n.startswith(tuple(args.names))]
    if not chosen:
        parser.error(f"no model is called {' or '.join(args.names)}; see sos/profiles.py")
    for seed in range(args.seeds):
        experiments = [replace(e, training=replace(e.training, seed=seed)) for e in chosen]
        missing = [e for e in experiments if seeds.recorded(e, profile.evaluation) is None]
        errors = prepare_all(missing, "train", profile.evaluation, logging.info)
        for name, error in errors.items():
            logging.error("%s, seed %d: %s", name, seed, error)
        for experiment in missing:
            if experiment.name not in errors and args.profile == "demo":
                model = store.load_or_train(experiment, "train")
                seeds.release(model, profile.evaluation)


if __name__ == "__main__":
    main()
