"""Figures of notebook 07: variance and multiplier along trainings with and without remedies."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.figures.labels import LARGEST_VARIANCE
from sos.figures.panels import letter
from sos.figures.style import BLACK, BLUE, GREEN, ORANGE, VERMILLION, WIDTH, styled
from sos.figures.table_1 import spread
from sos.figures.tables import number
from sos.profiles import REMEDIES

WORDS = dict(zip(REMEDIES, ("fixed diagonal", "constraint", "pre-training"), strict=True))
SCHEDULED = "scheduled"  # the rate of a training, in the name of its experiment
# Combinations of the first two remedies keep colour and line with and without the third.
LOOKS = {
    "fixed diagonal + constraint": {"color": BLUE, "ls": "-"},
    "fixed diagonal": {"color": ORANGE, "ls": (0, (5, 1.5))},
    "constraint": {"color": GREEN, "ls": (0, (6, 1.5, 1, 1.5))},
    "neither": {"color": VERMILLION, "ls": (0, (1.2, 1))},
}
DOTS = {"color": BLACK, "lw": 0.8, "ls": (0, (1, 1.5))}
DASHES = {"color": BLACK, "lw": 0.8, "ls": (0, (5, 2))}


def switched_on(name: str) -> tuple[str, ...]:
    """Return the remedies of an experiment, as its name has them: "scheduled" alone has all.

    Raises ValueError for names that are no combination of remedies.
    """
    parts = name.removeprefix("variance-").split("-")
    if not {*parts} <= {*REMEDIES, "none", SCHEDULED}:
        raise ValueError(f"{name!r} is no combination of the remedies {', '.join(REMEDIES)}")
    if parts == [SCHEDULED]:
        return REMEDIES
    return tuple(part for part in parts if part in REMEDIES)


def remedies(name: str) -> str:
    """Return the words for a training of Appendix A.

    "variance-fixed-pretrained" → "fixed diagonal + pre-training".
    """
    words = " + ".join(WORDS[part] for part in switched_on(name)) or "none"
    return f"{words}, scheduled rate" if name.endswith(SCHEDULED) else words


def broken(words: str, longest: int = 30) -> str:
    """Break words into lines at "+" where a line would be longer."""
    lines = [""]
    for part in words.replace(" + ", " +\n").split("\n"):
        joined = f"{lines[-1]} {part}".strip()
        if len(joined) <= longest:
            lines[-1] = joined
        else:
            lines.append(part)
    return "\n".join(lines)


def variance_traces(histories: dict[str, list[dict]], data_variance: float) -> Figure:
    """Draw the mean variance of y given z, and the multiplier of the entropy, along training.

    {name of an experiment: rows of its history in which the covariance is trained}.
    """
    with styled():
        figure, axes = plt.subplots(
            2, 2, figsize=(WIDTH, 4.6), sharex="col", sharey="row", layout="constrained"
        )
        for name, rows in histories.items():
            column = axes[:, 0 if "pretrained" in switched_on(name) else 1]
            _trace(*column, name, rows)
        for ax, title in zip(axes[0], ("with pre-training", "without pre-training"), strict=True):
            _levels(ax, data_variance)
            ax.set(title=title, yscale="log")
            ax.yaxis.set_major_formatter("{x:g}")
        for ax in axes[1]:
            ax.set_yscale("symlog", linthresh=10)
            ax.set(xlabel="training step", yticks=[0, 1e2, 1e4, 1e6])
        axes[1, 0].set_ylim(bottom=0)  # after all lines: it ends the scaling
        axes[0, 0].set_ylabel("mean variance of a value")
        axes[1, 0].set_ylabel(r"multiplier $\lambda_H$")
        letter(axes.flat)
        handles = [plt.Line2D([], [], **look, label=words) for words, look in LOOKS.items()]
        handles.append(plt.Line2D([], [], **_marks("0.3"), ls="", label="scheduled rate"))
        figure.legend(handles=handles, loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def _trace(above: Axes, below: Axes, name: str, rows: list[dict]) -> None:
    """Draw the variance of a training, and its multiplier if that ever rose above zero."""
    pair = [WORDS[part] for part in switched_on(name) if part != "pretrained"]
    look = LOOKS[" + ".join(pair) or "neither"]
    if name.endswith(SCHEDULED):
        look = look | _marks(look["color"])
    steps = [row["step"] for row in rows]
    above.plot(steps, [row["variance"] for row in rows], **look)
    multipliers = [row["rank_entropy_multiplier"] for row in rows]
    if any(multipliers):
        below.plot(steps, multipliers, **look)


def _marks(colour: str) -> dict:
    return {"marker": "o", "mfc": "white", "mec": colour, "ms": 3.5, "markevery": 3}


def _levels(ax: Axes, data_variance: float) -> None:
    """Draw the images' variance and the largest that values between 0 and 1 can have."""
    ax.axhline(data_variance, **DOTS)
    ax.axhline(LARGEST_VARIANCE, **DASHES)
    look = {"transform": ax.get_yaxis_transform(), "ha": "right"}
    ax.text(0.995, data_variance * 1.06, "data", va="bottom", fontsize=8, **look)
    ax.text(0.995, LARGEST_VARIANCE / 1.06, "¼", va="top", fontsize=10, **look)


