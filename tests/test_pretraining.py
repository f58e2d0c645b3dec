"""Pre-training in common: the same bits as alone, and nothing shared that is not the same."""

import io
import logging
import math
import shutil

import pytest
import torch
from test_models import experiment, fields, isolate, other
from test_training import Killed, assert_same_run, fail_at, interrupt

from sos import profiles
from sos.run import plan, prepare, workers
from sos.system import devices, distributed, paths
from sos.training import loop, pretraining, store, watch

SMOKE = profiles.PROFILES["smoke"].experiments


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Folders of its own; the kernels are the usual ones."""
    isolate(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """For trainings of a few steps: rows of the history and checkpoints every other step."""
    monkeypatch.setattr(watch, "LOG_EVERY", 2)
    monkeypatch.setattr(watch, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(watch, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


@pytest.fixture
def steps(monkeypatch):
    """The steps that trainings take, as they take them."""
    taken, original = [], loop.Run.training_step

    def training_step(self, *args):
        taken.append(self.step)
        return original(self, *args)

    monkeypatch.setattr(loop.Run, "training_step", training_step)
    return taken


def images(e):
    shape = (e.data.train, e.data.channels, e.data.height, e.data.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=devices.generator("noise"))


def train(e, folder, shared=None):
    return loop.train(e, images(e), folder / f"{e.name}.pt", None, shared)


def file(e, threads=None):
    return store.pretraining_of(e, threads).file


def read(file):
    data = file.read_bytes()[pretraining.SHA256_BYTES :]
    return torch.load(io.BytesIO(data), weights_only=True)


def write(common, content):
    torch.save(content, stream := io.BytesIO())
    data = stream.getvalue()
    common.file.write_bytes(pretraining._digest(data, common) + data)


def assert_same_state(run, other):
    """Weights, statistics, history, Adam's memory and multipliers."""
    assert_same_run(run, other)
    assert run.kl.multiplier == other.kl.multiplier
    memories = (r.optimiser.state_dict()["state"] for r in (run, other))
    for one, two in zip(*(m.items() for m in memories), strict=True):
        assert one[0] == two[0] and one[1].keys() == two[1].keys()
        assert all(torch.equal(value, two[1][name]) for name, value in one[1].items())


# ---------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("names", [
    ("gray-sos", "gray-constrained"),
    ("gray-beta", "gray-dorta", "gray-hybrid"),
    ("variance-fixed-constrained-pretrained", "variance-pretrained-scheduled"),
], ids=lambda names: names[0])  # fmt: skip
def test_from_a_common_pretraining_as_alone(names, home, steps):
    chosen = [SMOKE[name] for name in names]
    (common,) = {store.pretraining_of(e) for e in chosen}
    alone = [train(e, home / "alone") for e in chosen]
    together, saved = [], 0
    for e in chosen:
        steps.clear()
        together.append(train(e, home / "together", common))
        assert steps == list(range(saved, e.training.steps))
        saved = e.training.pretraining
    for run, expected in zip(together, alone, strict=True):
        assert_same_state(run, expected)


@pytest.mark.parametrize("network", [
    {}, {"rank": 0, "diagonal": None}, {"diagonal": None}, {"rank": 0, "neighbourhood": 3},
    {"neighbourhood": 3},
], ids=str)  # fmt: skip
def test_what_is_saved_is_what_pretraining_changes(network, quick):
    e = experiment(network=network, objective={"rank_entropy_target": None})
    run = loop.Run(e, images(e), torch.device("cpu"))
    before = {name: value.clone() for name, value in run.vae.state_dict().items()}
    for _ in range(2):
        run.training_step(loop.batch(images(e), run.step, e.training), True)
    after = run.vae.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == set(pretraining._acting(after))
    stepped = {name for name, p in run.vae.named_parameters() if p in run.optimiser.state}
    assert stepped == set(pretraining._acting(dict(run.vae.named_parameters())))


@pytest.mark.parametrize("breaks", [(1,), (3,), (1, 3)], ids=str)
def test_a_training_from_it_that_is_killed_goes_on(quick, home, monkeypatch, breaks):
    """Before its first checkpoint it starts there once more, and after it at the checkpoint."""
    first, second = experiment(), experiment(name="second", network={"rank": 1})
    common = store.pretraining_of(first)
    train(first, home, common)
    alone = train(second, home / "alone")
    for step in breaks:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            fail_at(patch, step, interrupt)
            train(second, home, common)
        assert (home / "second.pt").exists() == (step > 1)
    assert_same_state(train(second, home, common), alone)


def test_the_cost_of_the_whole_training_is_recorded(quick):
    """Estimates for other machines rest on it."""
    store.load_or_train(experiment())
    common = store.pretraining_of(experiment())
    saved = read(common.file)
    step, seconds, history = saved["progress"]
    assert 0 < seconds < 100
    write(common, saved | {"progress": (step, seconds + 1000, history)})
    second = experiment(name="second", network={"rank": 1})
    assert 1000 < store.load_or_train(second).meta["seconds"] < 1100


