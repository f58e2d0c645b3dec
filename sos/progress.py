"""Progress bars, in terminals and notebooks; none where nobody watches (SOS_BATCH is set)."""

import os

from tqdm import auto


def tqdm(*args, disable: bool = False, **kwargs):
    """tqdm.auto; its notebook bar ignores TQDM_DISABLE, so that the choice has to be passed."""
    return auto.tqdm(*args, disable=disable or bool(os.environ.get("SOS_BATCH")), **kwargs)
