"""Verdicts over seeds, against scipy and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sos.analysis import verdicts


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=9, unique=True))
def test_verdicts_are_those_of_a_t_test(values):
    found = verdicts.above_zero(values)
    test = stats.ttest_1samp(values, 0)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    if abs(test.pvalue - 0.05) > 1e-6:
        decided = {True: "holds", False: "no"}[np.mean(values) > 0]
        assert found.verdict == (decided if test.pvalue < 0.05 else "undecided")


def test_orderings_are_paired_by_seed():
    """All seeds agree on a small difference, which the scatter between seeds would hide."""
    small = [{"seed": seed, "x": 100.0 * seed} for seed in range(5)]
    large = [{"seed": seed, "y": 100.0 * seed + 3 + 0.1 * seed} for seed in reversed(range(5))]
    found = verdicts.ordering(small, "x", large, "y")
    assert (found.verdict, found.count) == ("holds", "5 of 5")
    assert found.mean == pytest.approx(3.2)
    assert verdicts.ordering(large, "y", small, "x").verdict == "no"


def test_seeds_that_only_one_model_has_do_not_count():
    a, b = ([{"seed": s, "x": float(s)} for s in seeds] for seeds in ((0, 1, 2), (2, 3, 4)))
    assert verdicts.ordering(a, "x", b, "x").seeds == 1
    assert verdicts.ordering(a, "x", b, "other").verdict == "not run"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_seeds_decide_nothing(count):
    found = verdicts.above_zero([5.0, 5.1][:count])
    assert found.verdict == ("undecided" if count else "not run")


@pytest.mark.parametrize("several, expected", [
    (["holds", "holds"], "holds"), (["no", "no"], "no"), (["holds", "no"], "partly"),
    (["holds", "undecided"], "undecided"), (["holds", "no", "undecided"], "partly"),
    (["not run", "not run"], "not run"), (["holds", "not run"], "undecided"),
])  # fmt: skip
def test_several_comparisons_are_joined(several, expected):
    assert verdicts.joined(several) == expected


def test_verdicts_are_counted_in_words():
    several = ["holds"] * 10 + ["undecided", "no"]
    assert verdicts.counted(several) == "10 hold, 1 does not hold, 1 is undecided"
