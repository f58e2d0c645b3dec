"""Table 1 of the paper beside the distances measured here (notebooks 01 and 02)."""

from collections.abc import Sequence
from itertools import combinations

from sos.figures.labels import KIND, LABELS, PAPER_DATA, PAPER_TABLE_1
from sos.figures.results import load_numbers, load_results
from sos.figures.tables import NOT_RUN, number

# Least and largest distances of five trainings of the demo (README, "What differs"): where two of
# these ranges overlap, one training does not tell which of two rows is smaller.
RANGES = {
    ("faces", "beta", "means"): (631, 706),
    ("faces", "beta", "samples"): (845, 869),
    ("faces", "sos", "means"): (635, 743),
    ("faces", "sos", "samples"): (418, 447),
    ("brains", "beta", "means"): (274, 287),
    ("brains", "beta", "samples"): (712, 766),
    ("brains", "sos", "means"): (193, 213),
    ("brains", "sos", "samples"): (208, 223),
}


def has_counterpart(notebook: str, profile: str, data: str) -> bool:
    """Tell whether the paper's numbers may stand beside a data set.

    They may not stand beside one's own images.
    """
    read = load_results(notebook, profile).get("images", {})
    return "folder" not in {kind for name, kind in read.items() if name.split("-")[0] == data}


def distance_rows(notebook: str, profile: str, data: str, kinds: Sequence[str]) -> list[dict]:
    """Return rows of Table 1 for the models of one data set, out of a results file."""
    numbers, rows = load_numbers(notebook, profile), []
    known = has_counterpart(notebook, profile, data)
    for kind in kinds:
        for what in ("means", "samples"):
            paper = PAPER_TABLE_1.get((PAPER_DATA[data], KIND[kind], what))
            published = PAPER_DATA[data] if paper else "not in the paper"
            rows.append(
                {
                    "data": LABELS[data],
                    "model": KIND[kind],
                    "images": what,
                    "distance here": number(numbers.get(f"{data}-{kind}.distance_{what}"), 3),
                    "floor": number(numbers.get(f"{data}-{kind}.distance_floor"), 2),
                    "paper's data": published if known else "none of these images",
                    "paper's FID": f"{paper:g}" if paper and known else "–",
                }
            )
    return rows


def ordering_rows(notebook: str, profile: str, data: Sequence[str]) -> list[dict]:
    """Compare every two rows of Table 1 on one data set, to tell whether the paper's order holds.

    Data sets without a counterpart in the paper are left out. It is undecided where RANGES overlap.
    """
    rows = []
    for name in (one for one in data if has_counterpart(notebook, profile, one)):
        published = {
            (kind, what): PAPER_TABLE_1[PAPER_DATA[name], label, what]
            for kind, label in KIND.items()
            for what in ("means", "samples")
            if (PAPER_DATA[name], label, what) in PAPER_TABLE_1
        }
        numbers = load_numbers(notebook, profile)
        for pair in combinations(sorted(published, key=published.get), 2):
            here = [numbers.get(f"{name}-{kind}.distance_{what}") for kind, what in pair]
            ranges = [RANGES.get((name, *one)) for one in pair] if profile == "demo" else [None]
            if None in here:
                holds = NOT_RUN
            elif None not in ranges and overlap(*ranges):
                holds = "undecided"
            else:
                holds = "yes" if here[0] < here[1] else "**no**"
            rows.append(
                {
                    "data": LABELS[name],
                    "the paper finds": " < ".join(f"{KIND[k]} {what}" for k, what in pair),
                    "paper": " < ".join(f"{published[one]:.0f}" for one in pair),
                    "here": " vs ".join(number(distance) or NOT_RUN for distance in here),
                    "holds here": holds,
                }
            )
    return rows


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether two ranges have numbers in common."""
    return max(one[0], other[0]) <= min(one[1], other[1])
