"""The parts of figures: rows of pictures, contact sheets, heat maps, letters and line labels."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor
from torch.nn import functional as F

from sos import datasets
from sos.config import Data
from sos.figures.style import FILE_DPI, VERMILLION, WIDTH, styled

GAP = 0.03  # between pictures, as a share of a picture's width
MARK = VERMILLION  # edits and frames
NOTE, UNDER = 0.3, 0.18  # inches: a note that takes a row, a line of text under pictures


@dataclass
class Row:
    """Hold one row of pictures with its label, as `row` makes it."""

    label: str
    images: Tensor  # (N, C, H, W)
    cmap: str | None = None
    limits: tuple[float, float] | None = None
    note: str | None = None
    under: Sequence[str] = ()
    cross: tuple[int, int] | None = None
    circles: Sequence[Sequence[int]] = ()
    bar: str | None = None


def row(label: str, images: Tensor, cmap: str | None = None, **more) -> Row:
    """Make a row of pictures (N, C, H, W) in [0, 1], or of maps through a colour map.

    With a `cmap` the channels are averaged and shown between `limits`, with a colour bar that `bar`
    names. By default the limits are zero (or symmetric, for the diverging map RdBu_r) and
    `robust_limit`. `note` takes the place of the pictures. `under` are texts below them. `cross`
    (row, column) marks a reference pixel in each. `circles` are drawn around the pixel numbers of
    each picture. Raises ValueError for other shapes, and for bytes.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or images.dtype == torch.uint8:
        raise ValueError(
            f"images of a row must be (N, C, H, W) with C = 1 or 3 and values in [0, 1], not "
            f"{images.dtype} {tuple(images.shape)}; unflatten flat ones, divide bytes by 255"
        )
    made = Row(label, images.detach().cpu().float(), cmap, **more)
    if cmap and made.limits is None:
        top = robust_limit(made.images.mean(1)) or 1.0  # a map of zeros has no scale of its own
        made.limits = (-top if cmap == "RdBu_r" else 0.0, top)
    return made


def robust_limit(values: Tensor) -> float:
    """Return the 99.5th percentile of |values|, a scale that single pixels do not set."""
    return float(np.quantile(values.detach().abs().cpu().numpy(), 0.995))


def enlarged(images: Tensor, inches: float) -> Tensor:
    """Enlarge images (N, C, H, W) smoothly, by a whole number, until files show every pixel."""
    times = round(FILE_DPI * inches / images.shape[-1])
    if times < 2:
        return images
    return F.interpolate(images, scale_factor=times, mode="bicubic", align_corners=False)


def tile(images: Tensor, columns: int, inches: float = 0.0) -> np.ndarray:
    """Lay images (N, C, H, W) in [0, 1] out as one array (height, width, 3) with white gaps.

    Each is `inches` wide in the figure, and enlarged for that.
    """
    images = enlarged(images.detach().cpu().float(), inches).clamp(0, 1).expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    gap, rows = max(2, round(GAP * width)), -(-len(images) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for k, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def show_tiles(ax: Axes, images: Tensor, columns: int, inches: float) -> None:
    """Show images in axes whose unit is the width of one picture with its gap."""
    canvas = tile(images, columns, inches)
    tall = canvas.shape[0] / canvas.shape[1] * (columns - GAP / (1 + GAP))
    extent = (0, columns - GAP / (1 + GAP), tall, 0)
    ax.imshow(canvas, extent=extent, interpolation="nearest", aspect="auto")
    bare(ax)


def bare(ax: Axes) -> None:
    """Take away ticks and frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def pictures(rows: Sequence[Row], titles: Sequence[str] = ()) -> Figure:
    """Draw rows of pictures, under the titles of their columns. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("pictures needs at least one row; make them with `row(label, images)`")
    count = max(len(one.images) for one in rows)
    lines = max(len(line) for one in rows for line in one.label.split("\n"))
    left = 0.1 + 0.068 * lines
    right = 0.62 if any(one.cmap and one.note is None for one in rows) else 0.02
    side = (WIDTH - left - right) / count
    heights = [_row_height(one, side) for one in rows]
    top = 0.2 * max((title.count("\n") + 1 for title in titles), default=0)
    total = top + sum(heights)
    with styled():
        figure = plt.figure(figsize=(WIDTH, total))
        upper = total - top
        for one, height in zip(rows, heights, strict=True):
            _draw_row(figure, one, left, upper, side, count)
            upper -= height
        for column, title in enumerate(titles):
            x = (left + side * (column + 0.5)) / WIDTH
            figure.text(x, 1 - top / total + 0.01, title, ha="center", va="bottom", fontsize=8.5)
    return figure


def _picture_height(one: Row, side: float) -> float:
    """Return the height of pictures in inches that with their gap are `side` wide."""
    height, width = one.images.shape[-2:]
    return side / (1 + GAP) * height / width


def _row_height(one: Row, side: float) -> float:
    if one.note is not None:
        return NOTE
    return _picture_height(one, side) + GAP * side + (UNDER if one.under else 0.0)


def _draw_row(figure: Figure, one: Row, left: float, upper: float, side: float, count: int) -> None:
    """Draw a row below `upper` (inches), in the room of `count` pictures of the width `side`."""
    high = NOTE
    if one.note is None:
        high, upper = _picture_height(one, side), upper - GAP * side
    ax = axes_at(figure, left, upper - high, side * count, high)
    bare(ax)
    ax.set_ylabel(one.label, rotation=0, ha="right", va="center", labelpad=5)
    if one.note is not None:
        ax.text(0.5, 0.5, one.note, transform=ax.transAxes, ha="center", va="center")
        return
    images = one.images
    if one.cmap:
        scale = plt.Normalize(*one.limits)
        values = enlarged(images.mean(1, keepdim=True), side)[:, 0]
        colours = matplotlib.colormaps[one.cmap](scale(values.numpy()))[..., :3]
        images = torch.from_numpy(colours).permute(0, 3, 1, 2)
        place = left + side * count + 0.05, upper - 0.95 * high
        _draw_bar(axes_at(figure, *place, 0.07, 0.9 * high), one)
    show_tiles(ax, images, len(images), 0.0 if one.cmap else side)
    ax.set_xlim(0, count)
    _draw_marks(ax, one)


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, tall = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / tall, width / across, height / tall))


