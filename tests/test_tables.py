"""Tables come back as they were written, and only finite numbers are results."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sos.figures import panels
from sos.figures.labels import KIND
from sos.figures.results import Results, load_numbers
from sos.figures.table_1 import distance_rows, judged, ordering_rows, verdict_counts
from sos.figures.tables import markdown_table, number, table, write_table
from sos.system import paths

MACHINE = {"device": "a machine", "threads": 2}


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures"


# ---------------------------------------------------------------------------- numbers in text


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (None, 3, None),
        (-1127582.0, 7, "-1,127,582"),
        (0, 3, "0"),
        (121.65, 3, "122"),
        (79.712, 3, "79.7"),
        (0.0321987, 3, "0.0322"),
        (-504750.0, 3, "-504,750"),
        (1e-5, 1, "0.00001"),
        (1.0, 3, "1.00"),
        (3, 2, "3.0"),
    ],
)
def test_number(value, digits, text):
    assert number(value, digits) == text


@given(st.floats(1e-8, 1e8), st.sampled_from([1, -1]), st.integers(1, 6))
def test_number_keeps_its_digits_without_an_exponent(size, sign, digits):
    text = number(sign * size, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(
        sign * size, rel=0.5001 * 10 ** (1 - digits)
    )


# ---------------------------------------------------------------------------- results


def test_results_come_back_as_numbers(figures):
    results = Results("01_beta", "smoke", MACHINE)
    assert results.add("distance", 121.6543219, "FID") == 121.6543219
    results.add("images", 50_000, "images")
    results.write()
    assert load_numbers("01_beta", "smoke") == {"distance": 121.654, "images": 50_000}
    (file,) = figures.rglob("*.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert file == figures / "smoke" / "results" / "01_beta.json"
    assert (content["notebook"], content["profile"]) == ("01_beta", "smoke")
    assert content.items() >= MACHINE.items()
    assert content["numbers"]["distance"] == {"value": 121.654, "unit": "FID"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_results_refuse_what_is_not_finite(figures, value):
    results = Results("01_beta", "smoke", MACHINE)
    with pytest.raises(ValueError, match="distance"):
        results.add("distance", value, "FID")
    results.write()
    assert load_numbers("01_beta", "smoke") == {}


def test_a_notebook_that_was_not_run_has_no_numbers(figures):
    assert load_numbers("01_beta", "smoke") == {}
    assert number(load_numbers("01_beta", "smoke").get("distance")) is None


def test_results_of_profiles_are_kept_apart(figures):
    for profile, value in (("smoke", 1), ("demo", 2)):
        results = Results("01_beta", profile, MACHINE)
        results.add("distance", value, "FID")
        results.write()
    assert load_numbers("01_beta", "smoke") == {"distance": 1}
    assert load_numbers("01_beta", "demo") == {"distance": 2}


def test_gray_rows_and_their_orderings(figures):
    """Our two models have rows without a published number, and every published pair is judged."""
    results = Results("02_dorta_comparison", "smoke", {})
    distances = {"beta": (9, 30), "dorta": (4, 7), "sos": (3, 8), "constrained": (5, 6)}
    for kind, pair in distances.items():
        for what, distance in zip(("means", "samples"), pair, strict=True):
            results.add(f"gray-{kind}.distance_{what}", distance, "1")
    results.write()
    notebook = "02_dorta_comparison"
    records = {
        f"gray-{kind}": [
            {"seed": seed, "distance_means": 100 * m + seed, "distance_samples": 100 * s + seed}
            for seed in range(5)
        ]
        for kind, (m, s) in distances.items()
    }
    rows = distance_rows(notebook, "smoke", "gray", tuple(KIND), records)
    assert [row["model"] for row in rows[::2]] == list(KIND.values())
    assert [row["these weights"] for row in rows[-4:]] == ["5.00", "6.00", None, None]
    assert [row["distance here"] for row in rows[-4:]] == ["502 ± 2", "602 ± 2", None, None]
    assert {row["paper's data"] for row in rows[-4:]} == {"not in the paper"}
    assert "not run" in table(rows).data
    ordered = ordering_rows(notebook, "smoke", ["gray"], records)
    assert len(ordered) == 15 and sum(row["holds here"] == "holds" for row in ordered) == 14
    assert verdict_counts(ordered) == "14 hold, 1 does not hold"
    (wrong,) = [row for row in ordered if row["holds here"] != "holds"]
    assert wrong["the paper finds"] == "SOS-VAE samples < Dorta et al. samples"
    assert wrong["paper"] == "75 < 78" and wrong["seeds that agree"] == "0 of 5"
    assert wrong["difference here"] == "−100 [−100, −100]"
    assert {row["by thumbnails"] for row in ordered} == {"not run"}


def test_one_training_decides_nothing():
    one = {f"gray-{kind}": [{"seed": 0, "distance_means": 1.0}] for kind in ("beta", "sos")}
    found = judged(one, "gray", (("sos", "means"), ("beta", "means")), "distance")
    assert (found.verdict, found.count) == ("undecided", "0 of 1")


# ---------------------------------------------------------------------------- tables

HEADER = ["model", "means", "samples, real"]
ROWS = [["β-VAE & co", "1.0", "not run"], ["SOS_VAE 50 %", "−2.5", "3–4"]]


def markdown_cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_markdown_holds_the_cells(figures):
    write_table("table1", "smoke", HEADER, ROWS)
    text = (figures / "smoke" / "table1.md").read_text(encoding="utf-8")
    assert text == markdown_table(HEADER, ROWS)
    header, rule, *rows = markdown_cells(text)
    assert (header, rows) == (HEADER, ROWS)
    assert rule == ["---", "---:", "---:"]  # words on the left, numbers on the right


def test_csv_holds_the_cells(figures):
    write_table("table1", "smoke", HEADER, ROWS)
    with (figures / "smoke" / "table1.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [HEADER, *ROWS]


def test_tex_holds_the_escaped_cells(figures):
    write_table("table1", "smoke", HEADER, ROWS)
    lines = (figures / "smoke" / "table1.tex").read_text(encoding="utf-8").splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if "&" in line] == [
        r"model & means & samples, real \\",
        r"$\beta$-VAE \& co & 1.0 & not run \\",
        r"SOS\_VAE 50 \% & $-$2.5 & 3--4 \\",
    ]


def test_writing_again_replaces_and_leaves_nothing_else(figures):
    for rows in (ROWS, ROWS[:1]):
        write_table("table1", "smoke", HEADER, rows)
    assert len(markdown_cells((figures / "smoke" / "table1.md").read_text(encoding="utf-8"))) == 3
    assert {f.name for f in (figures / "smoke").iterdir()} == {
        "table1.md",
        "table1.csv",
        "table1.tex",
    }


# ---------------------------------------------------------------------------- rows of pictures


def test_tiles_are_the_pictures_with_white_gaps():
    images = torch.rand(5, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    canvas = panels.tile(images, 3)
    assert canvas.shape == (2 * 40 + 2, 3 * 60 + 2 * 2, 3)
    for k, image in enumerate(images):
        top, left = k // 3 * 42, k % 3 * 62
        found = canvas[top : top + 40, left : left + 60]
        assert np.allclose(found, image.permute(1, 2, 0), atol=1e-6)
    assert (canvas[42:, 2 * 62 :] == 1).all()  # the sixth place is empty


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 7)])
def test_a_cross_stands_on_its_pixel(place):
    """A row whose pictures are black but for the marked pixel: the cross is drawn around it."""
    images = torch.zeros(3, 1, 8, 8)
    images[..., place[0], place[1]] = 1
    figure = panels.pictures([panels.row("mark", images, cross=place)])
    (ax,) = figure.axes
    (image,) = ax.images
    pixels, (left, right, bottom, top) = np.asarray(image.get_array())[..., 0], image.get_extent()
    for column, line in enumerate(ax.lines):
        x, y = line.get_xdata()[0], line.get_ydata()[0]
        i = int((y - top) / (bottom - top) * pixels.shape[0])
        j = int((x - left) / (right - left) * pixels.shape[1])
        assert pixels[i, j] > 0.9 and int(x) == column


def test_rows_of_maps_share_what_they_are_told():
    values = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    signed, positive = (panels.row("", values, cmap) for cmap in ("RdBu_r", "viridis"))
    assert signed.limits == (-positive.limits[1], positive.limits[1]) and positive.limits[0] == 0
    assert panels.row("", values, "viridis", limits=(0, 3)).limits == (0, 3)


@pytest.mark.parametrize("images", [
    torch.zeros(3, 8, 8), torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
])  # fmt: skip
def test_what_is_no_row_of_pictures_is_refused(images):
    with pytest.raises(ValueError, match="N, C, H, W"):
        panels.row("", images)


def test_no_rows_and_maps_of_zeros():
    with pytest.raises(ValueError, match="at least one row"):
        panels.pictures([])
    panels.pictures([panels.row("zero", torch.zeros(2, 1, 8, 8), "viridis")]).canvas.draw()
