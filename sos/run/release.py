"""Copy, for maintainers, models that notebooks load, and their evaluations, to data/models/.

What is released for a configuration stays. Delete its folder there to renew it. The distances of
notebook 06's references, once they are measured, go beside the weights of "bare-paper", and the
controls of notebooks 08, 09 and 12 to data/evaluations/. Weights of solar cells are not released.

python -m sos.run.release
"""

import shutil
from pathlib import Path

from sos import profiles
from sos.analysis import controls, defects, editing_study, evaluation, judges
from sos.analysis.seeds import released_file
from sos.figures.labels import LABELS
from sos.run.catalogue import NOTEBOOKS
from sos.system import paths
from sos.training import store


def main() -> None:
    """Copy the demo's models that are not released yet, with evaluations, to data/models/."""
    profile = profiles.profile("demo")
    for experiment in (profile.experiments[n] for book in NOTEBOOKS for n in book.experiments):
        target = paths.RELEASED / store.cache_key(experiment)
        if target.exists() or experiment.data.name == "cells":  # whose images have other terms
            continue
        model = store.load_or_train(experiment, "train")
        evaluation.load_or_measure(model, profile.evaluation)
        key = evaluation.cache_key(model, profile.evaluation)
        with paths.replacing(target) as temporary:
            shutil.copytree(model.folder, temporary)
            made = evaluation.cached_file(experiment.name, key)
            shutil.copyfile(made, temporary / "evaluation.json")
            for older in paths.RELEASED.glob(f"{experiment.name}-*"):
                shutil.rmtree(older)
        print(target)
    model = store.load_or_train(profile.experiments["bare-paper"], "released")
    for name in evaluation.REFERENCES:
        key = evaluation.reference_key(name, model, profile.evaluation)
        release(name, key, evaluation.reference_file(name, model))
    for data, model in {"faces": "faces-sos", "brains": "brains-sos", "gray": "gray-sos"}.items():
        name, settings = f"judges-real-{data}", profile.evaluation
        key = judges.real_key(profile.experiments[model].data, settings)
        release(name, key, released_file(name))
    for data in LABELS:
        name, experiment = f"controls-{data}", profile.experiments[f"epsilon-{data}-learnt"]
        key = controls.cache_key(experiment.data, profile.evaluation)
        release(name, key, released_file(name))
        if experiment.name in profiles.STUDIES["rank"].models:
            ranks = profiles.STUDIES["rank"].changes["rank"]
            key = controls.ranks_key(experiment.data, profile.evaluation, ranks)
            release(f"controls-ranks-{data}", key, released_file(f"controls-ranks-{data}"))
        key = editing_study.data_key(experiment.data, profile.evaluation)
        release(f"editing-{name}", key, released_file(f"editing-{name}"))
    data = profile.experiments["cells-learnt"].data
    keys = {
        "controls-cells": controls.cache_key(data, profile.evaluation),
        "defects-controls": defects.controls_key(data),
    }
    for name, key in keys.items():
        release(name, key, released_file(name))


def release(name: str, key: dict, target: Path) -> None:
    """Copy measurements from the cache, if they are there and not released yet."""
    made = evaluation.cached_file(name, key)
    if evaluation.measured(key, [target]) is None and made.exists():
        with paths.replacing(target) as temporary:
            shutil.copyfile(made, temporary)
        print(target)


if __name__ == "__main__":
    main()
