"""Run a notebook with papermill, independently of the user's own environment."""

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sos.system import paths

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_SOCKET = 80  # characters of a folder's path; a socket's whole path is limited to 100 or so
# Variables that users set for other work, some of which change kernels and figures.
OTHERS = re.compile(
    r"JUPYTER|IPYTHON|PAPERMILL|MPL|MATPLOTLIB|LC_|LANG|TQDM|COLUMNS$|LINES$|NO_COLOR$|.*FORCE_COLOR$"
    r"|PYTHON(STARTUP|WARNINGS|OPTIMIZE|IOENCODING|UTF8|INSPECT|DEVMODE|BREAKPOINT|CASEOK|SAFEPATH)$"
)


@dataclass(frozen=True)
class Task:
    """Hold a notebook to execute, where it goes, its parameters, and the place of figures."""

    source: Path
    target: Path
    parameters: dict
    figures: Path  # of its profile


def execute_all(tasks: list[Task]) -> Iterator[tuple[Path, str, float, list[str]]]:
    """Execute notebooks beside each other, one on each core; yield results as they come.

    A result is the source, its state, the seconds that it took, and the files that it made. An
    OSError, where there is no room, or no right, to write, is the state of its notebook.
    """
    from sos.run.workers import at_once, side_by_side

    yield from side_by_side(_timed, tasks, at_once(len(tasks)))


def _timed(task: Task, worker) -> tuple[Path, str, float, list[str]]:
    if worker is not None:
        worker.begin()
    began = time.perf_counter()
    try:
        state, made = execute(task, worker)
    except OSError as error:
        state, made = f"FAILED: {error}", []
    return task.source, state, time.perf_counter() - began, made


def execute(task: Task, worker=None) -> tuple[str, list[str]]:
    """Run a notebook; return "done" or "FAILED", and figures and tables that it made.

    A failure leaves <name>.failed.ipynb, as far as it got, and <name>.log beside the target.
    Raises OSError where there is no room, or no right, to write.
    """
    target = task.target
    partial, log = target.with_suffix(".failed.ipynb"), target.with_suffix(".log")
    with tempfile.TemporaryDirectory(
        prefix="sos-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as private:
        copy = Path(private, target.name)  # papermill writes after every cell
        state = _execute(task, copy, Path(private), log, worker)
        made = _made(Path(private), task.figures)
        drawn, shown = sum(name.endswith(".png") for name in made), pictures(copy)
        if state == "done" and shown < drawn:
            state = f"FAILED: it drew {drawn} figures and shows {shown}"
        if copy.exists():
            with paths.replacing(target if state == "done" else partial) as temporary:
                shutil.copyfile(copy, temporary)
    if state == "done":
        log.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    return state, made


def _execute(task: Task, copy: Path, private: Path, log: Path, worker) -> str:
    """Run the notebook into `copy`; return "done", or "FAILED" with the traceback in `log`."""
    import papermill
    from traitlets.config import Config

    # Kernels use sockets in a private folder, so they do not compete for ports or warn about TCP.
    settings = Config()
    for manager in (settings.KernelManager, settings.AsyncKernelManager):
        manager.transport, manager.ip = "ipc", f"{private}/k"
    name, line = task.source.stem, 1 if worker is None else worker.line
    try:
        with batch_environment(private, task.figures.parent, worker):
            papermill.execute_notebook(
                task.source, copy, parameters=task.parameters, cwd=paths.NOTEBOOKS,
                progress_bar={"desc": name, "position": line, "leave": False},
                autosave_cell_every=0, config=settings, kernel_name="python3", start_timeout=300,
            )  # fmt: skip
    except Exception as error:  # one notebook's failure must not stop the others
        lines = getattr(error, "traceback", None) or [f"{type(error).__name__}: {error}"]
        if type(error).__name__ == "DeadKernelError":
            lines = [f"{lines[0]}: the system ended it, most often for want of memory"]
        paths.write_text(log, ANSI.sub("", "\n".join(lines)) + "\n")
        print(f"{name}: {ANSI.sub('', lines[-1])[-2000:]}", file=sys.stderr)
        return "FAILED"
    return "done"


def _short_folder() -> str | None:
    """Return a folder whose path is short enough for sockets; None for the usual temporary one."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > LONGEST_SOCKET and os.access("/tmp", os.W_OK) else None


def _made(private: Path, folder: Path) -> list[str]:
    """Return the figures, tables and results that a notebook wrote, relative to their folder."""
    try:
        lines = (private / "written").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    place = folder.absolute()
    files = {Path(line) for line in lines}
    return sorted(f.relative_to(place).as_posix() for f in files if place in f.parents)


def _cells(copy: Path) -> list[dict]:
    """Read the code cells of an executed notebook; none where the file is missing or truncated."""
    try:
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
    return [cell for cell in cells if cell["cell_type"] == "code"]


def pictures(copy: Path) -> int:
    """Return the number of pictures that an executed notebook shows."""
    outputs = (output for cell in _cells(copy) for output in cell["outputs"])
    kinds = {"image/png", "image/jpeg"}
    return sum(bool(kinds & set(output.get("data", ()))) for output in outputs)


def failing_cell(copy: Path) -> str:
    """Name the last cell that papermill began, as a reader of the partial copy sees it."""
    code = _cells(copy)
    begun = [n for n, c in enumerate(code) if c["metadata"].get("papermill", {}).get("start_time")]
    if not begun:
        return "its start"
    source = "".join(code[begun[-1]]["source"]).strip()
    return f"cell [{begun[-1] + 1}] `{source.splitlines()[0] if source else ''}`"


@contextmanager
def batch_environment(private: Path, figures: Path, worker=None) -> Iterator[None]:
    """Set the environment for kernels in a batch run, and restore it on leaving.

    The user's settings, start-up files and kernels are kept out of it, and so are the backend,
    styles and language that they chose, because results must not depend on them.
    """
    from ipykernel.kernelspec import write_kernel_spec

    before = dict(os.environ)
    others = [entry for entry in [before.get("PYTHONPATH")] if entry]
    # For this Python, wherever it is installed; a kernel that is asked to end as soon as its last
    # cell is over would report an interruption.
    place, quiet = private / "data" / "kernels" / "python3", ["--log-level=CRITICAL"]
    write_kernel_spec(place, extra_arguments=quiet)
    (private / "matplotlibrc").touch()
    kept = {name: value for name, value in before.items() if not OTHERS.match(name)}
    ours = {
        "TQDM_DISABLE": "1",  # bars would be stored as text that differs from run to run
        "SOS_BATCH": "1",
        "SOS_WRITTEN": str(private / "written"),
        "SOS_CACHE": str(paths.CACHE.absolute()),  # kernels work in another directory
        "SOS_FIGURES": str(figures.absolute()),
        "PYTHONPATH": os.pathsep.join([str(paths.PACKAGE.parent), *others]),
        "LANG": "C.UTF-8",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": str(private / "matplotlibrc"),
        "MPLCONFIGDIR": str((paths.CACHE / "matplotlib").absolute()),  # keeps the list of fonts
        "IPYTHONDIR": str(private / "ipython"),
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_DATA_DIR": str(private / "data"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
    }
    if worker is not None:  # beside others it has its share of the cores
        ours["OMP_NUM_THREADS"] = str(worker.threads)
    _replace_environment(kept | ours)
    try:
        yield
    finally:
        _replace_environment(before)


def _replace_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
