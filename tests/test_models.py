"""sos.models: a model's name, training once and loading ever after, and what is kept beside it."""

import dataclasses
import json
import re
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sos import datasets, models
from sos.config import Data, Evaluation, Experiment, Network, Objective, Training
from sos.datasets import cache
from sos.run import prepare
from sos.system import devices, paths
from sos.training import loop, store, watch

SIZE = 12


def experiment(**changes):
    """A tiny SOS-VAE; `changes` are fields of any section, as in training={"seed": 1}."""
    sections = {
        "data": Data("faces", SIZE, SIZE, 1, train=16, validation=4, test=4),
        "network": Network(width=2, latent=3, rank=2, diagonal=1e-2),
        "objective": Objective(kl_target=3.0, rank_entropy_target=4.0),
        "training": Training(steps=6, pretraining=2, batch=8, learning_rate=2e-3),
    }
    for section, fields in changes.items():
        if section != "name":
            sections[section] = dataclasses.replace(sections[section], **fields)
    return Experiment(changes.get("name", "tiny"), **sections)


def simulator(version=1):
    """Pictures by index that cost nothing: noise."""

    def render(index, height, width):
        image = np.random.default_rng(index).integers(0, 256, (1, height, width), dtype=np.uint8)
        return SimpleNamespace(image=image, factors=np.zeros(1, np.float32))

    return SimpleNamespace(VERSION=version, CHANNELS=3, FACTORS=("nothing",), render=render)


def isolate(tmp_path, monkeypatch):
    """Empty folders for cached and released models, images of noise, one kind of device."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    monkeypatch.setattr(store, "CACHE", tmp_path / "cache" / "models")
    monkeypatch.setitem(datasets.SIMULATORS, "faces", simulator())
    monkeypatch.setattr(cache, "cpu_count", lambda: 1)
    monkeypatch.setattr(cache, "tqdm", partial(cache.tqdm, disable=True))
    monkeypatch.setattr(devices, "device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Folders of its own, and trainings that are quick and alike."""
    isolate(tmp_path, monkeypatch)
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: False)
    monkeypatch.setattr(watch, "LOG_EVERY", 2)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    return tmp_path


@pytest.fixture
def runs(monkeypatch):
    """The trainings that took place, in order."""
    done, original = [], loop.train

    def train(*args, **kwargs):
        done.append(original(*args, **kwargs))
        return done[-1]

    monkeypatch.setattr(loop, "train", train)
    return done


def ship(model):
    """Moves a cached model among the released ones."""
    shutil.move(model.folder, paths.RELEASED / model.folder.name)


# ---------------------------------------------------------------------------- names


def other(value):
    """A different value of the same kind."""
    if isinstance(value, bool):
        return not value
    return 0.5 if value is None else value + 2


def fields(section):
    return [(section, f.name) for f in dataclasses.fields(getattr(experiment(), section))]


DATA = [("data", name) for name in ("height", "width", "channels", "train")]


@pytest.mark.parametrize(
    "section, field", DATA + fields("network") + fields("objective") + fields("training")
)
def test_every_setting_that_determines_the_weights_changes_the_name(section, field):
    value = getattr(getattr(experiment(), section), field)
    changed = experiment(**{section: {field: other(value)}})
    assert store.cache_key(changed) != store.cache_key(experiment())


def test_name_data_and_code_version_change_the_name(monkeypatch):
    names = {store.cache_key(experiment()), store.cache_key(experiment(name="other"))}
    names.add(store.cache_key(experiment(data={"name": "brains"})))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "VERSION", loop.VERSION + 1)
        names.add(store.cache_key(experiment()))
    monkeypatch.setitem(datasets.SIMULATORS, "faces", simulator(version=2))
    names.add(store.cache_key(experiment()))
    assert len(names) == 5


@pytest.mark.parametrize("change", [{"validation": 99}, {"test": 99}, {"folder": "elsewhere"}])
def test_settings_that_training_never_sees_keep_the_name(change):
    assert store.cache_key(experiment(data=change)) == store.cache_key(experiment())


def test_names_are_readable():
    assert re.fullmatch(r"tiny-[0-9a-f]{12}", store.cache_key(experiment()))


# ---------------------------------------------------------------------------- train or load


def test_the_first_call_trains_and_the_second_loads(runs):
    first = store.load_or_train(experiment())
    second = store.load_or_train(experiment())
    assert len(runs) == 1 and runs[0].step == 6
    assert first.folder == second.folder and first.meta == second.meta
    for name, value in first.vae.state_dict().items():
        assert torch.equal(value, second.vae.state_dict()[name]), name


def test_another_experiment_is_another_training(runs):
    for seed in range(2):
        store.load_or_train(experiment(training={"seed": seed}))
    assert len(runs) == 2


def test_released_weights_are_used_unless_training_is_asked_for(runs):
    ship(store.load_or_train(experiment()))
    assert store.load_or_train(experiment(), "released").folder.parent == paths.RELEASED
    assert len(runs) == 1
    trained = store.load_or_train(experiment(), "train")
    assert len(runs) == 2 and paths.CACHE in trained.folder.parents
    store.load_or_train(experiment(), "train")
    assert len(runs) == 2
    assert store.load_or_train(experiment(), "released").folder.parent == paths.RELEASED


