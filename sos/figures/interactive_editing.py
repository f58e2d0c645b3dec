"""Figures of notebook 05: what edits change by region, and which pixels tell the model most."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sos.figures.panels import axes_at, bare, enlarged, frame, heat_map, letter, tile
from sos.figures.style import BLUE, ORANGE, VERMILLION, WIDTH, styled
from sos.figures.tables import number

SIDE = 2.15  # inches: a picture of `telling_pixels`
BADGE = 0.09  # inches: the radius of the number of a pixel
LOOKS = {  # how lines are drawn whose label holds the word
    "random": {"color": ORANGE, "ls": (0, (5, 1.5))},
    "exact": {"color": VERMILLION, "ls": (0, (6, 1.5, 1, 1.5))},
    "most telling": {"color": BLUE, "ls": "-"},
}


def edit_effects(
    effects: dict[str, dict[str, Tensor]], regions: dict[str, Sequence[str]]
) -> Figure:
    """Draw what edits on each region change in all, one row of heat maps per data set.

    `effects[data set][kind of edit]` (regions, 1 + regions) is in gray levels, and its first column
    is what the edit asked for. `regions[data set]` are the names of the regions. An edited region's
    own change is framed, and the largest change of each row is bold.
    """
    across = max(len(kinds) for kinds in effects.values())
    tables = [table for kinds in effects.values() for table in kinds.values()]
    top = 10 * np.ceil(max(np.nanmax(table) for table in tables) / 10)
    with styled():
        size = (WIDTH, 2.5 * len(effects) + 0.1)
        figure, axes = plt.subplots(
            len(effects), across, figsize=size, layout="constrained", squeeze=False
        )
        for line, (data, kinds) in zip(axes, effects.items(), strict=True):
            for ax, (kind, table) in zip(line, kinds.items(), strict=True):
                shown = _effects_of(ax, table, regions[data], top)
                ax.set_title(kind)
                ax.tick_params(labelleft=ax is line[0])
            line[0].set_ylabel(f"{data}: edited region")
        letter(axes.flat)
        look = {"ticks": [0, top / 2, top], "aspect": 40, "pad": 0.01}
        bar = figure.colorbar(shown, ax=axes, label="change (gray levels of 255)", **look)
        bar.outline.set_visible(False)
    return figure


def _effects_of(ax: Axes, table: Tensor, regions: Sequence[str], top: float):
    """Draw one table (regions, 1 + regions), its first column apart from the others."""
    values = np.asarray(table, dtype=float)
    columns, look = ("asked for", *regions), {"cmap": "Blues", "vmin": 0, "vmax": top}
    shown = heat_map(ax, values, regions, columns, _two_digits, **look)
    ax.tick_params(axis="x", labelrotation=90)
    ax.axvspan(0.38, 0.5, color="white", lw=0)
    largest = np.nan_to_num(values[:, 1:]).argmax(1) + 1
    for text in ax.texts:
        column, row = map(int, text.get_position())
        text.set_fontweight("bold" if column == largest[row] else "normal")
    for row in range(len(regions)):
        frame(ax, (row + 0.5, row - 0.5), 1, 1, lw=1.3, zorder=3)
    return shown


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def telling_pixels(
    mean: Tensor,
    removed: Tensor,
    chosen: Sequence[int],
    left: dict[str, Sequence[float]],
    errors: dict[str, Sequence[float]],
) -> Figure:
    """Draw which pixels tell most, what they leave open, and how far the mean then is off.

    `mean` (C, H, W) is shown with the `chosen` pixel numbers. `removed` (H, W) is the variance that
    each pixel removes, summed over the image. Both groups of curves are
    {label: values after 0, 1, 2 … pixels}. `left` are shares of the variance, and `errors` are root
    mean squares in [0, 1].
    """
    with styled():
        figure = plt.figure(figsize=(WIDTH, 2 * SIDE + 0.95))
        upper, lower, right = SIDE + 0.7, 0.45, SIDE + 1.25
        picture = axes_at(figure, 0.05, upper, SIDE, SIDE)
        map_ = axes_at(figure, 0.05, lower, SIDE, SIDE)
        lines = axes_at(figure, right, upper, WIDTH - right - 0.05, SIDE)
        error_lines = axes_at(figure, right, lower, WIDTH - right - 0.05, SIDE)
        _numbered(picture, mean, chosen)
        shown = _map(map_, removed)
        ends = [0, float(removed.max())]
        bar_axes = axes_at(figure, SIDE + 0.1, lower, 0.07, SIDE)
        bar = figure.colorbar(shown, cax=bar_axes, ticks=ends)
        bar.set_label("variance", labelpad=-4)
        bar.ax.set_yticklabels([number(end, 2) for end in ends])
        bar.outline.set_visible(False)
        _curves(lines, left, "share of the variance left")
        _curves(error_lines, errors, "error of the mean (RMSE)")
        lines.tick_params(labelbottom=False)
        error_lines.set_xlabel("pixels known")
        letter([picture, map_, lines, error_lines])
    return figure


def _map(ax: Axes, values: Tensor):
    """Show a map (H, W) from zero on, enlarged as pictures are."""
    fine = enlarged(values[None, None].cpu().float(), SIDE)[0, 0]
    bare(ax)
    return ax.imshow(fine, cmap="viridis", vmin=0, vmax=float(values.max()), aspect="auto")


def _numbered(ax: Axes, image: Tensor, chosen: Sequence[int]) -> None:
    """Show an image (C, H, W) with numbers at chosen pixels, none of them over its edge."""
    height, width = image.shape[1:]
    ax.imshow(tile(image[None], 1, SIDE), extent=(0, width, height, 0))
    bare(ax)
    reach = BADGE / SIDE * width  # pixels
    for place, pixel in enumerate(chosen, 1):
        y, x = (at + 0.5 for at in divmod(pixel, width))
        x, y = np.clip(x, reach, width - reach), np.clip(y, reach, height - reach)
        ax.add_patch(plt.Circle((x, y), reach, fc=VERMILLION, ec="white", lw=0.6))
        look = {"ha": "center", "va": "center_baseline", "fontsize": 7.5, "color": "white"}
        ax.text(x, y, str(place), fontweight="bold", **look)


def _curves(ax: Axes, curves: dict[str, Sequence[float]], label: str) -> None:
    for name, values in curves.items():
        look = next(look for word, look in LOOKS.items() if word in name)
        ax.plot(torch.as_tensor(values), **look, label=name)
    top = 1.1 * max(max(values) for values in curves.values())
    ax.set(ylabel=label, ylim=(0, top), xlim=(0, None))
    ax.legend(loc="upper right")
