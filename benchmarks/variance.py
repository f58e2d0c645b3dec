"""The combinations of notebook 07 at the paper's learning rate and number of steps.

    python benchmarks/variance.py [--steps 28000] [--only fixed-pretrained none ...] [--jobs 8]
                                  [--seconds 3600]

A combination has the name of its experiment without "variance-": the remedies that are on, "fixed",
"constrained" and "pretrained", or "none". Network, data and constraints are the demo's, but Adam
has a rate of 1e-4 throughout, and there are 28,000 steps. Writes variance.json: the variance,
entropy and multipliers of every hundredth step.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from joblib import Parallel, delayed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos import config, datasets, profiles
from sos.system import paths
from sos.training import loop, store  # noqa: E402

PREFIX = "variance-"  # of the experiments' names
CHUNK = 4000  # steps between looks at the clock
KEPT = ("step", "variance", "rank_entropy_nats", "rank_entropy_multiplier", "squared_error",
        "nll_nats", "kl_nats")  # fmt: skip


def trained(experiment: config.Experiment, until: float) -> dict:
    """The training as far as it gets before the time `until`."""
    torch.set_num_threads(1)
    images = torch.tensor(datasets.load_split(experiment.data, "train").images)
    steps, schedule = experiment.training.steps, experiment.training
    with tempfile.TemporaryDirectory() as folder:
        for stop in [*range(CHUNK, steps, CHUNK), steps]:
            part = replace(experiment, training=replace(schedule, steps=stop))
            run = loop.train(part, images, Path(folder, "checkpoint.pt"))
            if run.stopped or time.time() > until:
                break
    kept = [row for row in run.history if row["step"] % 100 == 0 or run.step < 1000]
    rows = [{name: float(f"{row[name]:.5g}") for name in KEPT} for row in kept]
    return {"stopped": run.stopped, "seconds": round(run.seconds, 1), "history": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=28_000)
    parser.add_argument("--only", nargs="+", help="combinations, as fixed-pretrained or none")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1e9, help="after which trainings end")
    parser.add_argument("--out", type=Path, default=paths.ROOT / "benchmarks")
    chosen = parser.parse_args()
    until = time.time() + chosen.seconds
    experiments = profiles.PROFILES["demo"].experiments
    names = [n.removeprefix(PREFIX) for n in experiments if n.startswith(PREFIX)][:8]
    runs = {}
    for kind in chosen.only or names:
        e = experiments[PREFIX + kind]
        schedule = {
            "steps": chosen.steps,
            "pretraining": e.training.pretraining and chosen.steps * 3 // 100,  # 3 of 100 epochs
            "learning_rate": 1e-4,
        }
        runs[kind] = replace(e, training=replace(e.training, **schedule))
    images = datasets.load_split(next(iter(runs.values())).data, "train").images
    found = Parallel(n_jobs=chosen.jobs)(delayed(trained)(e, until) for e in runs.values())
    content = {
        **store.machine(),
        "steps": chosen.steps,
        "data_variance": float((images / 255.0).var(0).mean()),
        "runs": dict(zip(runs, found, strict=True)),
    }
    paths.write_text(chosen.out / "variance.json", json.dumps(content) + "\n")
    for name, run in content["runs"].items():
        last = run["history"][-1]
        print(f"{name:<28} {run['seconds']:>7.1f} s, {last['step']:.0f} steps, variance "
              f"{last['variance']:.4g}")  # fmt: skip


if __name__ == "__main__":
    main()
