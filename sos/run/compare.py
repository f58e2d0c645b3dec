"""Show what one changed thing did: the numbers of both models beside each other."""

import argparse

from sos import profiles
from sos.analysis import evaluation, seeds
from sos.config import Evaluation, Experiment
from sos.figures.tables import markdown_table, number
from sos.run.options import images
from sos.system import paths
from sos.training import store

SEEDS = 5  # at most, of the spread beside the numbers


def print_comparison(args: argparse.Namespace) -> None:
    """Print a table for each changed model, and write them to comparison.md beside the figures."""
    base = profiles.profile(args.base, images(args))
    here, parts = profiles.profile(args.profile, images(args)), []
    for name, experiment in here.experiments.items():
        before = base.experiments[name]
        if experiment != before:
            parts.append(compared(before, experiment, base.evaluation, args.profile))
    text = "\n".join(parts)
    file = paths.FIGURES / args.profile / "comparison.md"
    paths.write_text(file, text)
    print(f"\n{text}\nalso in {file}")


def compared(before: Experiment, after: Experiment, settings: Evaluation, title: str) -> str:
    """Return a table of all numbers of a model before and after a change, in Markdown."""
    old, new = (profiles.settings(e) for e in (before, after))
    changes = ", ".join(f"{k} = {new[k]} instead of {old[k]}" for k in new if new[k] != old[k])
    one, other = measured(before, settings), measured(after, settings)
    others = seeds.of_all(before, settings, "released", SEEDS, "judges")
    spread = len(others) > 1
    header = ["", before.name, title, *([f"range of {len(others)} seeds before"] * spread)]
    rows = []
    for key in dict.fromkeys([*one, *other]):
        values = one.get(key), other.get(key)
        if any(isinstance(value, (list, str)) for value in values):
            continue
        found = [seed[key] for seed in others if key in seed]
        ends = f"{number(min(found), 4)} to {number(max(found), 4)}" if found else "not run"
        cells = ["not run" if value is None else number(value, 4) for value in values]
        rows.append([key.replace("_", " "), *cells, *([ends] * spread)])
    note = "One training of each: what differs by less than seeds do says nothing.\n"
    return f"{after.name}: {changes}\n\n{markdown_table(header, rows)}\n{note}"


def measured(experiment: Experiment, settings: Evaluation) -> dict:
    """Return what is known of a model that is at hand, with its seconds of training, or nothing."""
    folder = store.find(experiment)
    if folder is None:
        return {}
    model = store.load(experiment, folder)
    key = evaluation.cache_key(model, settings)
    files = folder / "evaluation.json", evaluation.cached_file(experiment.name, key)
    numbers = evaluation.measured(key, files) or {}
    return numbers | {"seconds_of_training": model.meta["seconds"]}
