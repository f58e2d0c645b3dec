"""What was measured of models from several seeds: one released file for each model's name."""

import json
from dataclasses import replace
from pathlib import Path

from sos.analysis import evaluation
from sos.config import Evaluation, Experiment
from sos.system import paths
from sos.training import store

EVALUATIONS = paths.DATA / "evaluations"


def released_file(name: str) -> Path:
    """Return the file of a model's released measurements, for all seeds."""
    return EVALUATIONS / f"{name}.json"


def recorded(experiment: Experiment, settings: Evaluation, weights: str = "train") -> dict | None:
    """Return what was measured of a training, or None where nothing was.

    With the `weights` "released" that is first of all what is released, and otherwise what was
    measured here. A training with other settings than today's counts as none.
    """
    places = (released, _cached) if weights == "released" else (_cached, released)
    found = (place(experiment, settings) for place in places)
    return next((numbers for numbers in found if numbers is not None), None)


def _cached(experiment: Experiment, settings: Evaluation) -> dict | None:
    """Return what was measured of a model in the cache."""
    folder = store.find(experiment, "train")
    if folder is None:
        return None
    key = evaluation.cache_key(store.load(experiment, folder), settings)
    return evaluation.measured(key, [evaluation.cached_file(experiment.name, key)])


def released(experiment: Experiment, settings: Evaluation) -> dict | None:
    """Return what is released of a training."""
    file = released_file(experiment.name)
    entries = json.loads(file.read_text()) if file.exists() else {}
    entry = entries.get(store.cache_key(experiment))
    return entry and entry["numbers"]


def of_all(
    experiment: Experiment, settings: Evaluation, weights: str = "train", most: int = 5
) -> list[dict]:
    """Return what is recorded of the seeds 0 to `most` - 1 of a model, in their order.

    Each is a dictionary, which also has the "seed".
    """
    found = []
    for seed in range(most):
        training = replace(experiment.training, seed=seed)
        numbers = recorded(replace(experiment, training=training), settings, weights)
        if numbers is not None:
            found.append({"seed": seed} | numbers)
    return found


def release(model: store.Model, settings: Evaluation) -> None:
    """Add what was measured of a model, if it was, to the released file of its name."""
    file, experiment = released_file(model.experiment.name), model.experiment
    entries = json.loads(file.read_text()) if file.exists() else {}
    key = evaluation.cache_key(model, settings)
    measured = evaluation.cached_file(experiment.name, key)
    if not measured.exists():  # killed before
        return
    content = json.loads(measured.read_text())
    content["seed"], content["training_seconds"] = experiment.training.seed, model.meta["seconds"]
    entries[store.cache_key(experiment)] = content
    ordered = dict(sorted(entries.items(), key=lambda item: item[1]["seed"]))
    paths.write_text(file, json.dumps(ordered, indent=1, sort_keys=False) + "\n")
