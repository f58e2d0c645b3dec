"""Figures of notebook 02: rows in pairs, residuals at all scales, and maps of correlations."""

from collections.abc import Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from torch import Tensor

from sos.figures.panels import axes_at, bare, cross, enlarged, halo, label_lines, letter, show_tiles
from sos.figures.style import BLACK, LINES, WIDTH, styled

MARKERS = {"β-VAE": "v", "Dorta et al.": "s", "SOS-VAE": "o", "low rank + sparse": "^"}
# Lines and markers: solid and filled for samples, dotted and open for test images.
KINDS = {
    "samples": {"ls": "-", "lw": 1.4, "ms": 4},
    "test images": {"ls": (0, (1, 1.2)), "lw": 1.1, "ms": 4, "mfc": "white"},
}


def pairs(groups: dict[str, tuple[Tensor, Tensor]], labels: tuple[str, str]) -> Figure:
    """Draw two rows of pictures for each model, and leave space between the models.

    `groups` are {model: (upper row, lower row)}, each (N, C, H, W) in [0, 1]. `labels` name the two
    rows.
    """
    left, space = 1.5, 0.14  # inches
    count, _, height, width = next(iter(groups.values()))[0].shape
    side = (WIDTH - left) / count
    tall = 2 * side * height / width
    total = len(groups) * (tall + space) - space
    with styled():
        figure = plt.figure(figsize=(WIDTH, total))
        for k, (model, rows) in enumerate(groups.items()):
            bottom = total - tall - k * (tall + space)
            ax = axes_at(figure, left, bottom, WIDTH - left, tall)
            show_tiles(ax, torch.cat(rows), count, side)
            middle = bottom + tall / 2
            name = _broken(model).replace("ξ_H", r"$\mathbf{\xi_H}$")
            figure.text(0, middle / total, name, va="center", fontweight="bold")
            for sign, label in zip((1, -1), labels, strict=True):
                place = (left - 0.06) / WIDTH, (middle + sign * tall / 4) / total
                figure.text(*place, label, ha="right", va="center")
    return figure


def local_and_global(
    correlations: dict[str, dict[str, Tensor]], spectra: dict[str, dict[str, tuple[Tensor, Tensor]]]
) -> Figure:
    """Draw the correlation of residuals by distance (a) and their power by frequency (b).

    Both arguments are {model: {kind: curve}}, where a kind is "samples" or "test images".
    Correlations (distances,) begin at distance zero. A spectrum is (cycles per pixel, power), both
    (rings,).
    """
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.3), layout="constrained")
        for number, model in enumerate(correlations):
            for kind in reversed(KINDS):  # samples lie on top
                curve = correlations[model][kind]
                frequency, power = spectra[model][kind]
                _line(axes[0], torch.arange(len(curve)), curve, model, kind, number)
                _line(axes[1], frequency[1:], power[1:], model, kind, number)
        curves = [curve for kinds in correlations.values() for curve in kinds.values()]
        low = min(float(curve.min()) for curve in curves)
        axes[0].axhline(0, color=BLACK, lw=0.6, zorder=0)
        axes[0].set(xlabel="distance (pixels)", ylabel="correlation of residuals")
        axes[0].set(xlim=(0, len(curves[0]) - 1), ylim=(min(low, 0) - 0.04, 1.03))
        axes[1].set(xlabel="spatial frequency (cycles per pixel)", xscale="log", yscale="log")
        axes[1].set(ylabel="power (variance of a pixel)", xlim=(None, 0.5))
        ticks = (0.02, 0.05, 0.1, 0.2, 0.5)
        axes[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[1].xaxis.set_minor_locator(plt.NullLocator())
        handles = [Line2D([], [], color=BLACK, marker="o", **look) for look in KINDS.values()]
        names = [r"samples, $y - \mu$", r"test images, $x - \mu$"]
        figure.legend(handles, names, loc="outside upper center", ncols=2, handlelength=3.5)
        letter(axes)
        for ax in axes:
            label_lines(ax)
    return figure


def _line(ax: Axes, x: Tensor, y: Tensor, model: str, kind: str, number: int) -> None:
    """Draw one line in its model's colour, with markers that those of other models do not cover."""
    label = model if kind == "samples" else "_" + model
    look = {"color": LINES[model]["color"], "marker": MARKERS[model], "label": label}
    ax.plot(x, y, markevery=(0.03 + 0.04 * number, 0.16), **look, **KINDS[kind])


def correlations(
    means: dict[str, Tensor], maps: dict[str, Tensor], places: Sequence[tuple[int, int]]
) -> Figure:
    """Draw the correlation of all pixels with a few numbered ones, a row for each model.

    `means` are {model: mean (H, W) in [0, 1]}, and `maps` are {model: correlations (places, H, W)}.
    `places` are (row, column) of the reference pixels. The first column numbers them on the means.
    """
    left, right, top, gap = 0.95, 0.75, 0.22, 0.05  # inches, gap as a share of a picture
    count, (height, width) = 1 + len(places), next(iter(means.values())).shape
    side = (WIDTH - left - right) / (count + gap * (count - 1))
    tall = side * height / width * (len(means) + gap * (len(means) - 1))
    size = (WIDTH, tall + top)
    edges = {"left": left / WIDTH, "right": 1 - right / WIDTH, "top": tall / size[1], "bottom": 0}
    grid = edges | {"wspace": gap, "hspace": gap}
    with styled():
        figure, axes = plt.subplots(
            len(means), count, figsize=size, gridspec_kw=grid, squeeze=False
        )
        for line, (model, mean) in zip(axes, means.items(), strict=True):
            _show(line[0], mean, side, "gray", (0, 1))
            _number(line[0], places)
            line[0].set_ylabel(_broken(model), rotation=0, ha="right", va="center", labelpad=5)
            for ax, map_, (i, j) in zip(line[1:], maps[model], places, strict=True):
                shown = _show(ax, map_, side, "RdBu_r", (-1, 1))
                cross(ax, j, i)
        for ax, title in zip(axes[0], ("mean μ", *range(1, count)), strict=True):
            ax.set_title(title, fontsize=8.5, pad=4)
        high = min(2.2, tall)
        bar_axes = axes_at(figure, WIDTH - right + 0.1, (tall - high) / 2, 0.1, high)
        bar = figure.colorbar(shown, cax=bar_axes, ticks=(-1, -0.5, 0, 0.5, 1))
        bar.set_label("correlation given z")
        bar.outline.set_visible(False)
    return figure


def _show(
    ax: Axes, image: Tensor, inches: float, cmap: str, limits: tuple[float, float]
) -> AxesImage:
    """Show an image (H, W) through a colour map, in axes whose unit is one pixel."""
    values = enlarged(image[None, None], inches)[0, 0]
    height, width = image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    bare(ax)
    look = {"cmap": cmap, "vmin": limits[0], "vmax": limits[1], "interpolation": "nearest"}
    return ax.imshow(values, extent=extent, **look)


def _number(ax: Axes, places: Sequence[tuple[int, int]]) -> None:
    """Write the numbers 1, 2 ... at places (row, column)."""
    for number, (i, j) in enumerate(places, 1):
        look = {"ha": "center", "va": "center", "fontsize": 9, "fontweight": "bold"}
        ax.text(j, i, number, color="white", path_effects=halo("black", 2), **look)


def _broken(model: str) -> str:
    """Break a model's label into two lines."""
    return model.replace(" with ", "\nwith ").replace(" + ", "\n+ ")
