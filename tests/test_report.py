"""sos.report: tables come back as they were written, and only finite numbers are results."""

import csv
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.figures import report
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
        (None, 3, "not run"),
        (0, 3, "0"),
        (121.65, 3, "122"),
        (79.712, 3, "79.7"),
        (0.0321987, 3, "0.0322"),
        (-504750.0, 3, "-504750"),
        (1e-5, 1, "0.00001"),
        (1.0, 3, "1.00"),
        (3, 2, "3.0"),
    ],
)
def test_number(value, digits, text):
    assert report.number(value, digits) == text


@given(st.floats(1e-8, 1e8), st.sampled_from([1, -1]), st.integers(1, 6))
def test_number_keeps_its_digits_without_an_exponent(size, sign, digits):
    text = report.number(sign * size, digits)
    assert "e" not in text
    assert float(text) == pytest.approx(sign * size, rel=0.5001 * 10 ** (1 - digits))


# ---------------------------------------------------------------------------- results


def test_results_come_back_as_numbers(figures):
    results = report.Results("01_beta", "smoke", MACHINE)
    assert results.add("distance", 121.6543219, "FID") == 121.6543219
    results.add("images", 50_000, "images")
    results.write()
    assert report.load_numbers("01_beta", "smoke") == {"distance": 121.654, "images": 50_000}
    (file,) = figures.rglob("*.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert file == figures / "smoke" / "results" / "01_beta.json"
    assert (content["notebook"], content["profile"]) == ("01_beta", "smoke")
    assert content.items() >= MACHINE.items()
    assert content["numbers"]["distance"] == {"value": 121.654, "unit": "FID"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_results_refuse_what_is_not_finite(figures, value):
    results = report.Results("01_beta", "smoke", MACHINE)
    with pytest.raises(ValueError, match="distance"):
        results.add("distance", value, "FID")
    results.write()
    assert report.load_numbers("01_beta", "smoke") == {}


def test_a_notebook_that_was_not_run_has_no_numbers(figures):
    assert report.load_numbers("01_beta", "smoke") == {}
    assert report.number(report.load_numbers("01_beta", "smoke").get("distance")) == "not run"


def test_results_of_profiles_are_kept_apart(figures):
    for profile, value in (("smoke", 1), ("demo", 2)):
        results = report.Results("01_beta", profile, MACHINE)
        results.add("distance", value, "FID")
        results.write()
    assert report.load_numbers("01_beta", "smoke") == {"distance": 1}
    assert report.load_numbers("01_beta", "demo") == {"distance": 2}


def test_the_papers_table_is_as_printed():
    """Table 1: in either data set the samples of the SOS-VAE have the smallest distance."""
    table = report.PAPER_TABLE_1
    assert len(table) == 14
    for data in ("CelebA", "UKBB"):
        rows = {key: value for key, value in table.items() if key[0] == data}
        assert min(rows, key=rows.get) == (data, "SOS-VAE", "samples")
    gray = {key[1:]: value for key, value in table.items() if key[0] == "CelebA, gray"}
    assert sorted(gray, key=gray.get) == [
        ("SOS-VAE", "means"),
        ("Dorta et al.", "means"),
        ("SOS-VAE", "samples"),
        ("Dorta et al.", "samples"),
        ("β-VAE", "means"),
        ("β-VAE", "samples"),
    ]


def test_gray_rows_and_their_orderings(figures):
    """Our two models have rows without a published number, and every published pair is judged."""
    results = report.Results("02_dorta_comparison", "smoke", {})
    distances = {"beta": (9, 30), "dorta": (4, 7), "sos": (3, 8), "constrained": (5, 6)}
    for kind, pair in distances.items():
        for what, distance in zip(("means", "samples"), pair, strict=True):
            results.add(f"gray-{kind}.distance_{what}", distance, "1")
    results.write()
    rows = markdown_cells(report.table_1_gray("smoke"))[2:]
    assert [row[1] for row in rows[::2]] == list(report.KIND.values())
    assert [row[3] for row in rows[-4:]] == ["5.00", "6.00", "not run", "not run"]
    assert {row[5] for row in rows[-4:]} == {"not in the paper"}
    judged = markdown_cells(report.orderings("smoke", "02_dorta_comparison"))[2:]
    assert len(judged) == 15 and sum(row[-1] == "yes" for row in judged) == 14
    (wrong,) = [row for row in judged if row[-1] != "yes"]
    assert wrong[1] == "SOS-VAE samples < Dorta et al. samples" and wrong[2] == "75 < 78"


# ---------------------------------------------------------------------------- tables

HEADER = ["model", "means", "samples, real"]
ROWS = [["β-VAE & co", "1.0", "not run"], ["SOS_VAE 50 %", "−2.5", "3–4"]]


def markdown_cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_markdown_holds_the_cells(figures):
    text = report.write_table("table1", "smoke", HEADER, ROWS)
    assert (figures / "smoke" / "table1.md").read_text(encoding="utf-8") == text
    header, rule, *rows = markdown_cells(text)
    assert (header, rows) == (HEADER, ROWS)
    assert rule == ["---", "---", "---:"]  # words on the left, numbers on the right


def test_csv_holds_the_cells(figures):
    report.write_table("table1", "smoke", HEADER, ROWS)
    with (figures / "smoke" / "table1.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [HEADER, *ROWS]


def test_tex_holds_the_escaped_cells(figures):
    report.write_table("table1", "smoke", HEADER, ROWS)
    lines = (figures / "smoke" / "table1.tex").read_text(encoding="utf-8").splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if "&" in line] == [
        r"model & means & samples, real \\",
        r"$\beta$-VAE \& co & 1.0 & not run \\",
        r"SOS\_VAE 50 \% & $-$2.5 & 3--4 \\",
    ]


def test_writing_again_replaces_and_leaves_nothing_else(figures):
    for rows in (ROWS, ROWS[:1]):
        report.write_table("table1", "smoke", HEADER, rows)
    assert len(markdown_cells((figures / "smoke" / "table1.md").read_text(encoding="utf-8"))) == 3
    assert {f.name for f in (figures / "smoke").iterdir()} == {
        "table1.md",
        "table1.csv",
        "table1.tex",
    }