def entropy_phase_portrait(runs: dict[str, tuple[list[int], np.ndarray, np.ndarray]]) -> Figure:
    """Draw the slack of the entropy along training, and against its multiplier.

    {label: (steps, rank entropy less its target in nats, multiplier λ_H)}.
    """
    looks = ({"color": BLUE, "ls": "-"}, {"color": VERMILLION, "ls": (0, (5, 1.5))})
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0), layout="constrained")
        axes[0].axhline(0, **DOTS)
        axes[1].axvline(0, **DOTS)
        for (label, (steps, slack, multiplier)), look in zip(runs.items(), looks, strict=True):
            axes[0].plot(steps, slack, **look)
            axes[1].plot(slack, multiplier, **look)
            ends = {"ls": "", "marker": "o", "ms": 5.5, "mec": look["color"], "mew": 1.3}
            axes[1].plot(slack[0], multiplier[0], **ends, mfc="white", zorder=3)
            axes[1].plot(slack[-1], multiplier[-1], **ends, mfc=look["color"], zorder=3)
            text = {"textcoords": "offset points", "fontsize": 8, "color": look["color"]}
            low, high = int(np.argmin(slack)), int(np.argmax(multiplier))
            spot = steps[low], slack[low]
            place, side = ((-5, -3), "right") if 4 * low > len(steps) else ((5, -9), "left")
            axes[0].annotate(label, spot, xytext=place, ha=side, **text)
            spot = slack[high], multiplier[high]
            axes[1].annotate(label, spot, xytext=(6, 3), ha="left", **text)
        axes[0].set(xlabel="training step", ylabel=r"rank entropy − $\xi_H$ (nats)")
        axes[1].set(xlabel=r"rank entropy − $\xi_H$ (nats)", ylabel=r"multiplier $\lambda_H$")
        axes[1].yaxis.set_major_formatter("{x:,.0f}")
        letter(axes)
    return figure


def seed_rows(records: dict[str, list[dict]]) -> list[dict]:
    """Make rows of the combinations of remedies over seeds, {name: a dictionary for each seed}.

    They have the variance of y given z as a multiple of the images', the trainings that survived,
    and two judges of samples.
    """
    rows = []
    for name, found in records.items():
        shares = sorted(r["variance_observation"] / r["variance_data"] for r in found)
        survived = sum(r["variance_observation"] <= LARGEST_VARIANCE for r in found)
        rows.append(
            {
                "remedies": remedies(name),
                "variance / data, median": number(float(np.median(shares)), 2),
                "least to largest": f"{number(shares[0], 2)} to {number(shares[-1], 2)}",
                "survived": f"{survived} of {len(found)}",
                "FD of samples": spread(found, "distance_samples"),
                "thumbnails (gray levels)": spread(found, "thumbnails_samples", 0),
            }
        )
    return rows


def judges_of_explosions(records: dict[str, list[dict]], judge: str) -> tuple[int, int]:
    """Count the pairs of an exploded and a tame training that a judge of samples gets right.

    Right is a smaller number for the tame one. Returns the count, and how many pairs there are.
    """
    every = [r for found in records.values() for r in found if judge in r]
    tame = [r[judge] for r in every if r["variance_observation"] <= LARGEST_VARIANCE]
    wild = [r[judge] for r in every if r["variance_observation"] > LARGEST_VARIANCE]
    return sum(a < b for a in tame for b in wild), len(tame) * len(wild)


def target_rows(records: dict[float, list[dict]]) -> list[dict]:
    """Make rows of entropy targets that are wrong by factors, {factor: a dictionary per seed}."""
    rows = []
    for factor, found in records.items():
        shares = [{"share": r["variance_observation"] / r["variance_data"]} | r for r in found]
        rows.append(
            {
                "target, of the rule's": f"{factor:g}",
                "seeds": str(len(found)),
                "variance / data": spread(shares, "share", 2),
                "rank entropy, test (nats)": spread(found, "test_rank_entropy_nats"),
                "FD of samples": spread(found, "distance_samples"),
                "thumbnails (gray levels)": spread(found, "thumbnails_samples", 1),
            }
        )
    return rows


def constraint_rows(records: dict[str, list[dict]]) -> list[dict]:
    """Make rows of a model with and without a constraint on its entropy, {words: a dict per seed}.

    Log-densities are those of test images, given codes from q(z|x).
    """
    rows = []
    for words, found in records.items():
        densities = [{"density": -r["test_nll_nats"]} | r for r in found]
        rows.append(
            {
                "constraint on the entropy": words,
                "seeds": str(len(found)),
                "entropy, test (nats)": spread(found, "test_rank_entropy_nats"),
                "log-density (nats)": spread(densities, "density"),
                "FD of means": spread(found, "distance_means"),
                "thumbnails of means": spread(found, "thumbnails_means", 1),
                "FD of samples": spread(found, "distance_samples"),
            }
        )
    return rows


def pretraining_rows(records: dict[str, list[dict]]) -> list[dict]:
    """Make rows of trainings that differ in their pre-training, {words: a dict per seed}."""
    rows = []
    for words, found in records.items():
        more = [
            {
                "density": -r["test_nll_nats"],
                "ratio": r["variance_observation"] / r["variance_data"],
            }
            | r
            for r in found
        ]
        rows.append(
            {
                "training": words,
                "seeds": str(len(found)),
                "log-density (nats)": spread(more, "density"),
                "variance / data": spread(more, "ratio", 2),
                "FD of means": spread(found, "distance_means"),
                "FD of samples": spread(found, "distance_samples"),
                "thumbnails of samples": spread(found, "thumbnails_samples", 1),
            }
        )
    return rows
