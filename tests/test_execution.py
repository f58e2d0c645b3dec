"""Notebooks run whatever the environment is, and bad machines say what is wrong with them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import nbformat
import pytest
from joblib import cpu_count
from nbformat import v4

from sos.run import execute, options, runner, workers
from sos.system import paths

HOSTILE = {
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "{0}",
    "MATPLOTLIBRC": "{0}/matplotlibrc",
    "PYTHONSTARTUP": "{0}/startup.py",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "IPYTHONDIR": "{0}/ipython",
    "JUPYTER_CONFIG_DIR": "{0}/config",
    "JUPYTER_PATH": "{0}/share",
    "LC_ALL": "POSIX",
    "FORCE_COLOR": "1",
}
PICTURE = """from matplotlib import pyplot as plt
from sos.figures import save
figure, _ = plt.subplots()
"""
SHOWS = PICTURE + "save(figure, 'toy', 'demo')"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders of this test's own; a function that executes cells there: state, figures, outputs."""
    for name in ("CACHE", "FIGURES", "EXECUTED"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())

    def executed(*sources):
        source, target = tmp_path / "toy.ipynb", paths.EXECUTED / "toy.ipynb"
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(s) for s in sources]), source)
        task = execute.Task(source, target, {}, paths.FIGURES / "demo")
        state, made = execute.execute(task)
        copy = target if state == "done" else target.with_suffix(".failed.ipynb")
        cells = json.loads(copy.read_text())["cells"] if copy.exists() else []
        return state, made, [cell["outputs"] for cell in cells]

    return executed


def test_nothing_of_the_users_reaches_a_notebook(places, tmp_path, monkeypatch):
    home = tmp_path / "home"
    kernels = home / "share" / "kernels" / "python3"
    startup = home / "ipython" / "profile_default" / "startup"
    for folder in (kernels, startup, home / "config"):
        folder.mkdir(parents=True)
    (kernels / "kernel.json").write_text('{"argv": ["false"], "display_name": "mine"}')
    (home / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: black\n")
    for file in (startup / "00.py", home / "startup.py", home / "config" / "ipython_config.py"):
        file.write_text("raise SystemExit(7)")
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value.format(home))
    before = dict(os.environ)
    look = "import matplotlib, sys\nprint(matplotlib.rcParams['text.usetex'], sys.flags.optimize)"
    state, made, outputs = places(look + "\nassert not __debug__ or 'é'", SHOWS)
    assert (state, made) == ("done", ["toy.pdf", "toy.png"])
    assert outputs[0][0]["text"] == ["False 0\n"]
    assert "image/png" in outputs[1][0]["data"]
    assert dict(os.environ) == before


def test_a_figure_that_is_not_shown_is_a_failure(places):
    state, made, _ = places(SHOWS + ";")
    assert state == "FAILED: it drew 1 figures and shows 0" and "toy.png" in made
    assert not (paths.EXECUTED / "toy.ipynb").exists()


def test_a_kernel_that_dies_is_that_notebooks_trouble(places, capsys):
    state, _, _ = places("1", "import os\nos.kill(os.getpid(), 9)")
    assert state == "FAILED" and "memory" in capsys.readouterr().err
    partial = paths.EXECUTED / "toy.failed.ipynb"
    assert execute.failing_cell(partial) == "cell [2] `import os`"


def test_temporary_files_in_a_folder_with_a_long_name(places, tmp_path, monkeypatch):
    long = tmp_path / ("long" * 40)
    long.mkdir()
    monkeypatch.setattr(execute.tempfile, "tempdir", str(long))
    assert places("1")[0] == "done"


@pytest.mark.parametrize("content", ["", '{"cells": [', "{}", None])
def test_a_copy_that_is_cut_short_has_no_cells(content, tmp_path):
    copy = tmp_path / "toy.ipynb"
    if content is not None:
        copy.write_text(content)
    assert execute.failing_cell(copy) == "its start" and execute.pictures(copy) == 0


def test_one_notebook_without_room_leaves_the_others(monkeypatch, tmp_path, capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "somewhere")

    def execute_(task, worker):
        if task.source.stem.startswith("03"):
            raise full
        return "done", []

    monkeypatch.setattr(paths, "EXECUTED", tmp_path)
    monkeypatch.setattr(workers, "at_once", lambda tasks: 1)
    monkeypatch.setattr(execute, "execute", execute_)
    monkeypatch.setattr(runner, "prepare_models", lambda chosen, finished: {})
    status = runner.work(options.arguments(["--profile", "smoke", "--only", "00", "--only", "03"]))
    shown = capsys.readouterr().out
    assert status == 1 and "03_interpolation: FAILED: [Errno 28] No space left" in shown
    assert "00_start_here              done" in shown


# ------------------------------------------------------------------------------------ full disks


def test_a_full_disk_is_named_whatever_a_library_says(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    target = tmp_path / "checkpoint.pt"
    target.write_text("older")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0))
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left.*checkpoint.pt"):
        with paths.replacing(target):
            raise RuntimeError("PytorchStreamWriter failed writing file")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9))
    with pytest.raises(RuntimeError, match="Pytorch"), paths.replacing(target):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert target.read_text() == "older"


