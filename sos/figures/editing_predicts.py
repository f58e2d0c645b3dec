"""Figures and tables of notebook 09: what editing predicts, by images and by seeds.

Measurements are those of `sos.analysis.editing_study`. A `Theme` is {label: one dictionary for each
seed}, and a path into the dictionaries leads to one number for each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.analysis.calibration import interval
from sos.figures.labels import LABELS
from sos.figures.panels import letter
from sos.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WIDTH, styled

Theme = dict[str, list[dict]]
# What is compared: {label: (kind of model, variant)}; controls are named after what they are.
MODELS = {
    "σ-VAE": ("sigma", "as trained"),
    "β-VAE, learnt D": ("beta", "as trained"),
    "the paper's ε, exact": ("paper", "exact"),
    "the paper's ε, soft": ("paper", "soft"),
    "learnt ε": ("learnt", "as trained"),
    "sparse (Dorta et al.)": ("sparse", "as trained"),
    "low rank + sparse": ("hybrid", "as trained"),
}
COLOURS = {
    "σ-VAE": BLACK,
    "β-VAE, learnt D": "0.5",
    "the paper's ε, exact": VERMILLION,
    "the paper's ε, soft": ORANGE,
    "learnt ε": BLUE,
    "sparse (Dorta et al.)": GREEN,
    "low rank + sparse": PURPLE,
    "PPCA, R = 35": SKY,
    "nearest training image": "0.5",
}
GRAY = "0.45"


@dataclass(frozen=True)
class Estimate:
    """Hold a mean over images and seeds, its 95 % interval over images, and each seed's mean."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def written(self, digits: int) -> str:
        """Write the mean and the interval with so many decimals, but none from 100 on."""
        if abs(self.mean) >= 100:
            digits = 0
        low, high = (_decimals(x, digits) for x in (self.low, self.high))
        return f"{_decimals(self.mean, digits)} [{low}, {high}]"


