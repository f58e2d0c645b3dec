"""The whole collection at its smallest, by the command that readers type."""

import json
import os
import subprocess
import sys

import pytest

from sos.run import catalogue, options, runner
from sos.system import paths
from sos.training import store

HOUR = 3600  # seconds


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Folders of a run from nothing, and its output."""
    places = {
        variable: tmp_path_factory.mktemp(variable.lower())
        for variable in ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")
    }
    return places, smoke(places)


def smoke(places):
    variables = {name: str(folder) for name, folder in places.items()}
    return subprocess.run(
        ["bash", paths.ROOT / "run_all.sh", "--profile", "smoke"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=places["SOS_CACHE"],
        env=os.environ | variables | {"SOS_PYTHON": sys.executable},
        timeout=HOUR,
    )


def states(output: str) -> dict[str, str]:
    """{notebook: its line of the summary} of the runner's last table."""
    lines = output.rpartition("\nnotebook ")[2].splitlines()
    names = {notebook.name for notebook in catalogue.NOTEBOOKS}
    return {line.split()[0]: line for line in lines if line.split() and line.split()[0] in names}


def test_every_notebook_ran(first):
    _, result = first
    assert result.returncode == 0, result.stdout + result.stderr
    lines = states(result.stdout)
    assert list(lines) == [notebook.name for notebook in catalogue.NOTEBOOKS]
    assert all(" done " in line for line in lines.values()), result.stdout


def test_every_file_is_there(first):
    places, _ = first
    for notebook in catalogue.NOTEBOOKS:
        folder = places["SOS_EXECUTED"] / "smoke"
        assert (folder / f"{notebook.name}.ipynb").stat().st_size
        stamp = json.loads((folder / f"{notebook.name}.json").read_text())
        for name in stamp["figures"]:
            assert (places["SOS_FIGURES"] / "smoke" / name).stat().st_size
    committed = {file.name for file in (paths.ROOT / "figures" / "demo").glob("*.png")}
    assert {file.name for file in places["SOS_FIGURES"].glob("smoke/*.png")} == committed


def test_nothing_is_left_over(first):
    places, _ = first
    left = [str(file) for folder in places.values() for file in folder.rglob("*.tmp")]
    left += [str(file) for file in places["SOS_EXECUTED"].rglob("*.failed.ipynb")]
    assert left == []


def test_second_run_finds_all_up_to_date(first):
    places, _ = first
    again = smoke(places)
    assert again.returncode == 0, again.stdout + again.stderr
    lines = states(again.stdout)
    assert len(lines) == len(catalogue.NOTEBOOKS)
    assert all(" up to date " in line for line in lines.values()), again.stdout


def test_what_is_missing_or_changed_is_not_up_to_date(first, monkeypatch):
    places, _ = first
    for name, place in (("EXECUTED", "SOS_EXECUTED"), ("FIGURES", "SOS_FIGURES")):
        monkeypatch.setattr(paths, name, places[place])
    monkeypatch.setattr(store, "CACHE", places["SOS_CACHE"] / "models")
    chosen = options.arguments(["--profile", "smoke"])
    notebook, experiments = catalogue.NOTEBOOKS[3], runner.needed(chosen)
    assert runner.is_current(notebook, chosen, experiments)
    results = places["SOS_FIGURES"] / "smoke" / "results" / f"{notebook.name}.json"
    content = results.read_bytes()
    results.unlink()
    assert not runner.is_current(notebook, chosen, experiments)
    results.write_bytes(content)
    page = (paths.PACKAGE / "widgets" / "page.html").read_text()
    original = runner.Path.read_text

    def changed(file, *args, **options):
        return page + "<!-- -->" if file.name == "page.html" else original(file, *args, **options)

    monkeypatch.setattr(runner.Path, "read_text", changed)
    assert not runner.is_current(notebook, chosen, experiments)