def test_fresh_trains_again_and_takes_the_cached_ones_place(runs):
    cached = store.load_or_train(experiment())
    fresh = store.load_or_train(experiment(), "fresh")
    assert len(runs) == 2 and fresh.folder == cached.folder
    assert fresh.meta["weights_sha256"] == cached.meta["weights_sha256"]  # the same training


def test_a_fresh_training_that_could_not_be_saved_is_not_trained_again(monkeypatch, runs):
    store.load_or_train(experiment())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(watch, "CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(store, "save_file", full)
        store.load_or_train(experiment(), "fresh")
    assert store.steps_done(experiment(), "fresh") == experiment().training.steps
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "training_step", None)
        store.load_or_train(experiment(), "fresh")


def test_a_data_set_that_cannot_be_read_stops_no_other(monkeypatch):
    def broken(data, split):
        if data.name == "brains":
            raise ValueError("no picture can be read")
        return original(data, split)

    original = datasets.load_split
    monkeypatch.setattr(datasets, "load_split", broken)
    monkeypatch.setattr(prepare, "at_once", lambda tasks: 2)
    here = lambda run, tasks, jobs: [run(task, None) for task in tasks]  # noqa: E731
    monkeypatch.setattr(prepare, "side_by_side", here)
    monkeypatch.setattr(prepare.evaluation, "load_or_measure", lambda *_: None)
    other = experiment(name="other", data={"name": "brains"})
    errors = prepare.prepare_all([experiment(), other], "train", Evaluation(images=4))
    assert list(errors) == ["other"] and "no picture" in str(errors["other"])
    assert store.find(experiment(), "train")


def test_unknown_kind_of_weights_is_named():
    with pytest.raises(ValueError, match="'best'.*released.*train"):
        store.load_or_train(experiment(), "best")


def test_an_interrupted_training_goes_on(monkeypatch, runs):
    whole = store.load_or_train(experiment())
    shutil.rmtree(whole.folder)
    shutil.rmtree(paths.CACHE / "pretraining")
    monkeypatch.setattr(watch, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(watch, "CHECKPOINT_SECONDS", 0)
    original, calls = models.VAE.terms, iter(range(6))

    def terms(self, *args, **kwargs):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(models.VAE, "terms", terms)
        store.load_or_train(experiment())
    assert store.find(experiment()) is None
    assert store.steps_done(experiment(), "train") == 4
    resumed = store.load_or_train(experiment())
    assert resumed.meta["weights_sha256"] == whole.meta["weights_sha256"]
    assert resumed.history == whole.history
    assert store.steps_done(experiment(), "train") == 0


# ---------------------------------------------------------------------------- what is kept


def test_the_loaded_model_is_the_trained_one_in_half_precision(runs):
    model = store.load_or_train(experiment())
    (run,) = runs
    loaded, parameters = model.vae.state_dict(), dict(run.vae.named_parameters())
    for name, value in run.vae.state_dict().items():
        expected = value.half().float() if name in parameters else value
        assert torch.equal(loaded[name], expected), name
    z = torch.randn(8, model.vae.latent)
    with torch.no_grad():
        ours, theirs = model.vae.decode(z), run.vae.decode(z)
    for part in ("loc", "cov_factor"):
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=0, atol=3e-3)


def test_loaded_models_predict_and_do_not_train():
    model = store.load_or_train(experiment())
    assert not model.vae.training
    assert not any(p.requires_grad for p in model.vae.parameters())
    x = torch.rand(2, 1, SIZE, SIZE)
    assert torch.equal(model.vae.encode(x)[0], model.vae.encode(x)[0])


def test_history_and_record_are_complete(runs):
    model = store.load_or_train(experiment())
    (run,) = runs
    assert model.history == run.history
    assert [row["step"] for row in model.history] == [2, 4, 6]
    meta = json.loads((model.folder / "meta.json").read_text())
    assert meta == model.meta
    assert meta["experiment"] == dataclasses.asdict(experiment())
    assert meta["data"] == datasets.cache_key(experiment().data, "train")
    assert meta["training_version"] == loop.VERSION
    assert meta["weights_sha256"] == datasets.digest(model.folder / "weights.safetensors")
    assert meta["seconds"] >= 0 and meta["torch"] == torch.__version__
    assert meta["threads"] == torch.get_num_threads() and meta["device"]
    assert store.recorded_seconds(experiment()) == meta["seconds"]


def test_nothing_but_the_finished_model_stays_behind():
    folder = store.load_or_train(experiment()).folder
    assert list(folder.parent.iterdir()) == [folder]
    names = {"meta.json", "history.jsonl", "weights.safetensors"}
    assert {file.name for file in folder.iterdir()} == names


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_weights_are_refused_by_name(runs, damage, released):
    model = store.load_or_train(experiment())
    if released:
        ship(model)
    folder = store.find(experiment())
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes({"flip": content, "truncate": content[:-1], "empty": b""}[damage])
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        store.load_or_train(experiment())
    assert len(runs) == 1
