"""What was measured of models from several seeds: one released file for each model's name.

Several kinds of measurement are kept so: "observation", which `sos.analysis.evaluation` makes of
every model, "judges" and "split" of modules with such names, "components" of `regions`, "editing"
of `editing_study`, "defects" of `defects`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sos import profiles
from sos.analysis import defects, editing_study, evaluation, judges, regions, split
from sos.config import Evaluation, Experiment, Profile
from sos.system import paths
from sos.training import store

SECONDS = "training_seconds"  # in a record, beside what was measured
EVALUATIONS = paths.DATA / "evaluations"


class Measurement(NamedTuple):
    """Say how one kind of measurement is made and what its files are called."""

    prefix: str  # of the names of files
    cache_key: Callable[[store.Model, Evaluation], dict]
    load_or_measure: Callable[[store.Model, Evaluation], dict]


MEASUREMENTS = {
    "observation": Measurement("", evaluation.cache_key, evaluation.load_or_measure),
    "judges": Measurement("judges-", judges.cache_key, judges.load_or_measure),
    "split": Measurement("split-", split.cache_key, split.load_or_measure),
    "components": Measurement("components-", regions.cache_key, regions.load_or_measure),
    "editing": Measurement("editing-", editing_study.cache_key, editing_study.load_or_measure),
    "defects": Measurement("defects-", defects.cache_key, defects.load_or_measure),
}


def released_file(name: str) -> Path:
    """Return the file of a model's released measurements, for all seeds."""
    return EVALUATIONS / f"{name}.json"


def recorded(
    experiment: Experiment, settings: Evaluation, weights: str = "train", kind: str = "observation"
) -> dict | None:
    """Return what was measured of a training, or None where nothing was.

    With the `weights` "released" that is first of all what is released, and otherwise what was
    measured here. A training with other settings than today's counts as none.
    """
    if weights == "released":
        found = released(experiment, settings, kind)
        return _measured_here(experiment, settings, kind, weights) if found is None else found
    found = _measured_here(experiment, settings, kind, "train")
    return released(experiment, settings, kind) if found is None else found


def _measured_here(
    experiment: Experiment, settings: Evaluation, kind: str, weights: str
) -> dict | None:
    """Return what was measured here of a model, with its seconds of training, or None."""
    folder = store.find(experiment, weights)
    if folder is None:
        return None
    made, model = MEASUREMENTS[kind], store.load(experiment, folder)
    key = made.cache_key(model, settings)
    file = evaluation.cached_file(made.prefix + experiment.name, key)
    found = evaluation.measured(key, [file])
    return found and found | {SECONDS: model.meta["seconds"]}


def released(
    experiment: Experiment, settings: Evaluation, kind: str = "observation"
) -> dict | None:
    """Return what is released of a training, with its seconds."""
    file = released_file(MEASUREMENTS[kind].prefix + experiment.name)
    entries = json.loads(file.read_text()) if file.exists() else {}
    entry = entries.get(store.cache_key(experiment))
    more = {SECONDS: entry[SECONDS]} if entry and SECONDS in entry else {}
    return entry and entry["numbers"] | more


def of_all(
    experiment: Experiment,
    settings: Evaluation,
    weights: str = "train",
    most: int = 5,
    kind: str = "observation",
) -> list[dict]:
    """Return what is recorded of the seeds 0 to `most` - 1 of a model, in their order.

    Each is a dictionary, which also has the "seed". With the `weights` "released", those of a model
    of which any are released are these alone: what was measured here would be another sample.
    """
    every = {
        seed: replace(experiment, training=replace(experiment.training, seed=seed))
        for seed in range(most)
    }
    found = {}
    if weights == "released":
        found = {seed: released(one, settings, kind) for seed, one in every.items()}
    if not any(found.values()):
        found = {seed: recorded(one, settings, weights, kind) for seed, one in every.items()}
    return [{"seed": seed} | numbers for seed, numbers in found.items() if numbers is not None]


def records_of(profile: Profile, weights: str) -> Callable[[str, str], list[dict]]:
    """Return a function of a kind of measurement and a model's name that gives its records."""

    @cache
    def records(kind: str, name: str) -> list[dict]:
        experiment = profiles.experiment_named(profile, name)
        found = of_all(experiment, profile.evaluation, weights, kind=kind)
        if kind == "editing":  # has a number for each image
            return [{"seed": one["seed"]} | editing_study.means(one) for one in found]
        return found

    return records


def release(model: store.Model, settings: Evaluation, kind: str = "observation") -> None:
    """Add what was measured of a model, if it was, to the released file of its name."""
    made, experiment = MEASUREMENTS[kind], model.experiment
    name = made.prefix + experiment.name
    file, key = released_file(name), made.cache_key(model, settings)
    entries = json.loads(file.read_text()) if file.exists() else {}
    measured = evaluation.cached_file(name, key)
    if not measured.exists():  # killed before
        return
    content = json.loads(measured.read_text())
    content["seed"], content[SECONDS] = experiment.training.seed, model.meta["seconds"]
    entries[store.cache_key(experiment)] = content
    ordered = dict(sorted(entries.items(), key=lambda item: item[1]["seed"]))
    indent = 1 if kind == "observation" else None  # lists of one number for each image
    paths.write_text(file, json.dumps(ordered, indent=indent) + "\n")
