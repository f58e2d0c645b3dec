"""Figures and tables of notebook 10, from records that are made up."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.contour import ContourSet

from sos.analysis import regions, verdicts
from sos.figures import component_scaling, variance_split
from sos.figures import stabilising_the_variance as stabilising

RANKS, TARGETS, LATENTS, SEEDS = (0, 5), (2.0, None), (10, 35), (0, 1)
FACTORS = "skin_tone", "smile", "yaw"


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)

    def record(seed, rank, target):
        r2 = {
            "latent": [0.5, 0.0, 0.1], "factor": [0.1 * rank, 0.0, 0.3],
            "both": [0.6, 0.0, 0.4], "images": [0.9, 0.1, 0.5],
        }  # fmt: skip
        lists = {f"r2_{part}": values for part, values in r2.items()}
        means = {f"r2_{part}_mean": float(np.mean(values)) for part, values in r2.items()}
        noise = rng.standard_normal()
        return {
            "seed": seed, "elbo": 1000.0 + 100 * rank + noise, "kl_nats": target or 16.0,
            "rank_nats": 3.0 * rank, "variance_latent": 0.3, "variance_factor": 0.1 * rank,
        } | lists | means  # fmt: skip

    return {
        (rank, target, latent): [record(seed, rank, target) for seed in SEEDS]
        for rank in RANKS for target in TARGETS for latent in LATENTS
    }  # fmt: skip


def contours(figure):
    return [c for ax in figure.axes for c in ax.get_children() if isinstance(c, ContourSet)]


def test_lines_of_equal_elbo_need_every_cell(cells):
    figure = variance_split.phases(cells)
    assert len(contours(figure)) == len(LATENTS)
    lacking = cells | {(5, None, 10): []}
    assert len(contours(variance_split.phases(lacking))) == len(LATENTS) - 1


def test_every_training_has_a_mark(cells):
    ax = variance_split.phases(cells).axes[0]
    marks = [line.get_xydata()[0] for line in ax.get_lines() if line.get_marker() in ("o", "*")]
    expected = [(r["kl_nats"], r["rank_nats"]) for key, records in cells.items()
                for r in records if key[2] == 10]  # fmt: skip
    assert sorted(map(tuple, marks)) == sorted(expected)


def test_factors_that_images_do_not_tell_are_left_out(cells):
    columns = {"0": cells[0, None, 10], "5": cells[5, None, 10]}
    figure = variance_split.factors(columns, FACTORS, "rank R")
    found = {ax.get_title(): ax.images[0].get_array() for ax in figure.axes}
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["skin tone", "yaw"]
    np.testing.assert_allclose(found["Pω"], [[0, 50], [30, 30]])
    np.testing.assert_allclose(found["images"], [[90], [50]])


def test_rows_are_in_order_and_have_means_over_seeds(cells):
    rows = variance_split.cell_rows(cells)
    order = [(row["latents"], row["R"], row["ξ_KL (nats)"]) for row in rows]
    assert order[:4] == [("10", "0", "2"), ("10", "0", "plain"), ("10", "5", "2"),
                         ("10", "5", "plain")]  # fmt: skip
    values = [r["elbo"] for r in cells[0, 2.0, 10]]
    assert rows[0]["ELBO (nats)"] == f"{np.mean(values):,.0f} ± {np.std(values, ddof=1):,.0f}"


def test_comparisons_have_intervals_only_with_several_seeds():
    one, many = verdicts.above_zero([2.0]), verdicts.above_zero([2.0, 2.1, 1.9])
    rows = variance_split.comparison_rows(
        {"one": one, "many": many, "none": verdicts.above_zero([])}
    )
    assert [row["verdict"] for row in rows] == ["undecided", "holds", "not run"]
    assert rows[0]["95 % interval"] is None and rows[1]["95 % interval"] == "1.75 to 2.25"


def test_nothing_recorded_is_drawn_as_nothing(cells):
    empty = {key: [] for key in cells}
    assert variance_split.factors({"0": []}, FACTORS, "rank R").axes
    assert not contours(variance_split.phases(empty))
    variance_split.shares({"learnt ε": empty}).draw_without_rendering()
    variance_split.ranks({0: [], 5: []}, {}).draw_without_rendering()


def test_rows_of_regions_and_of_a_constraint_are_means_over_seeds():
    found = [
        {"seed": s, "separable": s, "hair, area": 0.2, "hair, share": 0.3 + s / 10} for s in (0, 1)
    ]
    (row,) = component_scaling.region_rows({"faces": found})
    assert row["its area"] == "0.20" and row["largest share of energy"] == "0.35 ± 0.07"
    assert row["separable, of the first five"] == "0.5 ± 0.7"
    assert regions.LEADING == 5
    judged = [{"seed": 0, "test_nll_nats": -5.0, "distance_means": 7.0}]
    (row,) = stabilising.constraint_rows({"none": judged})
    assert row["log-density (nats)"] == "5" and row["FD of means"] == "7"