ON_A_FULL_DISK = """
import sys, numpy, torch
from pathlib import Path
from matplotlib import pyplot
from safetensors.torch import save_file
from sos import datasets
from sos.figures import save
from sos.system import paths
place = Path(sys.argv[1])
paths.FIGURES = place
x = torch.rand(2**19)
picture = numpy.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=numpy.uint8)

def file(write):
    with paths.replacing(place / "file") as temporary:
        write(temporary)

def figure():
    figure = pyplot.figure(figsize=(20, 20))
    figure.add_subplot().imshow(numpy.tile(picture, (2, 2, 1)), interpolation="nearest")
    save(figure, "figure", "demo")

images = [{"images": numpy.zeros((60, 3, 64, 64), numpy.uint8)}] * 9
attempts = {
    "checkpoint": lambda: file(lambda f: torch.save(x, f)),
    "weights": lambda: file(lambda f: save_file({"x": x}, f)),
    "images": lambda: datasets.write(place / "images", images, 540),
    "text": lambda: paths.write_text(place / "notebook.ipynb", "x" * 2**21),
    "figure": figure,
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "fitted")
    except OSError as error:
        print(name, error.errno, error.filename and Path(error.filename).parent == place
              or Path(error.filename).parent.parent == place)
print(sorted(f.name for f in place.rglob("*") if f.is_file()))
"""


def test_nothing_is_half_written_on_a_full_disk(tmp_path):
    mount = [
        "unshare",
        "-m",
        "bash",
        "-c",
        'mount -t tmpfs -o size=900k tmpfs "$1" && "${@:2}"',
        "-",
    ]
    allowed = subprocess.run([*mount, tmp_path, "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("only root may mount a small file system")
    command = [*mount, tmp_path, sys.executable, "-c", ON_A_FULL_DISK, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, left = done.stdout.splitlines()
    assert lines == [f"{n} 28 True" for n in ("checkpoint", "weights", "images", "text", "figure")]
    assert left == "[]"


# --------------------------------------------------------------------------- the script, signals


def test_the_script_may_be_called_through_links_and_from_any_folder(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "second").symlink_to(paths.ROOT / "run_all.sh")
    (tmp_path / "first").symlink_to(Path("a folder", "second"))
    environment = os.environ | {"SOS_PYTHON": sys.executable, "CDPATH": str(tmp_path)}
    environment |= {n: str(tmp_path / n) for n in ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")}
    (tmp_path / "random.py").write_text("raise SystemExit('no module of ours')")
    command = ["bash", "first", "--profile", "smoke", "--only", "00", "--dry-run"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "notebook  00_start_here            to execute" in done.stdout


@pytest.mark.parametrize("only, until, number", [
    ("03", "step/s", signal.SIGTERM), ("00", "00_start_here: ", signal.SIGINT),
], ids=["training", "executing"])  # fmt: skip
def test_a_signal_ends_everything_without_noise(only, until, number, tmp_path):
    variables = {n: str(tmp_path / n) for n in ("SOS_CACHE", "SOS_FIGURES", "SOS_EXECUTED")}
    variables |= {"SOS_PYTHON": sys.executable, "PYTHONPATH": str(paths.ROOT)}
    quiet = {"SOS_BATCH", "TQDM_DISABLE"}
    environment = {k: v for k, v in os.environ.items() if k not in quiet} | variables
    command = ["bash", paths.ROOT / "run_all.sh", "--profile", "smoke", "--only", only]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        began = time.monotonic()
        while until not in log.read_text() and time.monotonic() - began < 120:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, number)
        assert process.wait(60) == 128 + number
    said = log.read_text()
    assert said.rstrip().endswith("stopped; the same command goes on from here")
    assert not any(word in said for word in ("Traceback", "Warning", "leaked", "ERROR")), said
    with pytest.raises(ProcessLookupError):  # nothing of its session is left
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize("kernel, variables, expected", [
    (True, {}, "executed/figures"), (False, {}, "figures"), (True, {"SOS_FIGURES": "x"}, "x"),
])  # fmt: skip
def test_what_is_drawn_by_hand_changes_no_tracked_file(kernel, variables, expected):
    start = "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.instance(); " * kernel
    program = f"{start}from sos.system import paths; print(paths.FIGURES)"
    places = ("SOS_FIGURES", "SOS_EXECUTED")
    environment = {k: v for k, v in os.environ.items() if k not in places} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in (expected, str(paths.ROOT / expected))


def test_names_that_no_notebook_can_hold_are_refused(tmp_path, capsys):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    with pytest.raises(SystemExit):
        options.arguments(["--faces", folder])
    assert "not UTF-8" in capsys.readouterr().err


def test_notebooks_beside_each_other_list_their_own_figures(tmp_path, monkeypatch):
    """Two at a time into one folder: each is told what it drew, and has its share of the cores."""
    for name in ("CACHE", "FIGURES", "EXECUTED"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(workers, "at_once", lambda tasks: 2)
    tasks = []
    for name in ("one", "two"):
        cells = [
            PICTURE + f"save(figure, '{name}', 'demo')",
            "import os; os.environ['OMP_NUM_THREADS']",
        ]
        source = tmp_path / f"{name}.ipynb"
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells]), source)
        target = tmp_path / "executed" / source.name
        tasks.append(execute.Task(source, target, {}, paths.FIGURES / "demo"))
    found = {source.stem: (state, made) for source, state, _, made in execute.execute_all(tasks)}
    assert found == {name: ("done", [f"{name}.pdf", f"{name}.png"]) for name in ("one", "two")}
    copy = nbformat.read(tmp_path / "executed" / "one.ipynb", as_version=4)
    (result,) = copy.cells[-1].outputs
    assert result.data["text/plain"] == repr(str(max(1, cpu_count() // 2)))