def _decimals(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def theme(
    name: str, records: dict[str, Sequence[dict]], controls: dict[str, dict] | None = None
) -> Theme:
    """Pick one theme of {kind: records} and of controls: {label: a dictionary for each seed}."""
    found = {
        label: [one[name][variant] for one in records.get(kind, ()) if variant in one.get(name, {})]
        for label, (kind, variant) in MODELS.items()
    }
    found |= {label: [numbers] for label, numbers in (controls or {}).get(name, {}).items()}
    return {label: numbers for label, numbers in found.items() if numbers}


def values(numbers: Sequence[dict], *path: str) -> np.ndarray | None:
    """Return what a path leads to, (seeds, images), or None; NaN where an image has no number."""
    found = []
    for one in numbers:
        for step in path:
            one = one.get(step) if isinstance(one, dict) else None
        if one is not None:
            found.append(np.array(one, dtype=float))
    return np.stack(found) if found else None


def estimate(numbers: np.ndarray | None) -> Estimate | None:
    """Estimate a mean of (seeds, images), without images that have no number."""
    if numbers is None:
        return None
    there = ~np.isnan(numbers).any(0)
    if there.sum() < 2:
        return None
    images = numbers[:, there]
    limits = interval(images.mean(0), resamples=1000, method="percentile")
    return Estimate(limits["mean"], limits["low"], limits["high"], tuple(images.mean(1)))


def verdict(differences: np.ndarray | None, digits: int = 2) -> str | None:
    """Judge whether differences (seeds, images) are below zero, and write their mean.

    "holds" where the interval of their mean and the means of all seeds are below zero, "fails"
    where all of these are above, and "undecided" otherwise.
    """
    found = estimate(differences)
    if found is None:
        return None
    ends = (found.low, found.high, *found.seeds)
    word = "holds" if max(ends) < 0 else "fails" if min(ends) > 0 else "undecided"
    sign = "+" if found.mean > 0 else ""
    return f"{word} ({sign}{_decimals(found.mean, digits)})"


def difference(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Subtract measurements of the same images, seed by seed as far as both have seeds."""
    if a is None or b is None:
        return None
    if len(b) == 1:  # a control, which has no seeds
        return a - b
    seeds = min(len(a), len(b))
    return a[:seeds] - b[:seeds]


def count_rows(themes: dict[str, Theme]) -> list[dict]:
    """Make a row for each model: how many seeds of it were measured on each set of images."""
    labels = dict.fromkeys(label for found in themes.values() for label in found)
    return [
        {"model": label}
        | {
            f"trainings, {LABELS[data]}": len(found.get(label, ())) or None
            for data, found in themes.items()
        }
        for label in labels
    ]


# ---------------------------------------------------------------------------- held-out pixels


def held_out(themes: dict[str, Theme], masks: dict[str, Sequence[str]]) -> Figure:
    """Draw the error at hidden pixels, {data: theme}, for masks {data: names}.

    A filled point has the code of the whole image, an open one that of the revealed pixels alone; a
    bar is the error of the mean that was not conditioned. Lines are 95 % intervals over images.
    """
    across = max(map(len, masks.values()))
    with styled():
        figure, axes = plt.subplots(
            len(themes), across, figsize=(WIDTH, 2.35 * len(themes)), layout="constrained",
            squeeze=False, sharey="row", sharex="row",
        )  # fmt: skip
        for line, (data, found) in zip(axes, themes.items(), strict=True):
            top = _top(found, masks[data])
            for ax, mask in zip(line, masks[data], strict=True):
                _errors_of(ax, found, mask, top)
                ax.set_title(mask, loc="right")
            line[0].set_ylabel(LABELS[data])
            for ax in line:
                ax.set_xlabel("RMSE")
        letter(axes.flat)
    return figure


def _top(found: Theme, masks: Sequence[str]) -> float:
    """Return the end of the axis: what all errors but those of exact edits reach."""
    ends = (
        estimate(values(numbers, mask, way, "rmse"))
        for label, numbers in found.items()
        for mask in masks
        for way in ("whole", "revealed")
        if "exact" not in label
    )
    return 1.1 * max((one.high for one in ends if one is not None), default=1.0)


def _errors_of(ax: Axes, found: Theme, mask: str, top: float) -> None:
    for place, (label, numbers) in enumerate(found.items()):
        colour = COLOURS[label]
        for way, face, shift in (("whole", colour, -0.13), ("revealed", "white", 0.13)):
            one = estimate(values(numbers, mask, way, "rmse"))
            if one is None:
                continue
            at = place + shift
            if one.high > top:
                look = {"ha": "right", "va": "center", "fontsize": 6.5, "color": colour}
                ax.text(top, at + shift, f"{one.mean:.2f} →", **look)
                continue
            ax.plot([one.low, one.high], [at, at], color=colour, lw=1)
            ax.plot(one.mean, at, "o", color=colour, mfc=face, ms=4)
        alone = estimate(values(numbers, mask, "whole", "unconditioned"))
        if alone is not None:
            ax.plot(alone.mean, place - 0.13, "|", color=GRAY, ms=9, mew=1.5, zorder=0)
    ax.set(yticks=range(len(found)), yticklabels=list(found), xlim=(0, top))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", lw=0.4, color="0.9")


def held_out_rows(found: Theme, mask: str, way: str = "revealed") -> list[dict]:
    """Make rows of error, density, coverage and width at the hidden pixels of one mask."""
    rows = []
    for label, numbers in found.items():
        one = {s: estimate(values(numbers, mask, way, s)) for s in _COLUMNS}
        if one["rmse"] is None:
            continue
        rows.append({"model": label} | {
            column: one[score].written(digits) if one[score] else "–"
            for score, (column, digits) in _COLUMNS.items()
        })  # fmt: skip
    return rows


_SUMMARY = {"RMSE": "RMSE", "nats per hidden value": "nats", "in 90 % intervals": "in 90 %"}


def held_out_summary(found: Theme, masks: Sequence[str]) -> list[dict]:
    """Make a row for each model: error, density and coverage of 90 % intervals for each mask."""
    rows: dict[str, dict] = {}
    for mask in masks:
        for row in held_out_rows(found, mask):
            cells = {f"{mask}: {short}": row[name] for name, short in _SUMMARY.items()}
            rows.setdefault(row["model"], {"model": row["model"]}).update(cells)
    return list(rows.values())


_COLUMNS = {
    "rmse": ("RMSE", 3),
    "nats": ("nats per hidden value", 2),
    "coverage_50": ("in 50 % intervals", 2),
    "coverage_90": ("in 90 % intervals", 2),
    "width": ("mean deviation predicted", 3),
}


def means(numbers: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return the means at hidden pixels, for a file: {mask and code: {score: mean}}."""
    found: dict[str, dict[str, float]] = {}
    for mask, ways in numbers[0].items():
        for way, scores in ways.items():
            wanted = (s for s in scores if (way, s) != ("revealed", "unconditioned"))
            each = {s: estimate(values(numbers, mask, way, s)) for s in wanted}
            found[f"{mask}, code of the {way}"] = {s: one.mean for s, one in each.items() if one}
    return found


# ------------------------------------------------------------------------------- counterfactuals

METHODS = {  # label in `MODELS` or of a control, and method: words, colour and line
    ("PPCA, R = 35", "paint alone"): ("paint alone", GRAY, ":"),
    ("PPCA, R = 35", "copied colour"): ("colour copied within the true region", BLACK, "--"),
    ("PPCA, R = 35", "covariance"): ("PPCA, R = 35", SKY, "-"),
    ("learnt ε", "code"): ("code optimised", "0.6", "-."),
    ("the paper's ε, exact", "covariance"): ("the paper's ε, exact", VERMILLION, "-"),
    ("the paper's ε, soft", "covariance"): ("the paper's ε, soft", ORANGE, "-"),
    ("learnt ε", "covariance"): ("learnt ε", BLUE, "-"),
    ("sparse (Dorta et al.)", "covariance"): ("sparse (Dorta et al.)", GREEN, "-"),
    ("low rank + sparse", "covariance"): ("low rank + sparse", PURPLE, "-"),
    ("learnt ε", "pinned"): ("learnt ε, as many pins", BLUE, "--"),
    ("low rank + sparse", "pinned"): ("low rank + sparse, as many pins", PURPLE, "--"),
}


# Columns of the table of edits: label, method and, unless it is the whole error, its part.
COMPARED = {
    "colour copied": ("PPCA, R = 35", "copied colour"),
    "PPCA, R = 35": ("PPCA, R = 35", "covariance"),
    "the paper's ε": ("the paper's ε, exact", "covariance"),
    "learnt ε": ("learnt ε", "covariance"),
    "its leakage": ("learnt ε", "covariance", "outside"),
    "with as many pins": ("learnt ε", "pinned"),
    "leakage with pins": ("learnt ε", "pinned", "outside"),
    "code optimised": ("learnt ε", "code"),
    "code and ω": ("learnt ε", "both"),
    "low rank + sparse": ("low rank + sparse", "covariance"),
}


def edits(themes: dict[str, Theme], columns: int = 5) -> Figure:
    """Draw the error of edits against the number of revealed pixels, a panel for each factor."""
    panels = [
        (data, factor)
        for data, found in themes.items()
        for factor in next(iter(found.values()))[0]["covariance"]
    ]
    rows = -(-len(panels) // columns)
    with styled():
        figure, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, 1.9 * rows + 0.7), layout="constrained", squeeze=False,
            sharex=True, sharey=True,
        )  # fmt: skip
        for ax, (data, factor) in zip(axes.flat, panels, strict=False):
            for (label, method), look in METHODS.items():
                _curve(ax, themes[data].get(label, ()), (method, factor), *look)
            ax.axhline(1, color=BLACK, lw=0.6)
            ax.set(xscale="log", yscale="log", ylim=(0.25, 6))
            ax.set_title(f"{data}: {factor}", loc="right", fontsize=7.2)
            ax.set_yticks([0.3, 1, 3], ["0.3", "1", "3"])
            ax.set_yticks([], minor=True)
            ax.set_xticks([1, 10, 100], ["1", "10", "100"])
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
        for ax in axes[-1]:
            ax.set_xlabel("pixels revealed")
        for ax in axes[:, 0]:
            ax.set_ylabel("error / true change")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        letter(axes.flat[: len(panels)])
    return figure


def _curve(ax: Axes, numbers: Sequence[dict], path: Sequence[str], words, colour, line) -> None:
    method, factor = path
    counts = list(numbers[0].get(method, {}).get(factor, {})) if numbers else []
    found = {int(c): estimate(values(numbers, method, factor, c, "error")) for c in counts}
    found = {count: one for count, one in found.items() if one is not None}
    if found:
        ax.plot(list(found), [one.mean for one in found.values()], color=colour, ls=line, lw=1.1,
                label=words, marker="o", ms=2)  # fmt: skip
        for count, one in found.items():
            ax.plot([count, count], [one.low, one.high], color=colour, lw=0.7)


def edit_rows(found: Theme, columns: dict[str, tuple[str, ...]], count: int = 10) -> list[dict]:
    """Make a row for each factor: the relative error after `count` pixels, with its interval.

    `columns` are {words: (label, method)}, or (label, method, part) with the part "inside" or
    "outside" of what truly changes.
    """
    factors = next(iter(found.values()))[0]["covariance"]
    rows = []
    for factor in factors:
        row = {"changed": factor}
        for words, (label, method, *part) in columns.items():
            path = method, factor, str(count), *(part or ["error"])
            row[words] = _cell(values(found.get(label, ()), *path))
        rows.append(row)
    return rows


def _cell(numbers: np.ndarray | None) -> str | None:
    one = estimate(numbers)
    return None if one is None else one.written(2)


def edit_means(numbers: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return the relative errors of edits, for a file: {method and factor: {pixels: mean}}."""
    found: dict[str, dict[str, float]] = {}
    for method, factors in numbers[0].items():
        for factor, counts in factors.items():
            each = {n: estimate(values(numbers, method, factor, n, "error")) for n in counts}
            found[f"{method}, {factor}"] = {n: one.mean for n, one in each.items() if one}
    return found


# ---------------------------------------------------------------------- pixel order and anomalies


def order_and_lesions(orders: dict[str, Theme], anomalies: Theme) -> Figure:
    """Draw the error as pixels are revealed in two orders, and how well lesions are found."""
    with styled():
        figure, axes = plt.subplots(
            1, 1 + len(orders), figsize=(WIDTH, 3.2), layout="constrained",
            width_ratios=[1] * len(orders) + [1.9],
        )  # fmt: skip
        for ax, (data, found) in zip(axes, orders.items(), strict=False):
            for way, line in (("most telling first", "-"), ("random", ":")):
                _order_curve(ax, found["learnt ε"], way, line)
            ax.set(xlabel="pixels known", title=LABELS[data], ylim=(0, None))
            ax.legend(loc="lower left")
        axes[0].set_ylabel("RMSE at hidden pixels")
        _lesions(axes[-1], anomalies)
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower right", ncols=4)
        letter(axes)
    return figure


def _order_curve(ax: Axes, numbers: Sequence[dict], way: str, line: str) -> None:
    stacked = np.stack([np.array(one[way], dtype=float) for one in numbers])  # seeds, images, 1 + k
    found = [estimate(stacked[..., k]) for k in range(stacked.shape[-1])]
    x = range(len(found))
    ax.plot(x, [one.mean for one in found], color=BLUE, ls=line, label=way)
    ax.fill_between(
        x, [one.low for one in found], [one.high for one in found], color=BLUE, alpha=0.12, lw=0
    )


def _lesions(ax: Axes, found: Theme) -> None:
    kinds = list(next(iter(found.values()))[0])
    apart = 0.8 / len(found)
    for number, (label, numbers) in enumerate(found.items()):
        colour, shift = COLOURS[label], (number - (len(found) - 1) / 2) * apart
        for score, face in (("residual", "white"), ("leave-one-out", colour)):
            for place, kind in enumerate(kinds):
                one = estimate(values(numbers, kind, score))
                if one is None:
                    continue
                x = place + shift + (0.02 if score == "residual" else -0.02)
                ax.plot([x, x], [one.low, one.high], color=colour, lw=0.8)
                first = label if score == "leave-one-out" and not place else None
                ax.plot(x, one.mean, "o", color=colour, mfc=face, ms=3.5, label=first)
    for place in range(1, len(kinds)):
        ax.axvline(place - 0.5, color="0.9", lw=0.6)
    ax.set_xticks(range(len(kinds)), [kind.replace(", ", ",\n") for kind in kinds])
    ax.set(ylabel="average precision", title="lesions in brain slices", ylim=(0, None))
    ax.tick_params(axis="x", length=0)


def lesion_rows(found: Theme, chance: dict[str, float]) -> list[dict]:
    """Make a row for each model: average precision by the leave-one-out score and the residual.

    The last row is what a map in random order has by `chance`.
    """
    rows = []
    for label, numbers in found.items():
        row = {"model": label}
        for kind in numbers[0]:
            a, b = (_cell(values(numbers, kind, s)) for s in ("leave-one-out", "residual"))
            row[kind] = f"{a}; {b}"
        rows.append(row)
    return [*rows, {"model": "random order"} | {k: _decimals(x, 3) for k, x in chance.items()}]


# -------------------------------------------------------------------------------------- verdicts

JUDGED = tuple(label for label in (*MODELS, "PPCA, R = 35") if "VAE" not in label)


def verdict_rows(
    held_out: dict[str, Theme], edits: dict[str, Theme], anomalies: Theme, count: int = 10
) -> list[dict]:
    """Make a row for each claim and case, with the verdict on each of JUDGED.

    The claims: conditioning lowers the error at hidden pixels (code of the whole image; PPCA's mean
    is the same for all images, and judged against nothing); intervals of 90 % are right (code of
    the revealed pixels); `count` pixels bring the image closer to the true one than painting them
    alone does; and leave-one-out scores find lesions better than residuals do.
    """
    rows = []

    def add(claim: str, case: str, found: Theme, judge) -> None:
        cells = {label: judge(found.get(label, ())) for label in JUDGED}
        rows.append({"claim": claim, "case": case} | {k: v or "–" for k, v in cells.items()})

    for data, found in held_out.items():
        for mask in next(iter(found.values()))[0]:
            case = f"{LABELS[data]}, {mask}"
            add("revealed pixels lower the error", case, found, partial(_lowered, mask))
            add("90 % intervals cover 85 to 95 %", case, found, partial(_covered, mask))
    for data, found in edits.items():
        alone = next(n for n in found.values() if "paint alone" in n[0])
        for factor in next(iter(found.values()))[0]["covariance"]:
            add(
                f"{count} pixels bring it closer than paint alone", f"{LABELS[data]}, {factor}",
                found, partial(_closer, alone, factor, str(count)),
            )  # fmt: skip
    for lesion in next(iter(anomalies.values()))[0] if anomalies else ():
        claim = "leave-one-out finds lesions better"
        add(claim, lesion, anomalies, partial(_found_better, lesion))
    order = list(dict.fromkeys(row["claim"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["claim"]))


def _lowered(mask: str, numbers: Sequence[dict]) -> str | None:
    scores = (values(numbers, mask, "whole", name) for name in ("rmse", "unconditioned"))
    return verdict(difference(*scores), 3)


def _covered(mask: str, numbers: Sequence[dict], low: float = 0.85, high: float = 0.95):
    """Judge whether the share of hidden values in their 90 % intervals lies between two limits."""
    found = estimate(values(numbers, mask, "revealed", "coverage_90"))
    if found is None:
        return None
    ends = np.array([found.low, found.high, *found.seeds])
    outside = (ends < low).all() or (ends > high).all()
    inside = ((low <= ends) & (ends <= high)).all()
    word = "holds" if inside else "fails" if outside else "undecided"
    return f"{word} ({found.mean:.2f})"


def _closer(alone: Sequence[dict], factor: str, count: str, numbers: Sequence[dict]) -> str | None:
    theirs = values(alone, "paint alone", factor, count, "error")
    return verdict(difference(values(numbers, "covariance", factor, count, "error"), theirs))


def _found_better(lesion: str, numbers: Sequence[dict]) -> str | None:
    return verdict(difference(*(values(numbers, lesion, s) for s in ("residual", "leave-one-out"))))
