"""Verdicts over seeds, by rules that are the same for every claim.

An ordering of two models holds where the 95 % interval of the mean difference, paired by seed,
excludes zero, and is undecided otherwise; so is a bound of one model's number. The interval is
Student's, mean ± t s/√n, whose normality a few seeds cannot test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HOLDS, NO, UNDECIDED, NOT_RUN = "holds", "no", "undecided", "not run"
LEVEL = 0.95
FEWEST = 3  # seeds, below which nothing is decided


@dataclass(frozen=True)
class Comparison:
    """Hold a mean over seeds with its interval, how many seeds agree with a claim, and a verdict.

    The claim is that the number is above zero.
    """

    mean: float
    low: float
    high: float
    agree: int
    seeds: int

    @property
    def verdict(self) -> str:
        """Return whether the claim holds: the interval excludes zero, and seeds are enough."""
        if not self.seeds:
            return NOT_RUN
        if self.seeds < FEWEST or self.low <= 0 <= self.high:
            return UNDECIDED
        return HOLDS if self.low > 0 else NO

    @property
    def count(self) -> str:
        """Write "k of n"."""
        return f"{self.agree} of {self.seeds}"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Compute the mean and Student's 95 % interval; without ends where there are fewer than two."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        mean = float(x.mean()) if len(x) else np.nan
        return mean, -np.inf, np.inf
    reach = stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return float(x.mean()), float(x.mean() - reach), float(x.mean() + reach)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Compute the mean and the standard deviation, which is NaN for a single value."""
    x = np.asarray(values, dtype=float)
    return float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else np.nan


def above_zero(values: Sequence[float]) -> Comparison:
    """Judge the claim that a number is above zero, from a value for each seed."""
    mean, low, high = interval(values)
    return Comparison(mean, low, high, sum(value > 0 for value in values), len(values))


def values_of(records: Sequence[dict], name: str) -> dict[int, float]:
    """Return {seed: value} of a measurement, for the records that have it."""
    return {record["seed"]: record[name] for record in records if name in record}


def paired(a: dict[int, float], b: dict[int, float]) -> list[tuple[float, float]]:
    """Return the values of the seeds that both have, in the order of seeds."""
    return [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]


def ordering(smaller: Sequence[dict], name: str, larger: Sequence[dict], other: str) -> Comparison:
    """Judge the claim smaller < larger, of two measurements, paired by the seeds both have."""
    a, b = values_of(smaller, name), values_of(larger, other)
    return above_zero([y - x for x, y in paired(a, b)])


def joined(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim that several comparisons test.

    It holds, or does not, where all say so; it holds "partly" where some do and others do not, and
    is undecided where nothing is said against it, or for it, but some are.
    """
    kinds = set(verdicts)
    if kinds == {HOLDS, NO} or kinds == {HOLDS, NO, UNDECIDED}:
        return "partly"
    return kinds.pop() if len(kinds) == 1 else UNDECIDED


def counted(verdicts: Sequence[str]) -> str:
    """Write how many of several comparisons hold, do not, or are undecided."""
    words = {
        HOLDS: ("holds", "hold"),
        NO: ("does not hold", "do not hold"),
        UNDECIDED: ("is undecided", "are undecided"),
        NOT_RUN: ("was not run", "were not run"),
    }
    found = ((sum(v == kind for v in verdicts), pair) for kind, pair in words.items())
    return ", ".join(f"{count} {pair[count > 1]}" for count, pair in found if count)
