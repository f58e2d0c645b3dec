"""Figures of notebook 01: constraints along training, and coherence by distance and by space."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sos.figures.labels import title
from sos.figures.panels import letter
from sos.figures.style import BLACK, LINES, ORANGE, SKY, WIDTH, styled

PANELS = (
    ("kl_nats", "KL[q(z|x) ‖ p(z)]  (nats)"),
    ("rank_entropy_nats", "rank entropy  (nats)"),
    ("kl_multiplier", r"multiplier $\beta$"),
    ("rank_entropy_multiplier", r"multiplier $\lambda_H$"),
)


def traces(
    histories: dict[str, list[dict]], targets: dict[str, dict[str, float | None]], pretraining: int
) -> Figure:
    """Draw KL, rank entropy and their multipliers along training (eq. 3).

    `histories` are {model: rows of its history}, and `targets` are
    {model: {"kl": ξ_KL, "rank_entropy": ξ_H or None}}. Before the step `pretraining`
    the mean is trained alone.
    """
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.4), sharex=True, layout="constrained")
        for (key, label), ax in zip(PANELS, axes.flat, strict=True):
            constraint = key.rsplit("_", 1)[0]
            known = {n: t[constraint] for n, t in targets.items() if t[constraint] is not None}
            ax.set_ylabel(label)
            for name, target in known.items():
                _trace(ax, name, histories[name], key, 0 if constraint == "kl" else pretraining)
                if key.endswith("nats"):
                    ax.axhline(target, color=BLACK, lw=0.8, ls=(0, (1, 1.5)), label="target")
        axes[0, 0].set_ylim(0, 2.5 * max(t["kl"] for t in targets.values()))
        axes[1, 0].set_yscale("symlog", linthresh=10)
        axes[1, 0].set_ylim(bottom=0)
        for ax in axes[1]:
            ax.set_xlabel("training step")
        letter(axes.flat)
        handles, names = axes[0, 0].get_legend_handles_labels()
        named = dict(zip(names, handles, strict=True))  # each once
        look = {"loc": "outside upper center", "ncols": len(named), "columnspacing": 1.2}
        figure.legend(named.values(), named.keys(), **look)
    return figure


def _trace(ax: Axes, name: str, history: list[dict], key: str, first: int) -> None:
    """Draw one line: a model's colour, dashed for brain slices."""
    rows = [row for row in history if row["step"] > first]
    colour = LINES["SOS-VAE" if name.endswith("sos") else "β-VAE"]["color"]
    steps, values = [row["step"] for row in rows], [row[key] for row in rows]
    dashes = "-" if name.startswith("faces") else (0, (4, 1.5))
    ax.plot(steps, values, ls=dashes, color=colour, lw=1.1, label=title(name))


def coherence(curves: dict[str, dict[str, Tensor]], shares: dict[str, dict[str, float]]) -> Figure:
    """Draw the correlation of residuals by pixel distance, and where Var[y] sits.

    `curves[data set][model]` are (distances,). `shares[data set][model]` is the share of Var[y]
    that is in the observation space.
    """
    with styled():
        widths = [*(1.0 for _ in curves), 1.15]
        figure, axes = plt.subplots(
            1, len(curves) + 1, figsize=(WIDTH, 2.6), layout="constrained", width_ratios=widths
        )
        for ax, (data, lines) in zip(axes, curves.items(), strict=False):
            for name, curve in lines.items():
                label = "test images, x − μ" if name == "data" else f"{name}, y − μ"
                ax.plot(curve, **LINES[name], label=label)
            ax.axhline(0, color=BLACK, lw=0.6)
            low = min(0.0, *(float(curve.min()) for curve in lines.values()))
            ax.set(xlabel=f"distance (pixels), {data}", ylim=(low - 0.05, 1.03))
        axes[0].set_ylabel("correlation of residuals")
        _stacked_shares(axes[-1], shares)
        letter(axes)
        handles = [*axes[0].get_lines()[: len(next(iter(curves.values())))], *axes[-1].containers]
        figure.legend(handles=handles, loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def _stacked_shares(ax: Axes, shares: dict[str, dict[str, float]]) -> None:
    """Draw horizontal bars of the observation space's share, the latent space's beside it."""
    labels = [f"{data}\n{name}" for data, models in shares.items() for name in models]
    values = np.array([value for models in shares.values() for value in models.values()])
    places = np.arange(len(values))[::-1]
    ax.barh(places, values, color=ORANGE, height=0.7, label="observation space")
    ax.barh(places, 1 - values, left=values, color=SKY, height=0.7, label="latent space")
    for place, value in zip(places, values, strict=True):
        ax.text(0.02, place, f"{100 * value:.0f} %", va="center", fontsize=8)
    ax.set_yticks(places, labels, fontsize=8)
    ax.set(xlabel="share of Var[y]", xlim=(0, 1))
