"""A time at which long work stops at a checkpoint, for machines that are lent by the hour."""

import os
import time

VARIABLE = "SOS_DEADLINE"  # in seconds since 1970; worker processes inherit it


class OutOfTime(Exception):
    """Say that work stopped at a checkpoint because its time was over."""


def set_minutes(minutes: float) -> None:
    """Let work of this process and of those that it starts end in so many minutes."""
    os.environ[VARIABLE] = str(time.time() + 60 * minutes)


def passed() -> bool:
    """Tell whether the time is over; False where none was set."""
    return time.time() > float(os.environ.get(VARIABLE, "inf"))


def check() -> None:
    """Raise OutOfTime where the time is over."""
    if passed():
        raise OutOfTime("its time was over")