def _draw_bar(ax: Axes, one: Row) -> None:
    """Draw a row's colour bar, which names the ends of its scale."""
    mappable = plt.cm.ScalarMappable(plt.Normalize(*one.limits), one.cmap)
    ends = sorted({*one.limits, 0.0})
    bar = ax.figure.colorbar(mappable, cax=ax, ticks=ends, label=one.bar)
    bar.ax.set_yticklabels([f"{end:.2g}".replace("-", "−") for end in ends])
    bar.ax.tick_params(length=2, pad=2)
    bar.outline.set_visible(False)
    labels = bar.ax.get_yticklabels()
    labels[0].set_va("bottom")
    labels[-1].set_va("top")


def _draw_marks(ax: Axes, one: Row) -> None:
    """Draw the crosses, circles and texts of a row."""
    height, width = one.images.shape[-2:]
    unit = 1 / (1 + GAP) / width  # of a pixel
    for column in range(len(one.images)):
        if one.cross is not None:
            cross(ax, column + (one.cross[1] + 0.5) * unit, (one.cross[0] + 0.5) * unit)
        if column < len(one.circles) and len(one.circles[column]):
            i, j = np.divmod(np.asarray(one.circles[column]), width)
            radius = (np.hypot(np.ptp(i) + 1, np.ptp(j) + 1) / 2 + 0.04 * height) * unit
            x, y = column + (j.mean() + 0.5) * unit, (i.mean() + 0.5) * unit
            circle = plt.Circle((x, y), radius, fill=False, ec=MARK, lw=1.4, clip_on=False)
            ax.add_patch(circle)
        if column < len(one.under):
            x, y = column + 0.5 / (1 + GAP), (height + 1) * unit
            ax.text(x, y, one.under[column], ha="center", va="top", fontsize=8, clip_on=False)


def cross(ax: Axes, x: float, y: float) -> None:
    """Mark a reference pixel."""
    ax.plot(x, y, "+", color="black", ms=6, mew=1.2, path_effects=halo("white"))


def halo(colour: str, width: float = 2.5) -> list:
    """Return the effect of a line or text with a border of this colour and width in points."""
    return [withStroke(linewidth=width, foreground=colour)]


