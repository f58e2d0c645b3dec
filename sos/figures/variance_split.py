"""Figures of notebook 10: what the rank buys and costs, and where the variance lives."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.analysis import verdicts
from sos.figures.panels import letter
from sos.figures.style import BLUE, ORANGE, WIDTH, styled
from sos.figures.table_1 import spread

Ranks = dict[int, Sequence[dict]]  # {R: a dictionary of numbers for each seed}
OURS, PPCA = "SOS-VAE, learnt ε", "PPCA, no network"
PANELS = {  # {measurement: label of its axis}
    "elbo": "ELBO or log-density (nats)",
    "distance_samples": "FD of samples",
    "coverage_90": "coverage of 90 % intervals",
    "training_seconds": "training (s of one core)",
}


def ranks(models: Ranks, controls: dict[int, dict[str, float]]) -> Figure:
    """Draw what each rank reaches and costs: means over seeds with their range, and PPCA's."""
    with styled():
        figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.1), layout="constrained")
        for ax, (name, label) in zip(axes, PANELS.items(), strict=True):
            _rank_curve(ax, models, name)
            known = {"elbo": "density"}.get(name, name)
            points = {rank: found[known] for rank, found in controls.items() if known in found}
            if points:
                ax.plot(*zip(*points.items(), strict=True), "s--", color=ORANGE, ms=3.5, label=PPCA)
            ax.set_xscale("symlog", linthresh=3, linscale=0.5)
            ax.set_xticks([0, 3, 12, 50], ["0", "3", "12", "50"])
            ax.minorticks_off()
            ax.set(xlabel="rank R", title=" ")
            ax.set_ylabel(label)
        axes[2].axhline(0.9, color="0.5", lw=0.8, ls=":")
        axes[3].set_ylim(0, None)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        letter(axes)
    return figure


def _rank_curve(ax: Axes, models: Ranks, name: str) -> None:
    """Draw the mean over seeds against the rank, and each seed."""
    found = {rank: list(verdicts.values_of(r, name).values()) for rank, r in models.items()}
    found = {rank: values for rank, values in found.items() if values}
    ax.plot(list(found), [np.mean(v) for v in found.values()], "o-", color=BLUE, ms=3.5, label=OURS)
    for rank, values in found.items():
        ax.plot([rank] * len(values), values, "_", color=BLUE, ms=5)


def rank_rows(models: Ranks, controls: dict[int, dict[str, float]], values: int) -> list[dict]:
    """Make a row for each rank: density, distance, calibration, and what P costs.

    `values` is the number of values of an image, S: P has S·R numbers.
    """
    rows = []
    for rank, found in models.items():
        exact = controls.get(rank, {})
        rows.append(
            {
                "R": str(rank),
                "seeds": str(len(found)),
                "ELBO (nats)": spread(found, "elbo"),
                "PPCA, log-density": f"{exact['density']:,.0f}" if exact else "–",
                "nats of z": spread(found, "kl_nats", 1),
                "nats of ω": spread(found, "rank_nats", 1),
                "FD of samples": spread(found, "distance_samples"),
                "90 % intervals cover": spread(found, "coverage_90", 2),
                "training (s)": spread(found, "training_seconds"),
                "P (kB per image)": f"{4 * values * rank / 1000:,.0f}",
            }
        )
    return rows