# ---------------------------------------------------------------------------- what is the same

SAME = [(group, name) for group, names in store.AFTER_PRETRAINING.items() for name in names]
DECIDE_EPSILON = [("network", "diagonal"), ("network", "constants")]  # see the test of ε
SAME = [field for field in SAME if field not in DECIDE_EPSILON]
DIFFERENT = [
    field
    for group in ("network", "objective", "training")
    for field in fields(group)
    if field not in SAME and field != ("training", "freeze_heads")  # which has none to share
]


@pytest.mark.parametrize("group, name", SAME)
def test_what_acts_later_shares_pretraining(group, name, quick):
    value = getattr(getattr(experiment(), group), name)
    changed = experiment(name="second", **{group: {name: other(value)}})
    assert store.pretraining_of(changed) == store.pretraining_of(experiment())


@pytest.mark.parametrize("group, name", [*DIFFERENT, ("data", "train"), ("data", "height")])
def test_every_other_setting_has_a_pretraining_of_its_own(group, name, quick):
    value = getattr(getattr(experiment(), group), name)
    assert file(experiment(**{group: {name: other(value)}})) != file(experiment())


def test_epsilon_counts_and_a_learnt_diagonal_has_the_papers(quick):
    files = [file(experiment(network={"diagonal": value})) for value in (None, 1e-5, 1e-2)]
    assert files[0] == files[1] != files[2]


def test_constants_stand_after_a_pretraining_that_learns_its_epsilon(quick):
    both = [{"diagonal": value, "constants": True} for value in (None, 1e-5, "shared", "image")]
    files = {file(experiment(network=network)) for network in both}
    files.add(file(experiment(network={"diagonal": "shared"})))
    assert len(files) == 1 and file(experiment()) not in files


def test_threads_processes_and_code_version_count(quick, monkeypatch):
    files = {file(experiment(), threads) for threads in (1, 2)}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    files.add(file(experiment()))
    monkeypatch.setattr(loop, "VERSION", loop.VERSION + 1)
    files.add(file(experiment()))
    assert len(files) == 4 and file(experiment(), torch.get_num_threads()) in files


@pytest.mark.parametrize("changes", [
    {"training": {"pretraining": 0}}, {"training": {"pretraining": 6}},
    {"training": {"pretraining": 3}},  # ends between two rows of the history
    {"network": {"latent": 0, "width": 0}}, {"training": {"freeze_heads": True}},
], ids=str)  # fmt: skip
def test_trainings_without_one_that_others_could_use(changes, quick):
    e = experiment(**changes)
    assert store.pretraining_of(e) is None
    store.load_or_train(e)
    assert not (paths.CACHE / "pretraining").exists()


def test_the_groups_of_the_demo():
    groups = {}
    for e in profiles.PROFILES["demo"].experiments.values():
        if (common := store.pretraining_of(e)) is not None:
            groups.setdefault(common, []).append(e.name)
    several = [names for names in groups.values() if len(names) > 1]
    assert several[:2] == [
        ["gray-beta", "gray-dorta", "gray-hybrid"],
        ["gray-sos", "gray-constrained"],
    ]
    assert len(several[2]) == 9
    # Of notebook 08: on three sets, and on the first at two more learning rates.
    assert [len(names) for names in several[3:8]] == [14, 4, 4, 8, 8]
    assert all("epsilon-" in name for names in several[3:8] for name in names)
    assert several[8] == ["long-gray-beta", "long-gray-dorta"]
    assert several[9:] == [[f"cells-{k}" for k in ("beta", "sigma", "learnt", "sparse", "hybrid")]]


# ---------------------------------------------------------------------------- the file


def trained(steps, *changes):
    """The steps that each experiment takes in turn, and its weights' SHA-256."""
    taken, digests = [], []
    for number, change in enumerate(changes):
        steps.clear()
        model = store.load_or_train(experiment(name=f"model{number}", **change))
        taken.append(len(steps))
        digests.append(model.meta["weights_sha256"])
    return taken, digests


def test_another_seed_objective_or_length_takes_all_of_its_steps(quick, steps):
    changes = (
        {}, {"network": {"rank": 1}}, {"training": {"seed": 1}}, {"objective": {"kl_target": 2.0}},
        {"objective": {"damping": 1.0}}, {"training": {"pretraining": 4}},
    )  # fmt: skip
    assert trained(steps, *changes)[0] == [6, 4, 6, 6, 6, 6]


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by_another(file):
    seeded = experiment(training={"seed": 5})
    store.load_or_train(seeded)
    shutil.copy(store.pretraining_of(seeded).file, file)


def replace_by_an_older_one(file):
    """What it has is whole, and named otherwise than today."""
    saved = read(file)
    saved["vae"]["head.mean.centre"] = saved["vae"].pop("head.mean.bias")
    write(store.pretraining_of(experiment()), saved)


