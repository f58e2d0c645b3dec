"""Figures of notebook 06: trainings of one distribution beside its exact solution."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from sos.figures.panels import letter
from sos.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILLION, WIDTH, styled

# The trainings keep colour, line and marker in all figures.
LOOKS = {
    "as in §3.3": {"color": BLUE, "ls": "-", "marker": "o"},
    "three quarters of ξ_H": {"color": SKY, "ls": (0, (1.2, 1)), "marker": "s"},
    "no constraint": {"color": VERMILLION, "ls": (0, (5, 1.5)), "marker": "^"},
    "no constraint, span gradient": {"color": GREEN, "ls": (0, (6, 1.5, 1, 1.5)), "marker": "D"},
}
EXACT = {"color": BLACK, "lw": 3.5, "alpha": 0.3}
LEGEND = {"loc": "outside upper center", "ncols": 5, "columnspacing": 1.2, "handlelength": 2.4}


def _line(training: str) -> dict:
    look = LOOKS[training]
    label = training.replace("ξ_H", r"$\xi_H$")
    return {"color": look["color"], "ls": look["ls"], "label": label}


def convergence(
    gaps: dict[str, tuple[Sequence[int], Sequence[float]]],
    spectra: dict[str, Tensor],
    angles: dict[str, Tensor],
    exact: Tensor,
) -> Figure:
    """Draw how far trainings of one distribution are from the exact solution.

    `gaps[training]` (steps, nats per dimension below the exact solution), `spectra[training]` and
    `exact` eigenvalues (R,) of PPᵀ, `angles[training]` (R,) in degrees to the exact span.
    """
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.8), layout="constrained")
        components = np.arange(1, len(exact) + 1)
        axes[1].plot(components, exact, **EXACT, label="exact solution")
        for training, (steps, gap) in gaps.items():
            axes[0].plot(steps, gap, **_line(training))
            axes[1].plot(components, spectra[training], **_line(training))
            axes[2].plot(components, angles[training], **_line(training))
        axes[0].set(xlabel="training step", ylabel="log-density lost\n(nats per dimension)")
        axes[1].set(xlabel="component", ylabel=r"eigenvalue of $\mathbf{P}\mathbf{P}^{\mathsf{T}}$")
        axes[2].set(xlabel="component", ylabel="principal angle (degrees)")
        for ax in axes:
            _log(ax)
        axes[2].set_ylim(top=90)
        for ax in axes[1:]:
            ax.set_xticks([1, *range(5, len(exact) + 1, 5)])
        letter(axes)
        figure.legend(*axes[1].get_legend_handles_labels(), **LEGEND)
    return figure


def _log(ax: Axes) -> None:
    """Scale an axis logarithmically, with ticks at powers of ten that are written out."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(_plain)
    ax.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: int = 0) -> str:
    """Write a tick without an exponent."""
    return f"{value:,g}".replace("-", "−")


def entropy_and_epsilon(
    curve: dict[str, Tensor],
    points: dict[str, tuple[float, float]],
    data_variance: float,
    density: tuple[Sequence[float], Sequence[float]],
    marks: dict[str, tuple[float, float]],
) -> Figure:
    """Draw what the target of the entropy and what ε do to the exact solution.

    `curve` as `sos.analysis.pca.Spectrum.constrained` returns it, `points[training]` (rank entropy,
    variance), `density` (values of ε, nats per dimension), and `marks[label]` points of it.
    """
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.8), layout="constrained")
        _variance_by_entropy(axes[0], curve, points, data_variance)
        axes[1].plot(curve["rank_entropy"], curve["lost"], color=BLACK)
        axes[1].set(xlabel="rank entropy (nats)", ylabel="log-density lost\n(nats per image)")
        _asinh(axes[1], low=0.0)
        axes[2].plot(*density, color=BLACK)
        for (label, point), place in zip(marks.items(), ((7, -9), (0, 6)), strict=True):
            axes[2].plot(*point, "o", color=ORANGE, mec=BLACK, mew=0.6, ms=6)
            side = "left" if place[0] else "center"
            look = {"textcoords": "offset points", "fontsize": 8, "ha": side}
            axes[2].annotate(label, point, xytext=place, **look)
        axes[2].set(xscale="log", xlabel=r"$\varepsilon$")
        axes[2].set_ylabel("log-density\n(nats per dimension)")
        _asinh(axes[2])
        for ax in axes[:2]:
            ax.xaxis.set_major_locator(MaxNLocator(4))
        letter(axes)
        figure.legend(*axes[0].get_legend_handles_labels(), **LEGEND)
    return figure


def _variance_by_entropy(ax: Axes, curve: dict, points: dict, data_variance: float) -> None:
    """Draw the variance of the exact solutions as a line, that of trainings as points."""
    entropy = curve["rank_entropy"]
    ax.plot(entropy, curve["variance"], color=BLACK, label="exact solutions")
    for training, point in points.items():
        look = LOOKS[training]
        label = _line(training)["label"]
        ax.plot(*point, look["marker"], color=look["color"], mec=BLACK, mew=0.6, ms=6, label=label)
    ax.axhline(data_variance, color=BLACK, lw=0.8, ls=(0, (1, 1.5)))
    place = {"textcoords": "offset points", "xytext": (0, 3), "fontsize": 8}
    ax.annotate("data", (float(entropy[0]), data_variance), **place)
    ax.set(xlabel="rank entropy (nats)", ylabel="mean variance of a value")
    _log(ax)


def _asinh(ax: Axes, low: float | None = None) -> None:
    """Scale an axis linearly around zero and logarithmically further out, with few ticks."""
    ax.set_yscale("asinh")
    ax.margins(y=0.12)  # on this scale
    ax.set_ylim(low)
    bottom, top = ax.get_ylim()
    powers = [10.0**power for power in range(1, 9)]
    ticks = sorted({0.0, *powers, *(-power for power in powers)})
    ax.set_yticks([tick for tick in ticks if bottom <= tick <= top])
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(_plain)
