"""Progress bars, in terminals and notebooks; none where nobody watches (SOS_BATCH is set)."""

import os
import threading

from tqdm import auto

# A lock within this process is enough: tqdm's own needs semaphores of the system, which a worker
# that is ended leaves behind, with a warning.
auto.tqdm.set_lock(threading.RLock())


def tqdm(*args, disable: bool = False, **kwargs):
    """tqdm.auto; its notebook bar ignores TQDM_DISABLE, so that the choice has to be passed."""
    return auto.tqdm(*args, disable=disable or bool(os.environ.get("SOS_BATCH")), **kwargs)
