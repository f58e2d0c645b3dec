"""What notebook 09 makes of measurements: estimates, verdicts, and figures that can be drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sos.figures import editing_predicts as figures

MASKS, FACTORS, LESIONS = ("left half", "10 pixels"), ("skin tone", "smile"), ("9 mm, dark",)
STREAM = np.random.default_rng(0)


def numbers(mean, count=20):
    return (mean + 0.01 * STREAM.normal(size=count)).tolist()


def measured(error=0.1):
    scores = {"unconditioned": 0.2, "rmse": error, "nats": 1, "coverage_50": 0.5,
              "coverage_90": 0.9, "width": 0.1}  # fmt: skip
    ways = {way: {k: numbers(v) for k, v in scores.items()} for way in ("whole", "revealed")}
    by_count = {c: {"error": numbers(0.7)} for c in ("1", "10")}
    edits = {m: dict.fromkeys(FACTORS, by_count)
             for m in ("covariance", "code", "paint alone", "copied colour")}  # fmt: skip
    return {
        "held out": dict.fromkeys(MASKS, ways),
        "edits": edits,
        "anomalies": {LESIONS[0]: {"residual": numbers(0.1), "leave-one-out": numbers(0.3)}},
        "order": {"most telling first": [numbers(0.1, 4)] * 5, "random": [numbers(0.2, 4)] * 5},
    }


def record(variant, **more):
    return {theme: {variant: found} for theme, found in measured(**more).items()}


RECORDS = {
    "learnt": [record("as trained"), record("as trained")],
    "paper": [record("exact", error=0.3)],
    "hybrid": [],
}
CONTROLS = {name: {"PPCA, R = 35": found} for name, found in measured().items()}


def theme(name):
    return figures.theme(name, RECORDS, CONTROLS)


def test_a_theme_has_what_was_measured_and_nothing_else():
    found = theme("edits")
    assert list(found) == ["the paper's ε, exact", "learnt ε", "PPCA, R = 35"]
    assert [len(n) for n in found.values()] == [1, 2, 1]
    assert figures.theme("nothing", RECORDS) == {}


def test_estimates_are_means_over_seeds_and_images_without_gaps():
    values = np.array([[1.0, 2.0, np.nan, 3.0], [3.0, 4.0, 5.0, 5.0]])
    found = figures.estimate(values)
    assert found.mean == pytest.approx(3.0) and found.seeds == pytest.approx((2.0, 4.0))
    assert 2 <= found.low <= found.mean <= found.high <= 4
    assert figures.estimate(np.array([[np.nan, 1.0]])) is None and figures.estimate(None) is None
    assert figures.Estimate(-0.5, -0.75, 0.25, ()).written(2) == "−0.50 [−0.75, 0.25]"
    assert figures.Estimate(-1234.5, -1300, -1200, ()).written(2) == "−1,234 [−1,300, −1,200]"


def test_intervals_cover_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(1).exponential(size=(200, 1, 100))
    found = [figures.estimate(one) for one in draws]
    inside = np.mean([one.low <= 1 <= one.high for one in found])
    assert 0.88 < inside <= 0.98


@pytest.mark.parametrize("seeds, word", [
    ((-1.0, -1.0), "holds"), ((1.0, 1.0), "fails"), ((-1.0, 0.5), "undecided"),
    ((-0.001, -0.001), "undecided"),
])  # fmt: skip
def test_a_verdict_needs_the_interval_and_every_seed(seeds, word):
    noise = np.random.default_rng(0).normal(size=50)
    values = np.stack([seed + 0.5 * (noise - noise.mean()) for seed in seeds])
    assert figures.verdict(values).startswith(word)
    assert figures.verdict(None) is None


def test_differences_pair_seeds_and_images():
    ours, theirs = np.arange(6.0).reshape(3, 2), np.ones((2, 2))
    assert figures.difference(ours, theirs).tolist() == [[-1, 0], [1, 2]]
    assert figures.difference(ours, theirs[:1]).tolist() == [[-1, 0], [1, 2], [3, 4]]
    assert figures.difference(None, ours) is None


def test_verdicts_say_what_the_numbers_say():
    themes = [{"faces": theme(name)} for name in ("held out", "edits")]
    rows = figures.verdict_rows(*themes, theme("anomalies"))
    assert len(rows) == 2 * len(MASKS) + len(FACTORS) + len(LESIONS)
    lowered, covered, edited, found = rows[0], rows[2], rows[4], rows[-1]
    assert lowered["learnt ε"].startswith("holds (−0.")
    assert lowered["the paper's ε, exact"].startswith("fails (+0.")
    assert covered["claim"].startswith("90 %") and covered["learnt ε"] == "holds (0.90)"
    # Paint alone has as small an error as the edits here, so that nothing is decided.
    assert edited["learnt ε"].startswith("undecided") and edited["low rank + sparse"] == "–"
    assert found["learnt ε"].startswith("holds (−0.2")


@pytest.mark.parametrize("share, word", [(0.9, "holds"), (0.7, "fails"), (0.85, "undecided")])
def test_intervals_are_judged_on_both_sides(share, word):
    values = [share - 0.02, share + 0.02] * 10
    numbers = [{"left half": {"revealed": {"coverage_90": values}}}]
    assert figures._covered("left half", numbers).startswith(word)
    assert figures._covered("10 pixels", numbers) is None


def test_tables_have_a_row_for_each_model_and_say_what_was_not_run():
    rows = figures.held_out_rows(theme("held out"), "left half")
    assert [row["model"] for row in rows] == ["the paper's ε, exact", "learnt ε", "PPCA, R = 35"]
    assert float(rows[1]["RMSE"].split()[0]) == pytest.approx(0.1, abs=0.01)
    summary = figures.held_out_summary(theme("held out"), MASKS)
    assert [row["model"] for row in summary] == [row["model"] for row in rows]
    assert summary[1]["left half: RMSE"] == rows[1]["RMSE"]
    assert len(summary[1]) == 1 + 3 * len(MASKS)
    columns = {"a": ("learnt ε", "covariance"), "b": ("low rank + sparse", "covariance")}
    edits = figures.edit_rows(theme("edits"), columns)
    assert [row["changed"] for row in edits] == list(FACTORS)
    assert float(edits[0]["a"].split()[0]) == pytest.approx(0.7, abs=0.02)
    assert edits[0]["b"] is None
    assert figures.count_rows({"faces": theme("edits")})[1]["trainings, faces"] == 2
    lesions = figures.lesion_rows(theme("anomalies"), {LESIONS[0]: 0.0123})
    assert len(lesions) == 4 and lesions[-1][LESIONS[0]] == "0.012"


@pytest.mark.parametrize("draw", [
    lambda: figures.held_out({"faces": theme("held out")}, {"faces": MASKS}),
    lambda: figures.edits({"faces": theme("edits"), "brains": theme("edits")}),
    lambda: figures.order_and_lesions({"faces": theme("order")}, theme("anomalies")),
])  # fmt: skip
def test_figures_show_a_mark_for_each_model(draw):
    figure = draw()
    figure.draw_without_rendering()
    assert all(ax.lines for ax in figure.axes if ax.axison)
    plt.close(figure)
