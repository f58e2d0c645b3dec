"""Figures of notebook 04: sweeps over the scale of each component, and where their energy lies."""

from collections.abc import Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sos.figures.panels import GAP, MARK, axes_at, frame, heat_map, letter, note, show_tiles
from sos.figures.style import WIDTH, styled
from sos.figures.table_1 import spread

TALLEST = 9.2  # inches: the text height of a page
LEFT, TOP = 0.42, 0.42  # inches that the labels of a sweep take
Region = tuple[Tensor, Tensor, Sequence[str]]  # shares (regions, R), areas (regions,), names


def sweeps(images: Tensor, scales: Tensor, sample: bool = True) -> Figure:
    """Draw a row of pictures for each component and a column for each of its scales (eq. 5).

    The images are (components, scales, C, H, W) in [0, 1], and the scales (scales,). The column of
    scale 1 is framed, and is called the model's own sample unless `sample` is false.
    """
    count, columns, _, height, width = images.shape
    unit = (height / width + GAP) / (1 + GAP)  # a row's height in columns
    side = min((WIDTH - LEFT) / columns, (TALLEST - TOP) / (count * unit))
    across, tall = LEFT + side * columns, TOP + side * count * unit
    with styled():
        figure = plt.figure(figsize=(across, tall))
        ax = axes_at(figure, LEFT, 0, across - LEFT, tall - TOP)
        show_tiles(ax, images.flatten(0, 1), columns, side)
        ax.set(xlim=(0, columns), ylim=(count * unit, 0))
        middle = 0.5 / (1 + GAP)
        down = [row * unit + middle * height / width for row in range(count)]
        ax.set_yticks(down, range(1, count + 1))
        _label_scales(ax, scales.tolist(), middle, sample)
        ax.tick_params(length=0, pad=3)
        ax.set_ylabel("principal component $r$", labelpad=4)
    return figure


def _label_scales(ax: Axes, scales: list[float], middle: float, sample: bool) -> None:
    """Label the columns of whole numbers above the pictures, and frame the column of scale 1."""
    whole = {column: scale for column, scale in enumerate(scales) if scale == round(scale)}
    names = [f"{scale:.0f}".replace("-", "−") for scale in whole.values()]
    names = ["1 (sample)" if sample and name == "1" else name for name in names]
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    ax.set_xticks([column + middle for column in whole], names)
    ax.set_xlabel("scale $a_r$ of the component", labelpad=4)
    if 1 in scales:
        ax.get_xticklabels()[list(whole).index(scales.index(1))].set_color(MARK)
        width = 2 * middle
        frame(ax, (scales.index(1), 0), width, ax.get_ylim()[0] - GAP * width)


def region_rows(records: dict[str, Sequence[dict]]) -> list[dict]:
    """Make a row for each region with the largest share of a component's energy, over seeds.

    `records` are {data set: what `regions.load_or_measure` found for each seed}. The last column
    counts the leading components that have half of their energy in one small region.
    """
    return [
        {
            "data": data,
            "region": name.removesuffix(", area"),
            "seeds": str(len(found)),
            "its area": spread(found[:1], name, 2),
            "largest share of energy": spread(found, name.replace(", area", ", share"), 2),
            "separable, of the first five": spread(found, "separable", 1),
        }
        for data, found in records.items()
        for name in (found[0] if found else {})
        if name.endswith(", area")
    ]


def energy_by_region(panels: dict[str, Region]) -> Figure:
    """Draw heat maps of the share of each component's energy in each region, in percent.

    `panels` are {data set: (shares (regions, R), areas (regions,), names)}, with shares and areas
    between 0 and 1. The first column, set apart, is the area.
    """
    if not panels:
        return note("Regions are known for simulated images only.")
    with styled():
        size = (WIDTH, 0.4 + 1.75 * len(panels))
        figure, axes = plt.subplots(
            len(panels), 1, figsize=size, layout="constrained", squeeze=False
        )
        for ax, (data, (shares, areas, names)) in zip(axes[:, 0], panels.items(), strict=True):
            apart = torch.full_like(areas[:, None], torch.nan)
            table = 100 * torch.cat([areas[:, None], apart, shares], 1)
            columns = ["area", "", *map(str, range(1, shares.shape[1] + 1))]
            shown = heat_map(ax, table, names, columns, cmap="Blues", vmin=0, vmax=100)
            ax.set_title(data)
        axes[-1, 0].set_xlabel("principal component $r$")
        letter(axes[:, 0])
        bar = figure.colorbar(
            shown, ax=axes, label="share of energy or area (%)", pad=0.015, aspect=35
        )
        bar.outline.set_visible(False)
    return figure
