"""The ledger: entries are complete, and verdicts follow from numbers alone."""

import json
import re

import pytest

from sos import profiles
from sos.analysis import claims, seeds
from sos.figures.claims import page
from sos.figures.labels import KIND, PAPER_DATA
from sos.figures.table_1 import ordering_rows, verdict_counts
from sos.run.claims import PAGE
from sos.system import paths

PROFILE = profiles.profile("demo")
LIST = """
first:
  section: "4.1"
  claim: a
  tested: b
  criterion: c
  where: 01_beta_vae_vs_sos_vae.ipynb#Table-1
  tests: [{tests}]
"""


@pytest.fixture
def ledger(tmp_path):
    """Judge one claim by given tests and records {model: numbers of seeds}."""

    def judge(tests, records):
        file = tmp_path / "claims.yaml"
        file.write_text(LIST.replace("{tests}", tests), encoding="utf-8")
        (claim,) = claims.load(lambda kind, model: records.get(f"{kind}:{model}", ()), file)
        return claim

    return judge


def of_seeds(**numbers):
    count = len(next(iter(numbers.values())))
    return [{"seed": s} | {name: v[s] for name, v in numbers.items()} for s in range(count)]


LOW, HIGH = of_seeds(x=[1.0, 1.1, 1.2], y=[2.0, 2.0, 2.0]), of_seeds(x=[3.0, 3.1, 3.3])


@pytest.mark.parametrize("tests, verdict", [
    ('{less: ["judges:a.x", "judges:b.x"]}', "holds"),
    ('{less: ["judges:b.x", "judges:a.x"]}', "no"),
    ('{less: ["judges:a.x", "judges:nobody.x"]}', "not run"),
    ('{number: "judges:a.x", above: 0.5}', "holds"),
    ('{number: "judges:a.x", below: 0.5}', "no"),
    ('{number: "judges:a.x", above: 1.05}', "undecided"),
    ('{number: "judges:c.x", above: 1}', "undecided"),
    ('{number: "judges:c.x", above: 1, scale: log}', "holds"),
    ('{less: ["judges:a.x", "judges:c.x"], scale: log}', "holds"),
    ('{number: "judges:a.x / y", between: [0.5, 0.7]}', "undecided"),
    ('{number: "judges:a.x / y", between: [0.3, 0.8]}', "holds"),
    ('{number: "judges:a.x", between: [2, 3]}', "no"),
    ('{number: "judges:a.x", above: 0.5}, {number: "judges:a.x", below: 0.5}', "partly"),
])  # fmt: skip
def test_verdicts_follow_from_the_numbers(tests, verdict, ledger):
    wide = of_seeds(x=[8.0, 10.0, 30.0])  # by factors
    assert ledger(tests, {"judges:a": LOW, "judges:b": HIGH, "judges:c": wide}).verdict == verdict


def test_a_test_tells_its_numbers(ledger):
    (test,) = ledger(
        '{less: ["judges:a.x", "judges:b.x"]}', {"judges:a": LOW, "judges:b": HIGH}
    ).tests
    assert test.words == "a: x < b: x" and test.found.count == "3 of 3"
    (name, mean, deviation), _ = test.numbers
    assert (name, round(mean, 6), round(deviation, 6)) == ("a: x", 1.1, 0.1)


def test_without_numbers_there_is_a_reason(tmp_path):
    file = tmp_path / "claims.yaml"
    for word, verdict in {"untested": "not run", "untestable": "not testable here"}.items():
        file.write_text(LIST.replace("tests: [{tests}]", f"{word}: no time"), encoding="utf-8")
        (claim,) = claims.load(lambda *_: (), file)
        assert claim.verdict == verdict


@pytest.mark.parametrize("tests, message", [
    ('{more: ["judges:a.x", "judges:b.x"]}', "is no test; expected one of above, below, between"),
    ('{number: "judges:a.x"}', "is no test"),
    ('{number: "judges:a.x", above: 1, below: 2}', "is no test"),
    ('{number: "judges:a.x", above: 1, scale: square}', "is no test"),
    ('{number: "a.x", above: 1}', "is no quantity; expected kind:model.number"),
    ("", "needs one of tests, exact"),
])  # fmt: skip
def test_entries_that_cannot_be_judged_are_refused(tests, message, ledger):
    with pytest.raises(ValueError, match=message):
        ledger(tests, {})


def quantities(claim):
    for test in claim.get("tests", ()):
        yield from test.get("less", (test.get("number"),))


def test_entries_of_the_ledger_name_what_there_is():
    """Kinds of measurement, models, and headings of notebooks."""
    import yaml

    entries = yaml.safe_load(claims.FILE.read_text(encoding="utf-8"))
    for key, entry in entries.items():
        for text in quantities(entry):
            quantity = claims.Quantity.read(text)
            assert quantity.kind in seeds.MEASUREMENTS, key
            assert profiles.experiment_named(PROFILE, quantity.model), key
        if "exact" in entry:
            file, _, name = entry["exact"].partition("::")
            assert f"def {name}(" in (paths.ROOT / file).read_text(encoding="utf-8"), key
        notebook, _, anchor = entry["where"].partition("#")
        text = (paths.NOTEBOOKS / notebook).read_text(encoding="utf-8")
        headings = {h.replace(" ", "-") for h in re.findall(r'"#+ (.*?)(?:\\n)?"', text)}
        assert anchor in headings, f"{key}: {entry['where']}"


def test_the_page_is_what_the_records_say():
    """Run `python -m sos.run.claims` where it is not."""
    found = claims.load(seeds.records_of(PROFILE, "released"))
    assert page(found) == PAGE.read_text(encoding="utf-8")


def source(file):
    cells = json.loads((paths.NOTEBOOKS / file).read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def test_texts_count_the_orderings_of_table_1_as_the_records_do():
    records = seeds.records_of(PROFILE, "released")
    models = {f"{d}-{k}": records("judges", f"{d}-{k}") for d in PAPER_DATA for k in KIND
              if f"{d}-{k}" in PROFILE.experiments}  # fmt: skip
    rows = {
        data: ordering_rows("01_beta_vae_vs_sos_vae", "demo", [data], models) for data in PAPER_DATA
    }
    assert verdict_counts(rows["faces"] + rows["brains"]) == "10 hold, 2 are undecided"
    assert verdict_counts(rows["gray"]) == "9 hold, 3 do not hold, 3 are undecided"
    assert "Ten of the twelve orderings" in source("01_beta_vae_vs_sos_vae.ipynb")
    words = "nine hold, three do not, and three are undecided"
    assert words in source("02_dorta_comparison.ipynb")
    assert words in (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert "19 hold here, three do not, and five are undecided" in source("00_start_here.ipynb")