@pytest.mark.parametrize("spoil", [
    halve, flip, replace_by_another, replace_by_an_older_one,
    lambda file: file.write_bytes(b""), lambda file: file.write_text("a text"),
])  # fmt: skip
def test_a_file_that_is_not_the_right_one_is_made_anew(spoil, quick, steps, caplog):
    (_, expected), content = trained(steps, {}, {"network": {"rank": 1}}), file(experiment())
    shutil.rmtree(store.CACHE)
    right = read(content)["vae"]
    spoil(content)
    with caplog.at_level(logging.WARNING):
        taken, digests = trained(steps, {}, {"network": {"rank": 1}})
    assert taken == [6, 4] and digests == expected
    assert "pre-training is done anew" in caplog.text and content.name in caplog.text
    assert all(torch.equal(value, right[name]) for name, value in read(content)["vae"].items())


def test_fresh_repeats_pretraining_and_overwrites_it(quick, steps):
    store.load_or_train(experiment())
    shared = file(experiment())
    before = shared.stat().st_mtime_ns
    steps.clear()
    store.load_or_train(experiment(), "fresh")
    store.load_or_train(experiment(name="second"), "fresh")
    assert steps == [*range(6), *range(6)]
    assert shared.stat().st_mtime_ns > before
    assert trained(steps, {})[0] == [4]


def test_a_training_that_was_resumed_saves_none(quick, home, monkeypatch):
    """Its first steps may be those of another number of threads."""
    e = experiment(training={"pretraining": 4})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        fail_at(patch, 3, interrupt)
        store.load_or_train(e)
    assert store.steps_done(e, "train") == 2
    store.load_or_train(e)
    assert not file(e).exists()


def test_weights_that_are_not_finite_are_not_saved(quick, monkeypatch):
    original = loop.Run.training_step

    def training_step(self, *args):
        terms = original(self, *args)
        if self.step == 2:
            next(self.vae.parameters()).data.fill_(math.nan)
        return terms

    monkeypatch.setattr(loop.Run, "training_step", training_step)
    with pytest.raises(FloatingPointError):
        monkeypatch.setattr(watch, "CHECKPOINT_EVERY", 100)
        store.load_or_train(experiment())
    assert not file(experiment()).exists()


# ---------------------------------------------------------------------------- who begins when


def made(e):
    """As if the pre-training of an experiment had been saved."""
    file(e, 1).parent.mkdir(parents=True, exist_ok=True)
    file(e, 1).touch()


def numbered(*changes):
    return [experiment(name=str(k), **change) for k, change in enumerate(changes)]


def test_others_wait_for_a_pretraining_while_there_is_something_else(quick):
    """0, 1 and 3 have it in common; 2 and 4 have their own, and 5 none."""
    rank, seed = {"network": {"rank": 1}}, {"training": {"seed": 1}}
    none = {"training": {"pretraining": 0}}
    all_ = numbered({}, rank, seed, {"objective": {"rank_entropy_target": None}}, seed, none)
    turns = prepare.in_turn(all_, all_, 1)
    assert [next(turns).name for _ in range(3)] == ["0", "2", "5"]
    made(all_[0])
    assert [next(turns).name for _ in range(2)] == ["1", "3"]
    assert [e.name for e in turns] == ["4"]  # although that of 2 is not there


def test_nobody_waits_without_anything_else_to_do(quick):
    all_ = numbered({}, {"network": {"rank": 1}})
    assert [e.name for e in prepare.in_turn(all_, all_, 1)] == ["0", "1"]


def test_models_at_hand_and_pretrainings_at_hand_keep_their_order(quick):
    all_ = numbered({}, {"network": {"rank": 1}}, {"training": {"seed": 1}})
    assert [e.name for e in prepare.in_turn(all_, [all_[1]], 1)] == ["0", "1", "2"]
    made(all_[0])
    assert [e.name for e in prepare.in_turn(all_, all_, 1)] == ["0", "1", "2"]


def test_tasks_are_chosen_as_workers_become_free(home):
    """Two at a time, so that `in_turn` knows what has been saved by then."""
    folder = home / "done"
    folder.mkdir()

    def tasks():
        for number in range(6):
            assert len(list(folder.iterdir())) >= number - 2
            yield folder / str(number)

    touch = lambda file, worker: file.touch()  # noqa: E731
    assert len(list(workers.side_by_side(touch, tasks(), 2))) == 6


def test_the_plan_counts_it_once(quick):
    all_ = numbered({}, {"network": {"rank": 1}}, {"training": {"seed": 1}})
    left = plan.steps_left(all_, "train", 1)
    assert left == {"0": (2, 4), "1": (0, 4), "2": (2, 4)}
    assert set(plan.steps_left(all_, "fresh", 1).values()) == {(2, 4)}
    made(all_[2])
    assert plan.steps_left(all_, "train", 1)["2"] == (0, 4)
