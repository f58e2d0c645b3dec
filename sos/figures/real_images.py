"""Figures of notebook 12: photographs of solar cells, which keep their own licence."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.analysis import defects
from sos.analysis.claims import Claim
from sos.datasets import cells
from sos.figures.labels import EPSILON
from sos.figures.panels import letter
from sos.figures.right_epsilon import COLOURS, spread, values
from sos.figures.style import BLACK, ORANGE, WIDTH, save, styled
from sos.system import paths

FOLDER = "cells"  # of the figures, apart from those under the collection's licence
TERMS = f"""{cells.LICENCE}

The pictures in this folder are made from these images, by resizing them, and by models that were
trained on them. They are under the same terms, Attribution-NonCommercial-ShareAlike 4.0
International: https://creativecommons.org/licenses/by-nc-sa/4.0/

The licence of the collection's code (LICENSE, at the top of the repository) is not theirs.
"""
SCORES = {
    "density": "negative ELBO",
    "residual, mean square": "|r|/σ, mean square",
    "residual, peak": "|r|/σ, peak",
    "leave-one-out, mean square": "leave-one-out, mean square",
    "leave-one-out, peak": "leave-one-out, peak",
}
LOOK = COLOURS | {"beta": ORANGE}
DASHES = {
    "beta": (0, (5, 1.5)), "sigma": (0, (1, 1.2)), "paper": (0, (6, 1.5, 1, 1.5)),
    "learnt": "-", "sparse": (0, (3, 1, 1, 1)), "hybrid": (0, (8, 2)),
}  # fmt: skip

MARKS = dict(zip(DASHES, "os^DvP", strict=True))


def keep(figure: Figure, name: str, profile: str):
    """Save a figure that shows photographs in a folder of its own, with credit and licence."""
    height = figure.get_size_inches()[1]
    figure.text(0.5, -0.12 / height, cells.LICENCE, ha="center", va="top", fontsize=6, color="0.35")
    paths.write_text(paths.FIGURES / profile / FOLDER / "LICENSE.txt", TERMS)
    return save(figure, f"{FOLDER}/{name}", profile)


def detection(records: dict[str, Sequence[dict]], controls: dict[str, dict], score: str) -> Figure:
    """Draw how well models of sound cells find defective ones, {kind: records}.

    (a) The share of defects found against false alarms, by one score, as means over seeds. (b) The
    area under such curves, for all of SCORES, a mark for each seed; gray lines are baselines
    without a network, of which the best score is taken.
    """
    with styled():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(WIDTH, 3.6), layout="constrained", width_ratios=(1, 1.2)
        )
        for kind, found in records.items():
            curves = values(found, f"{score}, curve")
            if len(curves):
                left.plot(defects.FALSE_ALARMS, curves.mean(0), color=LOOK[kind], ls=DASHES[kind])
        left.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        left.set(xlabel="false alarms", ylabel="defects found", title=SCORES[score], aspect=1)
        _areas(right, records, controls)
        letter((left, right))
        looks = {k: {"color": LOOK[k], "ls": DASHES[k], "marker": MARKS[k]} for k in records}
        handles = [plt.Line2D([], [], ms=4, label=EPSILON[k], **look) for k, look in looks.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


def _areas(ax: Axes, records: dict[str, Sequence[dict]], controls: dict[str, dict]) -> None:
    for at, name in enumerate(SCORES):
        for shift, (kind, found) in zip(np.linspace(-0.3, 0.3, len(records)), records.items(),
                                        strict=True):  # fmt: skip
            areas = values(found, f"{name}, all, auroc")
            ax.plot(areas, [at + shift] * len(areas), ls="none", marker=MARKS[kind], ms=4,
                    color=LOOK[kind], alpha=0.8)  # fmt: skip
    best = {  # of two that are level the later one, which is of larger rank
        round(max(v for name, v in numbers.items() if name.endswith(", all, auroc")), 3): words
        for words, numbers in controls.items()
    }
    for number, (area, words) in enumerate(sorted(best.items())):
        ax.axvline(area, color="0.5", lw=0.8, ls=(0, (4, 1 + number)))
        side = "left" if number else "right"  # of the line, away from the others
        ax.text(area, -0.8 - 0.35 * number, f" {words} ", fontsize=6.5, color="0.35", ha=side)
    ax.axvline(0.5, color=BLACK, lw=0.8)
    ax.set_yticks(range(len(SCORES)), SCORES.values())
    ax.set(xlabel="area under the curve", ylim=(len(SCORES) - 0.4, -2.4))


def detection_rows(records: dict[str, Sequence[dict]], controls: dict[str, dict]) -> list[dict]:
    """Make rows of areas: means over seeds with their range, or one number with its interval."""
    rows = []
    for kind, found in ((kind, found) for kind, found in records.items() if found):
        for score, words in SCORES.items():
            area = {s: spread(found, f"{score}, {s}, auroc", 3) for s in defects.SUBSETS}
            precision = spread(found, f"{score}, all, precision", 3)
            row = {"model": EPSILON[kind], "score": words} | area
            rows.append(row | {"average precision": precision})
    for model, numbers in controls.items():
        names = [name.removesuffix(", all, auroc") for name in numbers if ", all, auroc" in name]
        for score in names:
            area = {s: _interval(numbers, f"{score}, {s}") for s in defects.SUBSETS}
            precision = f"{numbers[f'{score}, all, precision']:.3f}"
            row = {"model": model, "score": SCORES.get(score, score)} | area
            rows.append(row | {"average precision": precision})
    return rows


def _interval(numbers: dict, name: str) -> str:
    area, low, high = (numbers[f"{name}, {key}"] for key in ("auroc", "low", "high"))
    return f"{area:.3f} [{low:.3f}, {high:.3f}]"


# Conclusions about simulated images and about photographs, as claims of the ledger.
CARRIES_OVER = {
    "samples with the paper's ε are closer than the β-VAE's": ("celeba-samples", "cells-samples"),
    "a fixed ε of 10⁻⁵ yields good results": ("small-epsilon", "cells-epsilon"),
    "a learnt ε repairs the density": ("learnt-epsilon", "cells-density"),
    "low rank and sparse precision together are densest": ("both-together", "cells-both"),
    "leave-one-out scores find what does not belong": ("lesions", "cells-defects"),
    "log-densities find it": (None, "cells-defect-density"),
}


def carry_over_rows(claims: Sequence[Claim]) -> list[dict]:
    """Make a row for each conclusion: its verdict on simulated images, and on photographs."""
    verdicts = {claim.key: f"[{claim.verdict}](../CLAIMS.md#{claim.key})" for claim in claims}
    return [
        {
            "conclusion": words,
            "simulated images": verdicts[simulated] if simulated else "not tested",
            "solar cells": verdicts[real],
        }
        for words, (simulated, real) in CARRIES_OVER.items()
    ]
