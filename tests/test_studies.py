"""Studies: what they train, how they stop and go on, and how one thing is changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sos import profiles
from sos.analysis import judges, seeds, split
from sos.run import compare, options, runner, study
from sos.system import deadline, paths
from sos.training import store

SMOKE = profiles.profile("smoke")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache, figures and records of their own."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paths, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(store, "CACHE", tmp_path / "cache" / "models")
    monkeypatch.setattr(seeds, "EVALUATIONS", tmp_path / "evaluations")
    monkeypatch.delenv(deadline.VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", profiles.STUDIES)
def test_trainings_of_a_study_are_distinct_and_go_seed_by_seed(name):
    chosen = profiles.STUDIES[name]
    made = list(profiles.trainings(chosen, profiles.profile("demo")))
    assert len({store.cache_key(e) for e in made}) == len(made) > 0
    groups = list(study.by_seed(made))
    assert [group[0].training.seed for group in groups] == list(range(chosen.seeds))
    assert all(len({e.name for e in group}) == len(group) for group in groups)
    assert chosen.measure in seeds.MEASUREMENTS


def test_a_training_without_changes_is_the_model_itself():
    """So that studies and notebooks share trainings."""
    model = SMOKE.experiments["epsilon-faces-learnt"]
    assert profiles.variant(model, {"rank": model.network.rank}) == model
    other = profiles.variant(model, {"rank": 3, "kl_target": None})
    assert other.name == "epsilon-faces-learnt.rank=3" and other.network.rank == 3


@pytest.mark.parametrize("name", profiles.STUDIES)
def test_names_of_trainings_can_be_read_back(name):
    demo = profiles.profile("demo")
    for made in profiles.trainings(profiles.STUDIES[name], demo):
        if made.training.seed == 0:
            assert profiles.experiment_named(demo, made.name) == made


def test_changes_reach_network_objective_and_training():
    model = SMOKE.experiments["faces-sos"]
    changes = {"rank": 3, "kl_target": None, "steps": 50, "diagonal": "shared", "damping": 3}
    found = profiles.settings(profiles.changed(model, changes))
    assert {name: found[name] for name in changes} == changes
    assert {k: v for k, v in profiles.settings(model).items() if k not in changes} == {
        k: v for k, v in found.items() if k not in changes
    }


@pytest.mark.parametrize("changes, message", [
    ({"rnk": 3}, "'rnk' is no setting of a model; there are width, latent, rank"),
    ({"rank": "five"}, "rank is 'five'; expected a whole number"),
    ({"rank": 2.5}, "rank is 2.5; expected a whole number"),
    ({"rank": True}, "expected a whole number"),
    ({"diagonal": "mine"}, "expected a number or 'shared' or 'image' or none"),
    ({"decay": 1}, "decay is 1; expected true or false"),
])  # fmt: skip
def test_changes_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        profiles.changed(SMOKE.experiments["faces-sos"], changes)


def test_a_study_stops_in_time_and_goes_on(home, monkeypatch, capsys):
    """Nothing that is measured is made again, and an exit status tells what is left."""
    two = replace(profiles.STUDIES["rank"], seeds=1, changes={"rank": (0, 5)}, measure="split")
    monkeypatch.setitem(profiles.STUDIES, "rank", two)
    monkeypatch.setattr("sos.run.prepare.at_once", lambda tasks: 1)
    command = ["--profile", "smoke", "--study", "rank"]
    late = options.arguments([*command, "--minutes", "1e-9"])
    monkeypatch.setenv(deadline.VARIABLE, "inf")  # restored at the end
    assert runner.work(late) == deadline.EXIT_STATUS
    assert "0 of 2 trainings" in capsys.readouterr().out
    monkeypatch.setenv(deadline.VARIABLE, "inf")
    assert runner.work(options.arguments(command)) == 0
    assert "2 of 2 trainings" in capsys.readouterr().out
    monkeypatch.setattr(store, "load_or_train", None)  # whatever would train now fails
    assert runner.work(options.arguments(command)) == 0
    records = seeds.of_all(SMOKE.experiments["epsilon-faces-learnt"], SMOKE.evaluation,
                           kind="split")  # fmt: skip
    assert [record["seed"] for record in records] == [0]


def test_a_run_of_notebooks_stops_in_time_and_executes_none(home, monkeypatch, capsys):
    monkeypatch.setattr("sos.run.prepare.at_once", lambda tasks: 1)
    monkeypatch.setenv(deadline.VARIABLE, "inf")  # restored at the end
    command = ["--profile", "smoke", "--only", "03", "--minutes", "1e-9"]
    assert runner.work(options.arguments(command)) == deadline.EXIT_STATUS
    printed = capsys.readouterr()
    assert "the same command goes on" in printed.out and "OutOfTime" not in printed.err
    assert not list(paths.EXECUTED.rglob("*.ipynb"))


def test_a_training_whose_time_is_over_goes_on_to_the_same_weights(home, monkeypatch):
    experiment = SMOKE.experiments["faces-sos"]
    whole = store.load_or_train(experiment, "train").meta["weights_sha256"]
    for folder in ("models", "pretraining"):
        for place in (paths.CACHE / folder).iterdir():
            place.rename(place.with_name(f"{place.name}.old"))
    passed = iter([False, False, True])  # after 10, 20 and 30 steps
    monkeypatch.setattr(deadline, "passed", lambda: next(passed, False))
    monkeypatch.setattr(deadline, "check", lambda: (_ for _ in ()).throw(deadline.OutOfTime()))
    with pytest.raises(deadline.OutOfTime):
        store.load_or_train(experiment, "train")
    assert store.steps_done(experiment, "train") == 30
    assert store.load_or_train(experiment, "train").meta["weights_sha256"] == whole


def test_records_say_where_they_come_from(home):
    experiment = SMOKE.experiments["faces-beta"]
    model = store.load_or_train(experiment, "train")
    judges.load_or_measure(model, SMOKE.evaluation)
    seeds.release(model, SMOKE.evaluation, "judges")
    entries = json.loads(seeds.released_file("judges-faces-beta").read_text())
    entry = entries[store.cache_key(experiment)]
    assert entry["seed"] == 0 and entry["training_seconds"] > 0 and entry["torch"]
    assert {"commit", "device", "threads"} <= entry.keys()
    assert entry["cache_key"]["weights_sha256"] == model.meta["weights_sha256"]
    kinds = {name.rpartition("_")[2] for name in entry["numbers"] if name.startswith("precision")}
    assert kinds == {"means", "samples"}


def test_judges_and_evaluations_agree_on_the_distance(home):
    from sos.analysis import evaluation

    model = store.load_or_train(SMOKE.experiments["faces-sos"], "train")
    ours = judges.load_or_measure(model, SMOKE.evaluation)
    theirs = evaluation.load_or_measure(model, SMOKE.evaluation)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-6), name


def test_factors_are_read_from_the_part_that_has_them():
    """One factor is in the first picture, one in the second, one in both by halves, one nowhere."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((400, 4))
    noise = 0.1 * rng.standard_normal((400, 4))
    first = torch.from_numpy(np.outer(factors[:, 0], np.ones(20)) + 0.1)
    second = torch.from_numpy(np.outer(factors[:, 1], np.linspace(0, 1, 20)))
    shared = np.stack([factors[:, 2] + noise[:, 0], factors[:, 2] - noise[:, 0]])
    first[:, :3] = torch.from_numpy(shared[0])[:, None]
    second[:, :3] = torch.from_numpy(shared[1])[:, None]
    alone = split.factor_shares([first], factors)
    both = split.factor_shares([first, second], factors)
    assert alone[0] > 0.99 and alone[1] < 0.05 and alone[2] == pytest.approx(0.99, abs=0.01)
    assert both[1] > 0.99 and both[2] > 0.999 and both[3] < 0.05
    assert (split.factor_shares([torch.zeros(400, 20)], factors) == 0).all()


