"""Define all paths in one place, so that notebooks run from any directory."""

import errno
import hashlib
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent

# A checkout has data/ beside the package; an installed wheel carries the same files inside it.
_CHECKOUT = (PACKAGE.parent / "data" / "assets").is_dir()
ROOT = PACKAGE.parent if _CHECKOUT else Path.cwd()
DATA = ROOT / "data" if _CHECKOUT else PACKAGE / "_data"

ASSETS = DATA / "assets"  # head and brain templates that the simulated images are made from
RELEASED = DATA / "models"  # released weights with their configuration, history and metrics
NOTEBOOKS = ROOT / "notebooks"
CACHE = Path(os.environ.get("SOS_CACHE", ROOT / "data" / "cache"))  # rebuilt when deleted
EXECUTED = Path(os.environ.get("SOS_EXECUTED", ROOT / "executed"))  # copies of notebooks


def _in_kernel() -> bool:
    """Return whether this process is the kernel of a notebook."""
    module = sys.modules.get("ipykernel.kernelapp")
    return module is not None and module.IPKernelApp.initialized()


# The runner writes figures/. Figures that are drawn by hand in JupyterLab must not overwrite them.
BY_HAND = _in_kernel() and "SOS_FIGURES" not in os.environ
FIGURES = Path(os.environ.get("SOS_FIGURES", EXECUTED / "figures" if BY_HAND else ROOT / "figures"))
FULL = 2**16  # a file system with fewer free bytes counts as full


@contextmanager
def replacing(target: Path):
    """Yield a temporary path, file or folder, that becomes `target` if the block ends normally.

    Raises OSError with the target's name where the disk is full, whatever error a library raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            if file.is_file():  # so that a power cut leaves no empty file under the new name
                with file.open("rb") as stream:
                    os.fsync(stream)
        os.replace(temporary, target)
        _list(target)
    except Exception as error:
        reason = os.strerror(errno.ENOSPC)
        if reason in str(error) or _is_full(target.parent):
            raise OSError(errno.ENOSPC, reason, str(target)) from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _list(target: Path) -> None:
    """Add a file to the list that SOS_WRITTEN names: a run reads there what a notebook made."""
    if "SOS_WRITTEN" in os.environ:
        with open(os.environ["SOS_WRITTEN"], "a", encoding="utf-8") as stream:
            stream.write(f"{target.absolute()}\n")


def _is_full(folder: Path) -> bool:
    """Return whether a file system has no room left, which libraries report in various ways."""
    return shutil.disk_usage(folder).free < FULL


def fingerprint(settings: dict) -> str:
    """Return twelve digits that name settings: the first of the SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def write_text(target: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep() -> None:
    """Remove unfinished files of processes that have ended; see `replacing`."""
    for place in (CACHE, FIGURES, EXECUTED):
        for temporary in place.rglob(".*.tmp"):
            process = temporary.stem.rpartition(".")[2]
            if not process.isdecimal() or _alive(int(process)):
                continue
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process is another user's
        return True
    return True
