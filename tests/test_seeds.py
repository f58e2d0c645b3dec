"""Numbers of several seeds: what counts as recorded, and the verdicts of notebook 08."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sos import profiles
from sos.analysis import counterfactual, editing_study, seeds
from sos.figures import right_epsilon
from sos.figures.labels import LABELS
from sos.profiles import named
from sos.training import store

PROFILE = profiles.profile("demo")
EXPERIMENT = PROFILE.experiments["epsilon-gray-learnt"]
RELEASED = sorted(seeds.EVALUATIONS.glob("epsilon-*.json"))


def seeded(seed, **changes):
    training = replace(EXPERIMENT.training, seed=seed, **changes)
    return replace(EXPERIMENT, training=training)


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Write released numbers of some seeds, with nothing in the cache."""
    monkeypatch.setattr(seeds, "EVALUATIONS", tmp_path)
    monkeypatch.setattr(store, "CACHE", tmp_path / "models")

    def write(*numbers):
        entries = {
            store.cache_key(seeded(seed)): {"seed": seed, "numbers": {"elbo": 100.0 + seed}}
            for seed in numbers
        }
        seeds.released_file(EXPERIMENT.name).write_text(json.dumps(entries))

    return write


def test_seeds_that_were_measured_come_in_order(release):
    release(3, 0, 1)
    found = seeds.of_all(EXPERIMENT, PROFILE.evaluation)
    assert found == [{"seed": s, "elbo": 100.0 + s} for s in (0, 1, 3)]


def test_numbers_of_other_settings_count_as_none(release):
    release(0)
    other = replace(EXPERIMENT, training=replace(EXPERIMENT.training, steps=1010))
    assert seeds.of_all(other, PROFILE.evaluation) == []
    assert seeds.recorded(seeded(0), PROFILE.evaluation) == {"elbo": 100.0}


def test_nothing_measured_is_an_empty_list(release):
    assert seeds.of_all(EXPERIMENT, PROFILE.evaluation) == []


@pytest.mark.parametrize("released, weights, expected", [
    ((0, 1), "released", [0, 1]), ((0, 1), "train", [0, 1, 2]), ((), "released", [2]),
])  # fmt: skip
def test_a_release_is_not_mixed_with_what_was_measured_here(
    released, weights, expected, release, monkeypatch
):
    def measured_here(experiment, settings, kind, weights):
        return {"elbo": 5.0} if experiment.training.seed == 2 else None

    release(*released)
    monkeypatch.setattr(seeds, "_measured_here", measured_here)
    found = seeds.of_all(EXPERIMENT, PROFILE.evaluation, weights)
    assert [one["seed"] for one in found] == expected


@pytest.mark.parametrize("weights, expected", [("released", "release"), ("train", "cache")])
def test_what_was_measured_here_counts_unless_the_release_is_asked_for(
    weights, expected, monkeypatch
):
    for place, name in {"_measured_here": "cache", "released": "release"}.items():
        monkeypatch.setattr(seeds, place, lambda e, s, kind, *_, n=name: {"from": n})
    assert seeds.recorded(EXPERIMENT, PROFILE.evaluation, weights) == {"from": expected}


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: file.stem)
def test_released_numbers_belong_to_the_settings(file):
    """Every entry is of a seed of today's experiment, and no seed is there twice."""
    entries = json.loads(file.read_text())
    experiment = profiles.experiment_named(PROFILE, file.stem)
    found = [entry["seed"] for entry in entries.values()]
    assert found == sorted(set(found))
    for key, entry in entries.items():
        training = replace(experiment.training, seed=entry["seed"])
        assert key == store.cache_key(replace(experiment, training=training))
        assert entry["cache_key"]["images"] == 1000 and entry["training_seconds"] > 0
        assert np.isfinite(entry["numbers"]["elbo"])


EDITING = sorted(seeds.EVALUATIONS.glob("editing-epsilon-*.json"))


@pytest.mark.parametrize("file", EDITING, ids=lambda file: file.stem)
def test_released_numbers_of_editing_belong_to_the_settings(file):
    """And every list has a number for each image, whatever was measured."""
    entries = json.loads(file.read_text())
    experiment = PROFILE.experiments[file.stem.removeprefix("editing-")]
    data = experiment.data
    for key, entry in entries.items():
        training = replace(experiment.training, seed=entry["seed"])
        assert key == store.cache_key(replace(experiment, training=training))
        wanted = editing_study.data_key(data, PROFILE.evaluation)
        assert {name: entry["cache_key"][name] for name in wanted} == wanted
        for variant in entry["numbers"]["held out"].values():
            for ways in variant.values():
                for scores in ways.values():
                    assert {len(values) for values in scores.values()} == {editing_study.IMAGES}
        for variant in entry["numbers"]["edits"].values():
            assert set(variant["covariance"]) == set(counterfactual.FACTORS[data.name])
    seeds_there = [entry["seed"] for entry in entries.values()]
    assert seeds_there == list(range(len(entries)))
    assert len(seeds.of_all(experiment, PROFILE.evaluation, "released", kind="editing")) == len(
        entries
    )


def test_kinds_of_measurement_do_not_mix(release):
    release(0)
    assert seeds.of_all(EXPERIMENT, PROFILE.evaluation, kind="editing") == []
    file = seeds.released_file(f"editing-{EXPERIMENT.name}")
    file.write_text(json.dumps({store.cache_key(seeded(0)): {"numbers": {"edits": 1}}}))
    found = seeds.of_all(EXPERIMENT, PROFILE.evaluation, kind="editing")
    assert found == [{"seed": 0, "edits": 1}]
    assert seeds.of_all(EXPERIMENT, PROFILE.evaluation) == [{"seed": 0, "elbo": 100.0}]


