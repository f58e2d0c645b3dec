"""Table 1 of the paper beside the distances measured here (notebooks 01 and 02)."""

from collections.abc import Sequence
from itertools import combinations

from sos.analysis import seeds, verdicts
from sos.config import Profile
from sos.figures.labels import KIND, LABELS, PAPER_DATA, PAPER_TABLE_1
from sos.figures.results import load_numbers, load_results
from sos.figures.tables import NOT_RUN, number

Records = dict[str, Sequence[dict]]  # {model: a dictionary of numbers for each seed}


def over_seeds(settings: Profile, measured: dict[str, dict], weights: str) -> Records:
    """Return what all judges say of the seeds of each model, see `sos.analysis.judges`.

    Where no study was run, that is the training of which `measured` has the numbers, alone.
    """
    records = {}
    for name, numbers in measured.items():
        experiment = settings.experiments[name]
        found = seeds.of_all(experiment, settings.evaluation, weights, kind="judges")
        records[name] = found or [{"seed": experiment.training.seed} | numbers]
    return records


def spread(records: Sequence[dict], name: str, digits: int = 0) -> str | None:
    """Write the mean over seeds ± the standard deviation; None where nothing was measured."""
    found = list(verdicts.values_of(records, name).values())
    if not found:
        return None
    mean, deviation = verdicts.mean_and_deviation(found)
    text = f"{mean:,.{digits}f}".replace("-", "−")
    return text if len(found) == 1 else f"{text} ± {deviation:,.{digits}f}"


def has_counterpart(notebook: str, profile: str, data: str) -> bool:
    """Tell whether the paper's numbers may stand beside a data set.

    They may not stand beside one's own images.
    """
    read = load_results(notebook, profile).get("images", {})
    return "folder" not in {kind for name, kind in read.items() if name.split("-")[0] == data}


def distance_rows(
    notebook: str, profile: str, data: str, kinds: Sequence[str], records: Records
) -> list[dict]:
    """Return rows of Table 1 for the models of one data set, out of a results file and records."""
    numbers, rows = load_numbers(notebook, profile), []
    known = has_counterpart(notebook, profile, data)
    for kind in kinds:
        found = records.get(f"{data}-{kind}", ())
        for what in ("means", "samples"):
            paper = PAPER_TABLE_1.get((PAPER_DATA[data], KIND[kind], what))
            published = PAPER_DATA[data] if paper else "not in the paper"
            rows.append(
                {
                    "data": LABELS[data],
                    "model": KIND[kind],
                    "images": what,
                    "distance here": spread(found, f"distance_{what}"),
                    "seeds": str(len(found)),
                    "these weights": number(numbers.get(f"{data}-{kind}.distance_{what}"), 3),
                    "floor": number(numbers.get(f"{data}-{kind}.distance_floor"), 2),
                    "paper's data": published if known else "none of these images",
                    "paper's FID": f"{paper:g}" if paper and known else "–",
                }
            )
    return rows


def judge_rows(
    records: Records, data: str, kinds: Sequence[str], real: dict[str, float]
) -> list[dict]:
    """Put the other judges beside the distance: their means over seeds ± standard deviations.

    The first row is of `real` images, see `judges.real_images`.
    """
    rows = [
        {
            "data": LABELS[data],
            "model": "real images",
            "images": "training",
            "FD-EffNet": number(real["distance"], 2),
            "kernel distance": f"{real['kernel_distance']:.2f}",
            "precision": f"{real['precision']:.2f}",
            "recall": f"{real['recall']:.2f}",
            "thumbnails (gray levels)": f"{real['thumbnails']:.1f}",
        }
    ]
    for kind in kinds:
        found = records.get(f"{data}-{kind}", ())
        for what in ("means", "samples"):
            rows.append(
                {
                    "data": LABELS[data],
                    "model": KIND[kind],
                    "images": what,
                    "FD-EffNet": spread(found, f"distance_{what}"),
                    "kernel distance": spread(found, f"kernel_distance_{what}", 2),
                    "precision": spread(found, f"precision_{what}", 2),
                    "recall": spread(found, f"recall_{what}", 2),
                    "thumbnails (gray levels)": spread(found, f"thumbnails_{what}", 1),
                }
            )
    return rows


def orderings(data: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return every two rows of the paper's Table 1 on one data set, the smaller first.

    A row is a kind of model and what is compared, means or samples.
    """
    published = {
        (kind, what): PAPER_TABLE_1[PAPER_DATA[data], label, what]
        for kind, label in KIND.items()
        for what in ("means", "samples")
        if (PAPER_DATA[data], label, what) in PAPER_TABLE_1
    }
    return list(combinations(sorted(published, key=published.get), 2))


def judged(
    records: Records, data: str, pair: tuple[tuple[str, str], tuple[str, str]], judge: str
) -> verdicts.Comparison:
    """Tell whether an ordering of two rows of Table 1 holds, by one of the judges."""
    (one, first), (other, second) = pair
    found = records.get(f"{data}-{one}", ()), records.get(f"{data}-{other}", ())
    return verdicts.ordering(found[0], f"{judge}_{first}", found[1], f"{judge}_{second}")


def ordering_rows(notebook: str, profile: str, data: Sequence[str], records: Records) -> list[dict]:
    """Compare every two rows of Table 1 on one data set, to tell whether the paper's order holds.

    Data sets without a counterpart in the paper are left out. The rule is in
    `sos.analysis.verdicts`.
    """
    rows = []
    for name in (one for one in data if has_counterpart(notebook, profile, one)):
        for pair in orderings(name):
            found, second = (judged(records, name, pair, j) for j in ("distance", "thumbnails"))
            words = found.verdict if found.verdict != verdicts.NO else "**no**"
            paper = [PAPER_TABLE_1[PAPER_DATA[name], KIND[kind], what] for kind, what in pair]
            rows.append(
                {
                    "data": LABELS[name],
                    "the paper finds": " < ".join(f"{KIND[k]} {what}" for k, what in pair),
                    "paper": " < ".join(f"{value:.0f}" for value in paper),
                    "difference here": difference(found),
                    "seeds that agree": found.count if found.seeds else NOT_RUN,
                    "holds here": words,
                    "by thumbnails": second.verdict,
                }
            )
    return rows


def difference(found: verdicts.Comparison, digits: int = 0) -> str:
    """Write a mean difference and its interval, where there are enough seeds for one."""
    if not found.seeds:
        return NOT_RUN
    numbers = [found.mean] if found.seeds < 2 else [found.mean, found.low, found.high]
    mean, *ends = (f"{x:+,.{digits}f}".replace("-", "−") for x in numbers)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def verdict_counts(profile_rows: Sequence[dict], column: str = "holds here") -> str:
    """Write in words how many orderings hold, out of the rows of `ordering_rows`."""
    return verdicts.counted([str(row[column]).strip("*") for row in profile_rows])
