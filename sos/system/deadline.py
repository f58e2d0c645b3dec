"""A time at which long work stops at a checkpoint, for machines that are lent by the hour."""

import os
import time

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
VARIABLE = "SOS_DEADLINE"  # in seconds since 1970; worker processes inherit it


class OutOfTime(Exception):
    """Say that work stopped at a checkpoint because its time was over."""


def set_minutes(minutes: float | None) -> None:
    """Let work of this process and of those that it starts end in so many minutes, or never."""
    if minutes is not None:
        os.environ[VARIABLE] = str(time.time() + 60 * minutes)


def passed() -> bool:
    """Tell whether the time is over, in the main process; False where none was set."""
    if VARIABLE not in os.environ:
        return False
    from sos.system import distributed  # the options' listing needs no packages

    return distributed.broadcast(time.time() > float(os.environ[VARIABLE]))


def check() -> None:
    """Raise OutOfTime where the time is over."""
    if passed():
        raise OutOfTime("its time was over")
