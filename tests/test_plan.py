"""What the runner says before it begins: what there is, what it means, how long it takes."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sos import datasets, profiles
from sos.config import Data
from sos.run import options, plan, runner
from sos.system import paths
from sos.training import store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(store, "CACHE", tmp_path / "cache" / "models")
    return tmp_path


@pytest.fixture
def album(tmp_path):
    """A folder of 400 gray pictures in subfolders, as of 40 people."""
    place = tmp_path / "album"
    for number in range(400):
        file = place / f"s{number // 10}" / f"{number}.pgm"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = np.full((9, 9), number % 251, np.uint8)
        picture[0] = number // 251
        Image.fromarray(picture).save(file)
    return place


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_every_training_has_words_of_its_own(profile):
    experiments = profiles.PROFILES[profile].experiments.values()
    words = {e.name: plan.words(e) for e in experiments}
    assert all(words.values())
    of_appendix = [w for name, w in words.items() if name.startswith("variance-")]
    assert len(set(of_appendix)) == len(of_appendix)
    assert words["variance-constrained-pretrained"] == "SOS-VAE, learnt D, entropy constraint"
    assert words["variance-none"] == "SOS-VAE, learnt D, no constraint, no pre-training"


def test_every_profile_has_the_same_experiments():
    """The notebooks name them, whatever the profile."""
    names = {profile: list(row.experiments) for profile, row in profiles.PROFILES.items()}
    assert len({tuple(row) for row in names.values()}) == 1, names


@pytest.mark.parametrize("word, number", [
    ("1", "01"), ("01", "01"), ("01_beta", "01"), ("notebooks/06_pca_comparison.ipynb", "06"),
])  # fmt: skip
def test_notebooks_by_what_people_call_them(word, number):
    assert options.arguments(["--only", word]).only == [number]


def test_several_notebooks_and_names_in_any_case():
    assert options.arguments(["--only", "1,3", "--only", "05"]).only == ["01", "03", "05"]
    assert options.arguments(["--profile", "Smoke", "--only", "01", "03"]).only == ["01", "03"]


@pytest.mark.parametrize("words, told", [
    (["--only", "99"], "07_stabilising_the_variance"), (["--only", "1_beta"], "00_start_here"),
    (["--only", "figures"], "00_start_here"), (["--profile", "large"], "demo"),
    (["--faces", "nowhere"], "not a folder"), (["--weights", "shipped"], "released"),
])  # fmt: skip
def test_mistakes_are_answered_with_what_there_is(words, told, capsys):
    with pytest.raises(SystemExit):
        options.arguments(words)
    assert told in capsys.readouterr().err


def test_the_plan_counts_the_pictures_that_there_are(album, capsys):
    chosen = options.arguments(["--faces", str(album), "--only", "01", "--dry-run"])
    runner.print_plan(chosen, options.chosen_notebooks(chosen), runner.needed(chosen))
    told = capsys.readouterr().out
    assert re.search(r"folder 64x64x1 +360 images to read\n", told)  # 280 and 80; they are gray
    assert re.search(r"brains 80x64x1 +7000 images to make\n", told)


def test_blocks_of_an_interrupted_run_are_not_counted():
    data = Data("faces", 16, 16, 3, train=500, validation=1, test=1)
    assert plan.missing_images(data, "train") == 500
    folder = Path(f"{datasets.cache_folder(data, 'train')}.partial")
    folder.mkdir(parents=True)
    (folder / "000000000.npz").touch()
    assert plan.missing_images(data, "train") == 500 - datasets.BLOCK


@pytest.mark.parametrize("seconds, jobs, expected", [
    ([], 2, 0), ([5], 2, 5), ([4, 3, 2, 1], 1, 10), ([4, 3, 2, 1], 2, 5), ([1, 1, 9], 2, 10),
])  # fmt: skip
def test_tasks_are_scheduled_in_order(seconds, jobs, expected):
    assert plan.scheduled(seconds, jobs) == expected


def test_the_estimate_of_tiny_trainings_is_of_their_order():
    """Steps of an eighth of a second at most, so that the sum is seconds and not minutes."""
    experiments = [profiles.PROFILES["smoke"].experiments[n] for n in ("faces-beta", "faces-sos")]
    found = {e.name: plan.seconds_of_steps(e) for e in experiments}
    assert all(0 < one < 2 for pair in found.values() for one in pair)


def test_room_for_images_and_checkpoints():
    experiment = profiles.PROFILES["demo"].experiments["faces-sos"]
    images = plan.bytes_needed([experiment], []) - plan.ROOM
    assert images == 2 * 7500 * 64 * 64 * 3
    assert plan.bytes_needed([experiment], [experiment]) > images + plan.ROOM


def test_a_dry_run_makes_nothing(home):
    places = {n: str(home / n) for n in ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")}
    command = [sys.executable, "-m", "sos.run", "--profile", "smoke", "--only", "7", "--dry-run"]
    environment = os.environ | places | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=home, check=False
    )
    assert done.returncode == 0, done.stderr
    line = "variance-fixed-constrained-pretrained to train: SOS-VAE, fixed D"
    assert line in done.stdout
    assert "of disk" in done.stdout
    assert not [f for f in home.rglob("*") if f.is_file()]


def test_an_installed_package_says_what_it_lacks(home):
    """A wheel has the package and its data, and no notebooks beside it."""
    package = home / "site" / "sos"
    with zipfile.ZipFile(home / "package.zip", "w") as archive:
        for file in paths.PACKAGE.rglob("*.*"):
            if file.suffix in runner.SOURCES:
                archive.write(file, file.relative_to(paths.PACKAGE))
    zipfile.ZipFile(home / "package.zip").extractall(package)
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-m", "sos.run", "--profile", "smoke"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=home, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "clone the repository" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["learnt", "sigma", "hybrid", "image", "1e-05", "paper"])
def test_steps_of_every_kind_can_be_timed(kind):
    """Also of models whose constants have to start somewhere, before anything is trained."""
    experiment = profiles.PROFILES["smoke"].experiments[f"epsilon-faces-{kind}"]
    assert all(0 < seconds < 60 for seconds in plan.seconds_of_steps(experiment))