@pytest.mark.parametrize("words, message", [
    (["--set", "faces-sos.rank=5"], "go together"),
    (["--name", "rank5"], "go together"),
    (["--set", "faces-sos.rank", "--name", "a"], "expected MODEL.SETTING=VALUE"),
    (["--set", "faces.rank=5", "--name", "a"], "there is no model 'faces'"),
    (["--set", "faces-sos.rnk=5", "--name", "a"], "'rnk' is no setting"),
    (["--set", "faces-sos.rank=5", "--name", "../a"], "use letters"),
    (["--set", "gray-sos.rank=5", "--name", "a", "--only", "01"], "no notebook that is run shows"),
    (["--study", "rank", "--only", "01"], "leave out --only"),
    (["--study", "rank", "--set", "faces-sos.rank=5", "--name", "a"], "leave out --set, --name"),
    (["--study", "rank", "--minutes", "-1"], "above zero"),
    (["--only", "01", "--minutes", "0"], "above zero"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_with_advice(words, message, home, capsys):
    with pytest.raises(SystemExit):
        options.arguments(words)
    assert message in capsys.readouterr().err


def test_a_changed_profile_has_its_own_name_and_keeps_its_changes(home, capsys):
    words = ["--profile", "smoke", "--set", "faces-sos.rank=3", "faces-sos.kl_target=none"]
    args = options.arguments([*words, "--name", "small"])
    assert (args.profile, args.base, args.weights) == ("smoke.small", "smoke", "released")
    assert args.only == ["01", "03", "04", "05"]  # those that show the model
    found = profiles.profile("smoke.small").experiments
    assert found["faces-sos"].network.rank == 3 and found["faces-sos"].objective.kl_target is None
    assert found | {"faces-sos": None} == SMOKE.experiments | {"faces-sos": None}
    other = ["--profile", "smoke", "--set", "faces-sos.rank=4", "--name", "small"]
    options.arguments(other)  # nothing was made yet
    options.arguments([*words, "--name", "small"])
    (paths.FIGURES / "smoke.small").mkdir(parents=True)
    with pytest.raises(SystemExit):
        options.arguments(other)
    assert "smoke.small has results of other changes" in capsys.readouterr().err
    assert profiles.profile("smoke.small").experiments["faces-sos"].network.rank == 3
    with pytest.raises(ValueError, match="expected one of smoke"):
        profiles.profile("smoke.other")


def test_a_change_is_compared_with_what_it_changed(home):
    before = SMOKE.experiments["faces-sos"]
    after = profiles.changed(before, {"rank": 3})
    from sos.analysis import evaluation

    for experiment in (before, after):
        evaluation.load_or_measure(store.load_or_train(experiment), SMOKE.evaluation)
    text = compare.compared(before, after, SMOKE.evaluation, "smoke.rank3")
    assert text.startswith("faces-sos: rank = 3 instead of 5")
    assert "| distance samples |" in text and "not run" not in text
    missing = profiles.changed(before, {"rank": 4})
    assert "not run" in compare.compared(before, missing, SMOKE.evaluation, "smoke.rank4")