def test_released_weights_have_their_released_numbers():
    for name in ("epsilon-faces-learnt", "epsilon-gray-paper"):
        folder = store.find(PROFILE.experiments[name], "released")
        first = json.loads(seeds.released_file(name).read_text())
        entry = first[store.cache_key(PROFILE.experiments[name])]
        assert json.loads((folder / "evaluation.json").read_text())["numbers"] == entry["numbers"]


@pytest.mark.parametrize("data", LABELS)
@pytest.mark.parametrize("kind", ["sigma", "sparse", "hybrid", "beta", "image", "diagonal"])
def test_all_have_the_same_helps_and_budget(data, kind):
    """They go on from one pre-training, with one objective, and differ in the covariance alone."""
    ours, theirs = (PROFILE.experiments[f"epsilon-{data}-{name}"] for name in ("learnt", kind))
    assert theirs == replace(ours, name=theirs.name, network=theirs.network)
    fields = ("rank", "diagonal", "neighbourhood")
    same = {field: getattr(ours.network, field) for field in fields}
    assert replace(theirs.network, **same) == ours.network != theirs.network
    assert store.pretraining_of(ours) == store.pretraining_of(theirs)


def test_a_name_is_that_model_alone_and_a_beginning_is_all_that_begin_so():
    experiments = PROFILE.experiments
    assert [e.name for e in named(experiments, ["epsilon-faces-sparse"])] == [
        "epsilon-faces-sparse"
    ]
    assert len(named(experiments, ["epsilon-faces-sparse-"])) == 2
    assert len(named(experiments, ["epsilon-gray"])) == 10 and not named(experiments, ["nobody"])


# ------------------------------------------------------------------------------ verdicts


SHARES = {"variance_latent": 0.2, "variance_factor": 0.5, "variance_noise": 0.1}


def records(elbos, **more):
    return [{"seed": s, "elbo": float(e)} | more for s, e in enumerate(elbos)]


@pytest.mark.parametrize("ours, theirs, word", [
    ([5, 6, 7], [1, 2, 3], "met in 3 seeds (+4 to +4)"),
    ([1, 2, 3], [5, 6, 9], "failed in 3 seeds (−6 to −4)"),
    ([5, 6, 1], [1, 2, 3], "undecided in 3 seeds (−2 to +4)"),
    ([5], [1], "one seed (+4)"),
    ([], [1], None),
])  # fmt: skip
def test_verdicts_need_all_seeds(ours, theirs, word):
    found = right_epsilon.differences(records(ours), records(theirs))
    assert right_epsilon._verdict(found) == word


def test_seeds_are_compared_with_themselves():
    ours, theirs = records([5, 6, 7]), records([1, 2, 3])[1:]
    assert right_epsilon.differences(ours, theirs).tolist() == [4, 4]


def test_criteria_of_no_records_are_not_run():
    kinds = dict.fromkeys(right_epsilon.EPSILON, [])
    verdicts = right_epsilon.criteria(kinds, {}, 25)
    assert set(verdicts.values()) == {None}


def test_components_outside_of_the_limits_fail():
    good, bad = [1.0, 0.8, 1.3], [1.0, 0.5, 1.3]
    kinds = {k: [] for k in right_epsilon.EPSILON}
    for squares, word in (([good] * 2, "met"), ([bad] * 2, "failed"), ([good, bad], "undecided")):
        kinds["learnt"] = records([1.0] * 2, **SHARES)
        for record, square in zip(kinds["learnt"], squares, strict=True):
            record["components"] = square
        found = right_epsilon.criteria(kinds, {}, 3)["3. every component within 0.7 to 1.4"]
        assert found.startswith(word)


def test_a_training_that_exploded_does_not_count_as_one_that_trains():
    kinds = {k: [] for k in right_epsilon.EPSILON}
    kinds["learnt"] = records([1.0, 1.0], **SHARES)
    kinds["learnt"][1] |= {"variance_factor": 4.0}
    assert right_epsilon.criteria(kinds, {}, 3)["1. trains without constraint"] == "1 of 5"


def test_spread_is_the_mean_and_the_range():
    assert right_epsilon.spread(records([1, -2, 4]), "elbo") == "1 (−2 to 4)"
    assert right_epsilon.spread(records([2]), "elbo", 1) == "2.0"
    assert right_epsilon.spread([], "elbo") is None


@pytest.mark.parametrize("draw", ["grid", "components", "densities", "distances", "remaining"])
def test_figures_can_be_drawn_where_little_was_measured(draw):
    """In profiles that nobody has released numbers for, most models have none."""
    some = [{"seed": 0, "elbo": 10.0, "epsilon": 0.01, "bits": 5.0, "components": [1.0, 0.9],
             "pit": [0.5, 0.5], "distance_means": 3.0}]  # fmt: skip
    kinds = {"learnt": some, "paper": [], "sigma": []}
    arguments = {
        "grid": ({1e-3: [], 1e-1: some}, some, []),
        "components": ({"faces": kinds},),
        "densities": ({"faces": kinds}, {"faces": {"PPCA, R = 2": {"density": 9.0}}}),
        "distances": ({"faces": kinds},),
        "remaining": (kinds,),
    }[draw]
    figure = getattr(right_epsilon, draw)(*arguments)
    figure.draw_without_rendering()
    assert figure.axes
