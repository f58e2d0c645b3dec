"""The ledger of claims: what the paper says, what was tested, and the verdict that numbers give.

Entries are in data/claims.yaml, each with its criterion. A verdict is never written by hand: it
follows from released records by the rules of `sos.analysis.verdicts`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sos.analysis import verdicts
from sos.system import paths

FILE = paths.DATA / "claims.yaml"
FIELDS = {"section", "claim", "tested", "criterion", "where"}  # that every entry has
KINDS = {"less", "above", "below", "between"}  # of tests: an ordering, or a bound of one number
SCALES = {"linear": float, "log": math.log}
WAYS = "tests", "exact", "untested", "untestable"  # of which an entry has one
NOT_TESTABLE = "not testable here"

Records = Callable[[str, str], Sequence[dict]]  # (kind of measurement, model) → one for each seed


@dataclass(frozen=True)
class Test:
    """Hold one comparison in words, what it found, and the numbers behind it."""

    words: str
    found: verdicts.Comparison
    numbers: tuple[tuple[str, float, float], ...]  # name, mean over seeds, standard deviation


@dataclass(frozen=True)
class Claim:
    """Hold a claim of the paper, how it was tested, and what came out."""

    key: str
    section: str
    claim: str  # in our words
    tested: str
    criterion: str
    where: str  # the notebook and its section
    tests: tuple[Test, ...] = ()
    exact: str | None = None  # the test in tests/ that shows it, where nothing is to be measured
    untested: str | None = None  # why nothing was measured
    untestable: str | None = None  # why nothing can be measured on simulated images
    paper: str | None = None  # the paper's own numbers
    notes: str = ""

    @property
    def verdict(self) -> str:
        """Return holds, partly, no, undecided, not run or not testable here."""
        if self.untestable:
            return NOT_TESTABLE
        if self.untested:
            return verdicts.NOT_RUN
        if self.exact:
            return verdicts.HOLDS
        return verdicts.joined([test.found.verdict for test in self.tests])


@dataclass(frozen=True)
class Quantity:
    """Say which number of a model is meant: kind:model.name, or kind:model.name / name."""

    kind: str
    model: str
    name: str
    divisor: str | None = None

    @classmethod
    def read(cls, text: str) -> "Quantity":
        """Read "judges:faces-sos.distance_samples". Raises ValueError for other shapes."""
        above, _, below = (part.strip() for part in text.partition("/"))
        kind, colon, rest = above.partition(":")
        model, dot, name = rest.rpartition(".")
        if not (colon and dot and model and name):
            raise ValueError(f"{text!r} is no quantity; expected kind:model.number, such as "
                             f"judges:faces-sos.distance_samples")  # fmt: skip
        return cls(kind, model, name, below or None)

    def values(self, records: Records) -> dict[int, float]:
        """Return {seed: value}, for the seeds of which it is recorded."""
        found = records(self.kind, self.model)
        values = verdicts.values_of(found, self.name)
        if self.divisor is None:
            return values
        below = verdicts.values_of(found, self.divisor)
        return {seed: value / below[seed] for seed, value in values.items() if seed in below}

    @property
    def words(self) -> str:
        """Write the quantity without its kind."""
        ratio = f" / {self.divisor}" if self.divisor else ""
        return f"{self.model}: {self.name}{ratio}".replace("_", " ")


def load(records: Records, file: Path = FILE) -> list[Claim]:
    """Return all claims with their verdicts. Raises ValueError for an entry that is incomplete."""
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [_claim(key, entry, records) for key, entry in entries.items()]


def _claim(key: str, entry: dict, records: Records) -> Claim:
    lacking = FIELDS - entry.keys()
    if lacking:
        raise ValueError(f"{key} lacks {', '.join(sorted(lacking))}; every claim has them")
    if sum(bool(entry.get(word)) for word in WAYS) != 1:
        raise ValueError(f"{key} needs one of {', '.join(WAYS)}")
    unknown = entry.keys() - FIELDS - {*WAYS, "paper", "notes"}
    if unknown:
        raise ValueError(f"{key} has {', '.join(sorted(unknown))}, which no claim has")
    tests = tuple(_test(key, test, records) for test in entry.get("tests", ()))
    return Claim(key, **entry | {"tests": tests})


def _test(key: str, test: dict, records: Records) -> Test:
    """Do one test: {less: [a, b]}, or {number: a, above: x}, below: x, or between: [x, y].

    With `scale: log`, for what differs by factors, differences are those of logarithms.
    """
    kinds, scale = KINDS & test.keys(), test.get("scale", "linear")
    rest = test.keys() - kinds - {"scale"}
    of_one = rest == (set() if kinds == {"less"} else {"number"})
    if len(kinds) != 1 or not of_one or scale not in SCALES:
        raise ValueError(f"{key}: {test} is no test; expected one of {', '.join(sorted(KINDS))}")
    (kind,) = kinds
    if kind == "less":
        quantities = [Quantity.read(text) for text in test["less"]]
        a, b = (quantity.values(records) for quantity in quantities)
        differences = [SCALES[scale](y) - SCALES[scale](x) for x, y in verdicts.paired(a, b)]
        words = " < ".join(quantity.words for quantity in quantities)
        return Test(words, verdicts.above_zero(differences), _numbers(quantities, (a, b)))
    quantity, bound = Quantity.read(test["number"]), test[kind]
    values = quantity.values(records)
    if kind == "between":
        low, high = bound
        return Test(
            f"{quantity.words} between {low:g} and {high:g}",
            within(list(values.values()), low, high),
            _numbers([quantity], [values]),
        )
    above = [SCALES[scale](value) - SCALES[scale](bound) for value in values.values()]
    margins = above if kind == "above" else [-margin for margin in above]
    words = f"{quantity.words} {kind} {bound:g}"
    return Test(words, verdicts.above_zero(margins), _numbers([quantity], [values]))


def within(values: Sequence[float], low: float, high: float) -> verdicts.Comparison:
    """Judge the claim that a number lies between two bounds: by the one that it is nearer to."""
    sides = [[v - low for v in values], [high - v for v in values]]
    return min(map(verdicts.above_zero, sides), key=lambda side: side.mean)


def _numbers(quantities: Sequence[Quantity], values: Sequence[dict[int, float]]) -> tuple:
    """Return name, mean and standard deviation of each quantity that was measured."""
    result = []
    for quantity, found in zip(quantities, values, strict=True):
        if found:
            mean, deviation = verdicts.mean_and_deviation(list(found.values()))
            result.append((quantity.words, mean, deviation))
    return tuple(result)