def sheets(panels: dict[str, Tensor], columns: int, framed: Sequence[int] = ()) -> Figure:
    """Draw contact sheets side by side, from {title: images (N, C, H, W)}.

    The pictures whose numbers are in `framed` get frames. Several sheets get panel letters.
    """
    space, apart = WIDTH / len(panels), 0.12
    side = (space - apart * (len(panels) > 1)) / columns
    first = next(iter(panels.values()))
    tall = -(-len(first) // columns) * side / (1 + GAP) * (first.shape[2] / first.shape[3] + GAP)
    top = 0.25 if any(panels) else 0.0
    letters = iter("abcdefgh")
    with styled():
        figure = plt.figure(figsize=(WIDTH, tall + top))
        for k, (title, images) in enumerate(panels.items()):
            ax = axes_at(figure, k * space, 0, side * columns, tall)
            show_tiles(ax, images, columns, side)
            letter = f"$\\bf{{{next(letters)}}}$  " if len(panels) > 1 else ""
            ax.set_title(letter + title, loc="left" if letter else "center")
            wide = 1 / (1 + GAP)  # of a picture in the axes' units
            high = wide * images.shape[2] / images.shape[3]
            for row, column in (divmod(number, columns) for number in framed):
                frame(ax, (column, row * (high + GAP * wide)), wide, high)
    return figure


def contact_sheet(data: Data, count: int, columns: int = 12) -> Figure | None:
    """Draw the first training images of a folder, read now; None where none can be read."""
    images = []
    for file in datasets.items(data, "train")[:count]:
        with suppress(ValueError):  # one that cannot be read
            images.append(torch.from_numpy(datasets.make(data, file)["images"]))
    if not images:
        return None
    size = f"{data.width}×{data.height}, {'colour' if data.channels == 3 else 'gray'}"
    return sheets({size: torch.stack(images).float() / 255}, columns)


def frame(ax: Axes, corner: tuple[float, float], width: float, height: float, **look) -> None:
    """Draw a frame from a corner, in the units of the axes."""
    look = {"fill": False, "ec": MARK, "lw": 1.5, "clip_on": False} | look
    ax.add_patch(plt.Rectangle(corner, width, height, **look))


def heat_map(
    ax: Axes,
    table: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    write: Callable[[float], str] | None = None,
    **look,
) -> matplotlib.image.AxesImage:
    """Draw a table of numbers (rows, columns) as a heat map; NaN stays empty.

    `write` turns a number into its text; by default numbers are rounded to whole ones.
    """
    write = write or _whole
    values = np.asarray(table, dtype=float)
    shown = ax.imshow(values, aspect="auto", **look)
    dark = shown.cmap(shown.norm(np.nan_to_num(values)))[..., :3] @ [0.299, 0.587, 0.114] < 0.5
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if dark[i, j] else "black"
            ax.text(j, i, write(value), ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return shown


def _whole(value: float) -> str:
    return f"{value:.0f}".replace("-0", "0").replace("-", "−")


def note(text: str) -> Figure:
    """Draw a line of text where there is nothing to be drawn."""
    with styled():
        figure = plt.figure(figsize=(WIDTH, NOTE))
        ax = axes_at(figure, 0, 0, WIDTH, NOTE)  # without axes a notebook shows no picture
        bare(ax)
        ax.text(0, 0.5, text, va="center")
    return figure


def letter(axes: Sequence[Axes]) -> None:
    """Put panel letters a, b, c ... at the upper left corners of axes; one panel needs none."""
    if len(axes) < 2:
        return
    for name, ax in zip("abcdefghij", axes, strict=False):
        ax.set_title(name, loc="left", fontweight="bold")


def label_lines(ax: Axes, apart: float = 9.5) -> None:
    """Write the labels of the lines beside their last values, at least `apart` points apart."""
    figure = ax.figure
    figure.draw_without_rendering()
    ends = []
    for line in ax.get_lines():
        name = line.get_label()
        if name.startswith("_"):
            continue
        y = np.asarray(line.get_ydata(), dtype=float)
        y = y[np.isfinite(y)][-1]
        low, high = sorted(ax.get_ylim())
        at = ax.transData.transform((ax.get_xlim()[1], min(max(y, low), high)))[1]
        ends.append([at * 72 / figure.dpi, name, line.get_color()])
    ends.sort(key=lambda end: end[0])
    for below, above in zip(ends, ends[1:], strict=False):
        above[0] = max(above[0], below[0] + apart)
    bottom = ax.transAxes.transform((1, 0))[1] * 72 / figure.dpi
    high = ax.transAxes.transform((1, 1))[1] * 72 / figure.dpi
    shift = max(0.0, ends[-1][0] - high) if ends else 0.0
    for at, name, colour in ends:
        spot = {"xy": (1, 0), "xycoords": "axes fraction", "textcoords": "offset points"}
        y = at - shift - bottom
        ax.annotate(name, xytext=(5, y), va="center", color=colour, fontsize=8, **spot)
