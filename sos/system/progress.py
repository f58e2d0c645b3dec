"""Progress bars, in terminals and notebooks; none where nobody watches (SOS_BATCH is set)."""

import os
import threading

from tqdm import auto

# A lock within this process is enough: tqdm's own needs semaphores of the system, which a worker
# that is ended leaves behind, with a warning.
auto.tqdm.set_lock(threading.RLock())


_shown = {"line": None, "of": ""}  # where bars of this process stand, and what they are of


def stand(line: int | None = None, of: str = "") -> None:
    """Put this process's bars on a line of the terminal, and the name of a model before them."""
    _shown.update(line=line, of=of)


def tqdm(*args, disable: bool = False, desc: str = "", **kwargs):
    """Make a progress bar by tqdm.auto.

    The notebook bar of tqdm ignores TQDM_DISABLE, so that the choice has to be passed.
    """
    of = _shown["of"]
    desc = desc if desc.startswith(of) else f"{of} {desc}"
    place = {"position": _shown["line"], "leave": False} if _shown["line"] else {}
    quiet = disable or bool(os.environ.get("SOS_BATCH"))
    return auto.tqdm(*args, disable=quiet, desc=desc, dynamic_ncols=True, **place, **kwargs)
