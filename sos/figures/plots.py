"""Every figure of the collection; one owner of style, colour scales and file names."""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from sos.analysis import editing, metrics
from sos.analysis.editing import Shape, Stroke
from sos.analysis.interpolation import Comparison, Square, corners_of
from sos.distributions.low_rank_normal import LowRankNormal
from sos.figures import report
from sos.system import paths
from sos.training.store import Model

STYLE = {
    "figure.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # editable text
    "image.interpolation": "nearest",
}
COLOURS = {
    "β-VAE": "#c44e52",
    "SOS-VAE": "#4c72b0",
    "data": "#555555",
    "Dorta et al.": "#55a868",
    "Dorta et al. with ξ_H": "#8c8c3c",
    "low rank + sparse": "#8172b3",
}
# Trainings of the bare distribution (notebook 06), and the switches of notebook 07.
BARE = {
    "as in §3.3": "#4c72b0",
    "three quarters of ξ_H": "#64b5cd",
    "no constraint": "#c44e52",
    "no constraint, span gradient": "#55a868",
    "exact": "#222222",
}
WIDTH = 10.0  # inches
SHOWN_DPI = 75  # in notebooks, whose size counts; the files have more
PHOTO_DPI = 95
FINE_DPI = 200  # of files with images of the paper's size
GAP = 2  # white pixels between tiled images


def styled() -> AbstractContextManager[None]:
    """The collection's own style over matplotlib's defaults: no file of the user's reaches it."""
    return plt.style.context(["default", STYLE])


def plain() -> AbstractContextManager[None]:
    """matplotlib's defaults, in which figures are drawn to files."""
    return plt.style.context("default")


def save(figure: Figure, name: str, profile: str) -> Figure:
    """Writes <profile>/<name>.png and .pdf, each whole or not at all, without dates.

    The runner's go to figures/, those of notebooks that are run by hand to executed/figures/.
    """
    show_pictures()
    dpi = figure.dpi
    if profile.startswith("paper"):
        dpi = FINE_DPI
        average_what_shrinks(figure, dpi)
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with plain(), paths.replacing(paths.FIGURES / profile / f"{name}.{suffix}") as temporary:
            figure.savefig(
                temporary, format=suffix, metadata=metadata, bbox_inches="tight", dpi=dpi
            )
    plt.close(figure)  # the notebook shows the returned figure, once
    figure.set_dpi(SHOWN_DPI)
    return figure


@cache
def show_pictures() -> None:
    """In a notebook, makes sure that figures are shown: with MPLBACKEND=Agg they would be text."""
    if "ipykernel" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and matplotlib.get_backend().lower() == "agg":
        shell.enable_matplotlib("inline")
    if paths.BY_HAND:
        print(f"figures go to {os.path.relpath(paths.FIGURES)}; run_all.sh renews figures/")


def average_what_shrinks(figure: Figure, dpi: float) -> None:
    """Images with more pixels than the file gives them are averaged; others keep sharp pixels."""
    figure.draw_without_rendering()  # places the axes
    for image in (image for axes in figure.axes for image in axes.images):
        if image.get_array().shape[1] * figure.dpi > image.get_window_extent().width * dpi:
            image.set_interpolation("antialiased")


def save_photo(figure: Figure, name: str, profile: str):
    """`save` for figures made of pictures: notebooks show them as JPEG, at a fifth of the size."""
    from IPython.display import Image

    save(figure, name, profile)
    stream = io.BytesIO()
    quality = {"quality": 85, "optimize": True}
    look = {"dpi": PHOTO_DPI, "bbox_inches": "tight", "pil_kwargs": quality}
    with plain():
        figure.savefig(stream, format="jpeg", **look)
    return Image(stream.getvalue(), format="jpeg")


def tile(images: Tensor, columns: int, gap: int = GAP) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] as one array (rows·H, columns·W, 3) with white gaps."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    pixels = images.detach().cpu().float().clamp(0, 1).expand(-1, 3, -1, -1)
    for k, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def picture_rows(rows: Sequence[dict]) -> Figure:
    """Rows of equally many images, each a dict: label, images, and for a scale map and limits.

    `images` (N, C, H, W). A row without `map` shows colours as they are; with one it shows the
    channel average through that colour map between `limits`, with a colour bar. `bar` (map,
    limits) draws a colour bar beside a row of colours. `note` is written across the row.
    """
    count, _, height, width = rows[0]["images"].shape
    tall = WIDTH * 0.86 / count * height / width
    heights = [0.35 * tall if "note" in row else tall for row in rows]
    with styled():
        figure, grid = plt.subplots(
            len(rows), 2, figsize=(WIDTH, sum(heights) + 0.06 * len(rows) + 0.3), squeeze=False,
            gridspec_kw={
                "width_ratios": [60, 1], "height_ratios": heights, "wspace": 0.02, "hspace": 0.06
            },
        )  # fmt: skip
        for (axes, bar_axes), row in zip(grid, rows, strict=True):
            images, bar = row["images"], row.get("bar")
            if "map" in row:
                bar = row["map"], row["limits"]
                scale = plt.Normalize(*row["limits"])
                values = scale(images.detach().cpu().float().mean(1).numpy())
                colours = matplotlib.colormaps[row["map"]](values)[..., :3]
                images = torch.from_numpy(colours).permute(0, 3, 1, 2)
            if "note" not in row:
                axes.imshow(tile(images, count))
            axes.set_xticks([]), axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_ylabel(row["label"], rotation=0, ha="right", va="center", labelpad=6)
            if "note" in row:
                axes.text(0.5, 0.5, row["note"], transform=axes.transAxes, ha="center", va="center")
            if bar is None:
                bar_axes.axis("off")
            else:
                mappable = plt.cm.ScalarMappable(plt.Normalize(*bar[1]), bar[0])
                figure.colorbar(mappable, cax=bar_axes).ax.tick_params(labelsize=7)
    return figure


def observation_rows(p: LowRankNormal, sample: Tensor, shape: tuple[int, int, int]) -> list[dict]:
    """The six rows of Figure 2 for distributions p over flat images, and one sample of each.

    Covariances are those of every value with the first channel of the central pixel; its own
    entry is left out, as in the authors' figures, and channels are averaged.
    """
    channels, height, width = shape
    centre = height // 2 * width + width // 2
    covariance = p.covariance_row(centre).clone()
    covariance[..., centre] = 0
    difference = sample - p.mean
    as_images = {
        name: value.unflatten(-1, shape)
        for name, value in {
            "mean": p.mean, "sample": sample, "difference": difference,
            "variance": p.variance, "covariance": covariance,
        }.items()
    }  # fmt: skip
    reach = robust_limit(difference)
    top = robust_limit(as_images["variance"].mean(1))
    both = robust_limit(as_images["covariance"].mean(1))
    rows = [
        {"label": "mean μ", "images": as_images["mean"]},
        {"label": "sample y", "images": as_images["sample"]},
    ]
    if channels == 1:
        limits = {"map": "RdBu_r", "limits": (-reach, reach)}
        rows.append({"label": "y − μ", "images": as_images["difference"]} | limits)
    else:  # colours around middle gray; the bar holds for each channel
        shown = 0.5 + as_images["difference"] / (2 * reach)
        rows.append({"label": "y − μ", "images": shown, "bar": ("gray", (-reach, reach))})
    rows.append(
        {"label": "variance", "images": as_images["variance"], "map": "viridis", "limits": (0, top)}
    )
    for sign, label, colours in ((1, "covariance > 0", "Reds"), (-1, "covariance < 0", "Blues")):
        row = {"label": label, "images": (sign * as_images["covariance"]).clamp(min=0)}
        if both:
            row |= {"map": colours, "limits": (0, both)}
        else:
            row["note"] = "exactly zero: pixels are independent given z"
        rows.append(row)
    return rows


def robust_limit(values: Tensor) -> float:
    """The 99.5th percentile of |values|: a scale that single pixels do not set."""
    return float(np.quantile(values.detach().abs().cpu().numpy(), 0.995))


def grid(images: Tensor, columns: int, title: str | None = None) -> Figure:
    """Images as a contact sheet."""
    canvas = tile(images, columns)
    with styled():
        figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * canvas.shape[0] / canvas.shape[1]))
        axes.imshow(canvas)
        axes.axis("off")
        if title:
            axes.set_title(title)
    return figure


def traces(models: dict[str, Model]) -> Figure:
    """KL and rank entropy along training, their targets (dotted) and their multipliers."""
    panels = (
        ("kl_nats", "KL[q(z|x) ‖ p(z)]  (nats)"),
        ("rank_entropy_nats", "rank entropy  (nats)"),
        ("kl_multiplier", "multiplier β"),
        ("rank_entropy_multiplier", "multiplier λ_H"),
    )
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.8), sharex=True, layout="constrained")
        for (key, label), ax in zip(panels, axes.flat, strict=True):
            for name, model in models.items():
                targets = {
                    "kl": model.experiment.objective.kl_target,
                    "rank_entropy": model.meta["rank_entropy_target"],
                }
                target = targets[key.rsplit("_", 1)[0]]
                if target is None:
                    continue
                first = 0 if key.startswith("kl") else model.experiment.training.pretraining
                rows = [row for row in model.history if row["step"] > first]
                steps, values = zip(*((row["step"], row[key]) for row in rows), strict=True)
                kind = "SOS-VAE" if name.endswith("sos") else "β-VAE"
                line = "-" if name.startswith("faces") else "--"
                data = name.split("-")[0]
                ax.plot(steps, values, line, color=COLOURS[kind], lw=1, label=f"{data}, {kind}")
                if key.endswith("nats"):
                    ax.axhline(target, color="black", lw=0.7, ls=":")
            ax.set_ylabel(label)
        highest = max(model.experiment.objective.kl_target for model in models.values())
        axes[0, 0].set_ylim(0, 2.5 * highest)
        named = axes[0, 0].get_legend_handles_labels()
        figure.legend(*named, fontsize=8, ncols=len(models), loc="outside upper center")
        axes[1, 0].set_yscale("symlog", linthresh=10)
        axes[1, 0].set_ylim(bottom=0)
        for ax in axes[1]:
            ax.set_xlabel("training step")
    return figure


def coherence(curves: dict[str, dict[str, Tensor]], shares: dict[str, dict[str, float]]) -> Figure:
    """Left panels: correlation of y − μ by pixel distance. Right: where Var[y] sits.

    `curves[data set][model]` (distances,), `shares[data set][model]` share in observation space.
    """
    with styled():
        figure, axes = plt.subplots(
            1, len(curves) + 1, figsize=(WIDTH, 2.9), layout="constrained"
        )  # fmt: skip
        for ax, (data, lines) in zip(axes, curves.items(), strict=False):
            for name, curve in lines.items():
                ax.plot(curve, "o-", ms=2.5, lw=1, color=COLOURS[name], label=name)
            ax.axhline(0, color="black", lw=0.6)
            ax.set(title=data, xlabel="distance (pixels)", ylim=(-0.25, 1.05))
        axes[0].set_ylabel("correlation of y − μ")
        axes[0].legend(fontsize=8)
        labels = [f"{data}\n{name}" for data, models in shares.items() for name in models]
        values = np.array([v for models in shares.values() for v in models.values()])
        places = np.arange(len(values))[::-1]
        axes[-1].barh(places, values, color="#dd8452", label="observation space")
        axes[-1].barh(places, 1 - values, left=values, color="#bbbbbb", label="latent space")
        for place, value in zip(places, values, strict=True):
            axes[-1].text(0.02, place, f"{100 * value:.0f} %", va="center", fontsize=8)
        axes[-1].set_yticks(places, labels, fontsize=8)
        axes[-1].set(title="share of Var[y]", xlim=(0, 1))
        axes[-1].legend(loc="lower center", bbox_to_anchor=(0.5, -0.36), ncols=2, fontsize=8)
    return figure


def tour(structured: LowRankNormal, independent: LowRankNormal, count: int = 10) -> Figure:
    """Samples of two distributions over square gray images that differ in correlation alone."""
    side = round(structured.event_shape[0] ** 0.5)
    rows = []
    for label, p in (("P Pᵀ + εI", structured), ("independent,\nsame variances", independent)):
        samples = p.sample((count,), generator=torch.Generator().manual_seed(1))
        rows.append({"label": label, "images": samples.unflatten(-1, (1, side, side))})
    return picture_rows(rows)


def contact_sheet(images: np.ndarray, columns: int, rows: int) -> Figure:
    """The first images of a set, uint8 (N, C, H, W)."""
    chosen = torch.from_numpy(images[: columns * rows].copy()) / 255
    return grid(chosen, columns)


def figure_1(beta, sos) -> Figure:
    """Figure 1: samples of the β-VAE (top) and of the SOS-VAE (bottom)."""
    return picture_rows(
        [
            {"label": "β-VAE", "images": beta.images(beta.y)},
            {"label": "SOS-VAE", "images": sos.images(sos.y)},
        ]
    )


def figure_2(drawn) -> Figure:
    """One panel of Figure 2."""
    return picture_rows(observation_rows(drawn.p, drawn.y, drawn.shape))


# --------------------------------------------------------------------------- local and global


def figure_3(panels: dict[str, Tensor]) -> Figure:
    """Figure 3: a hundred samples of each model, {title: images (100, C, H, W)}."""
    return grids(panels, 10)


def side_by_side(drawn: dict, count: int = 10) -> Figure:
    """Means and samples of several models for the same codes, {label: `sos.evaluation.Draw`}."""
    rows = []
    for label, d in drawn.items():
        rows.append({"label": f"{label}\nmeans", "images": d.images(d.p.mean)[:count]})
        rows.append({"label": "samples", "images": d.images(d.y)[:count]})
    return picture_rows(rows)


def local_and_global(sampled: dict[str, Tensor], real: dict[str, Tensor], reach: int) -> Figure:
    """Correlation by distance and power by frequency of residuals (N, C, H, W) of each model.

    Lines: y - μ of its samples. Dots: x - μ of test images, what the samples should look like.
    """
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4), layout="constrained")
        for name in sampled:
            for residuals, line in ((sampled[name], "-"), (real[name], ":")):
                look = {"ls": line, "color": COLOURS[name], "lw": 1.4}
                look["label"] = name if line == "-" else None
                axes[0].plot(metrics.correlation_by_distance(residuals, reach), **look)
                frequency, power = metrics.radial_power_spectrum(residuals)
                axes[1].plot(frequency[1:], power[1:], **look)
        axes[0].axhline(0, color="black", lw=0.6)
        axes[0].set(xlabel="distance (pixels)", ylabel="correlation of residuals")
        axes[0].set(ylim=(-0.4, 1.03), xlim=(0, reach))
        axes[1].set(xscale="log", yscale="log", ylabel="power (variance of a pixel)")
        axes[1].set(xlabel="spatial frequency (cycles per pixel)")
        for line, label in (("-", "samples, y − μ"), (":", "test images, x − μ")):
            axes[0].plot([], [], ls=line, color="black", lw=1.4, label=label)
        ticks = (0.02, 0.05, 0.1, 0.2, 0.5)
        axes[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[1].xaxis.set_minor_locator(plt.NullLocator())
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(handles[1]), fontsize=8)
    return figure


def correlations(p: dict, places: Sequence[tuple[int, int]], shape: Shape) -> Figure:
    """Correlation of all pixels with a few, {model: distribution over gray images}, rows of Σ.

    The first column marks the places (row, column) on the means.
    """
    _, height, width = shape
    with styled():
        figure, axes = plt.subplots(
            len(p), 1 + len(places), layout="constrained",
            figsize=(WIDTH, 1.02 * WIDTH * len(p) / (1 + len(places)) * height / width),
        )  # fmt: skip
        for row, (name, one) in zip(axes, p.items(), strict=True):
            row[0].imshow(one.mean.detach().cpu().view(height, width), "gray", vmin=0, vmax=1)
            row[0].set_ylabel(name)
            deviation = one.variance.sqrt()
            for number, ((i, j), ax) in enumerate(zip(places, row[1:], strict=True), 1):
                k = i * width + j
                map_ = one.covariance_row(k) / (deviation * deviation[k])
                shown = ax.imshow(map_.cpu().view(height, width), "RdBu_r", vmin=-1, vmax=1)
                ax.plot(j, i, "k+", ms=6)
                digit = row[0].text(j, i, str(number), color="white", ha="center", va="center")
                digit.set_path_effects([withStroke(linewidth=2, foreground="black")])
            for ax in row:
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
        for number, ax in enumerate(axes[0]):
            ax.set_title(number or "means")
        bar = figure.colorbar(shown, ax=axes, shrink=0.6, label="correlation given z")
        bar.ax.tick_params(labelsize=7)
    return figure


# ------------------------------------------------------------ the observation space, hands on


def grids(panels: dict[str, Tensor], columns: int, frame: Sequence[int] = ()) -> Figure:
    """Contact sheets side by side, {title: images (N, C, H, W)}; images of `frame` are framed."""
    with styled():
        sheets = {title: tile(images, columns) for title, images in panels.items()}
        tall, wide = next(iter(sheets.values())).shape[:2]
        figure, axes = plt.subplots(
            1, len(sheets), layout="constrained", squeeze=False,
            figsize=(WIDTH, WIDTH / len(sheets) * tall / wide + 0.25),
        )  # fmt: skip
        for ax, (title, sheet) in zip(axes[0], sheets.items(), strict=True):
            height, width = panels[title].shape[2:]
            ax.imshow(sheet)
            ax.set(title=title, xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            for number in frame:
                row, column = divmod(number, columns)
                corner = column * (width + GAP) - 1, row * (height + GAP) - 1
                ax.add_patch(
                    plt.Rectangle(corner, width + 1, height + 1, fill=False, ec="#dd8452", lw=1.5)
                )
    return figure


def figure_4(squares: Sequence[Square], shape: tuple[int, int, int], steps: int) -> Figure:
    """Figure 4: all that lies between four samples, for a latent code each."""
    panels = {
        f"latent code {letter}": one.images(steps).unflatten(-1, shape)
        for letter, one in zip("AB", squares, strict=True)
    }
    return grids(panels, steps, frame=corners_of(steps))


def two_ways(compared: Comparison, steps: int) -> Figure:
    """One square in the observation space, and by way of latent codes of the same corners."""
    panels = {
        "between noises ω_p: one decoder pass": compared.observation,
        f"between codes z of the corners: {steps**2} passes": compared.latent,
    }
    return grids(panels, steps, frame=corners_of(steps))


def sweeps(tiles: Tensor, values: Tensor, title: str | None = None) -> Figure:
    """Figures 5, 9 and 10: a row for each component, a column for each scale.

    tiles (components, scales, C, H, W); values (scales,). The column of scale 1 is the sample.
    """
    rows, columns, _, height, width = tiles.shape
    canvas = tile(tiles.flatten(0, 1), columns)
    with styled():
        tall = WIDTH * canvas.shape[0] / canvas.shape[1]
        figure, ax = plt.subplots(figsize=(WIDTH, tall + 0.4), layout="constrained")
        ax.imshow(canvas)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelsize=7)
        across = (np.arange(columns) + 0.5) * (width + GAP)
        ax.set_xticks(across, [f"{v:g}".replace("-", "−") for v in values.tolist()])
        down = (np.arange(rows) + 0.5) * (height + GAP)
        ax.set_yticks(down, [str(number + 1) for number in range(rows)])
        ax.xaxis.tick_top()
        ax.set(xlabel="scale of the component", ylabel="component")
        ax.xaxis.set_label_position("top")
        if title:
            ax.set_title(title)
    return figure


def shares_by_region(panels: dict[str, tuple[Tensor, Tensor, Sequence[str]]]) -> Figure:
    """Heat maps of {title: (shares (regions, columns), areas (regions,), names)} in percent.

    The first column, set apart, is the share of the picture's area.
    """
    with styled():
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(WIDTH, 2.1 * len(panels)), layout="constrained", squeeze=False
        )
        for ax, (title, (shares, areas, names)) in zip(axes[:, 0], panels.items(), strict=True):
            gap = torch.full((len(names), 1), torch.nan)
            table = 100 * torch.cat([areas[:, None], gap, shares], 1).numpy()
            ax.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
            for (row, column), value in np.ndenumerate(table):
                if np.isfinite(value):
                    colour = "white" if value < 60 else "black"
                    text = f"{value:.0f}"
                    ax.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
            labels = ["area", "", *(str(k + 1) for k in range(shares.shape[1]))]
            ax.set_xticks(range(table.shape[1]), labels, fontsize=8)
            ax.set_yticks(range(len(names)), names, fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            ax.set_title(f"{title}: share of a component's energy (%)")
        axes[-1, 0].set_xlabel("principal component")
    return figure


def figure_6(p: LowRankNormal, strokes: Sequence[Stroke], shape: Shape, std: float) -> Figure:
    """Figures 6 and 11: edits in sequence, with the paper's exact edits and with soft ones."""
    rows = {
        "exact": editing.story(p, strokes, shape),
        f"soft, σ = {std:.2f}": editing.story(p, editing.soft(strokes, std), shape),
    }
    titles = [title for _ in strokes for title in ("an edit", "what follows from it")]
    circles = [pixels for one in strokes for pixels in (one.pixels, ())]
    notes = {label: [] for label in rows}
    for label, given in zip(rows, (strokes, editing.soft(strokes, std)), strict=True):
        for number, one in enumerate(given, 1):
            noise = editing.noise_length(p, given[:number], shape)
            notes[label] += [f"{len(one.pixels)} pixels", f"‖ω‖ = {noise:.1f}"]
    return edited(rows, titles, circles, notes)


def figure_12(p: LowRankNormal, stroke: Stroke, shape: Shape, std: float) -> Figure:
    """Figures 12, 13 and 14: one edit, and what follows from it when it is exact or soft."""
    exact, soft = (editing.story(p, [one], shape) for one in (stroke, *editing.soft([stroke], std)))
    titles = ("the edit", "exact", f"soft, σ = {std:.2f}")
    noises = [
        editing.noise_length(p, one, shape) for one in ([stroke], editing.soft([stroke], std))
    ]
    count = len(stroke.pixels)
    notes = [f"{count} pixel{'s' * (count > 1)}", *(f"‖ω‖ = {noise:.1f}" for noise in noises)]
    return edited({"": torch.cat([exact, soft[1:]])}, titles, [stroke.pixels], {"": notes})


def softness(p: Sequence[LowRankNormal], stroke: Stroke, shape: Shape, stds: Sequence[float]):
    """One stroke from exact to soft on several distributions, and the noise that it asks for."""
    rows, notes = {}, {}
    for number, one in enumerate(p):
        label = f"face {number + 1}"
        variants = [editing.soft([stroke], std) for std in stds]
        images = [editing.condition(one, edits, shape).mean for edits in variants]
        lengths = [editing.noise_length(one, edits, shape) for edits in variants]
        first = editing.story(one, [stroke], shape)[0]
        rows[label] = torch.cat([first[None], torch.stack(images).unflatten(-1, shape)])
        notes[label] = ["", *(f"‖ω‖ = {length:.1f}" for length in lengths)]
    titles = ["the edit", *("exact" if std == 0 else f"σ = {std:g}" for std in stds)]
    return edited(rows, titles, [stroke.pixels], notes)


def given_edits(p: LowRankNormal, strokes: Sequence[Stroke], shape: Shape, count: int) -> Figure:
    """The same noises before an edit and after each: samples that respect the edits."""
    stream = torch.Generator().manual_seed(0)
    noises = [torch.randn(count, n, generator=stream).to(p.loc) for n in (p.rank, *p.loc.shape * 2)]
    drawn = p.rsample_from(noises[0], noises[1])
    rows = {}
    for number in range(len(strokes) + 1):
        pairs = zip(drawn, noises[2], strict=True)
        moved = [editing.condition_sample(p, y, strokes[:number], shape, eta) for y, eta in pairs]
        label = "samples" if number == 0 else f"given {number} edit{'s' * (number > 1)}"
        rows[label] = torch.stack(moved).unflatten(-1, shape)
    painted = [pixel for one in strokes for pixel in one.pixels]
    circles = [painted] if len(strokes) == 1 else []
    return edited(rows, [""] * count, circles)


def uncertainty(p: LowRankNormal, strokes: Sequence[Stroke], shape: Shape, std: float) -> Figure:
    """Standard deviations, over channels, before and after edits, exact and soft."""

    def maps(edits):
        steps = [editing.condition(p, edits[:n], shape) for n in range(len(edits) + 1)]
        return torch.stack([q.variance.unflatten(-1, shape).mean(0).sqrt() for q in steps])

    rows = {"exact": maps(list(strokes)), f"soft, σ = {std:.2f}": maps(editing.soft(strokes, std))}
    titles = ["before", *(f"after edit {number + 1}" for number in range(len(strokes)))]
    return spreads(rows, titles, robust_limit(rows["exact"][0]))


def edited(
    rows: dict[str, Tensor],
    titles: Sequence[str],
    strokes: Sequence[Sequence[int]] = (),
    notes: dict[str, Sequence[str]] | None = None,
) -> Figure:
    """Rows of pictures, {label: images (N, C, H, W)}, under column titles.

    `strokes` are the painted pixels of column 0, 1, ...: a circle around them, as in the paper, is
    for illustration only. `notes` are written under the pictures of a row.
    """
    count, _, height, width = next(iter(rows.values())).shape
    side = min(2.4, WIDTH / count)
    with styled():
        figure, axes = plt.subplots(
            len(rows), count, layout="constrained", squeeze=False,
            figsize=(side * count + 0.8, (side * height / width + 0.2) * len(rows) + 0.25),
        )  # fmt: skip
        for line, (label, images) in zip(axes, rows.items(), strict=True):
            for column, (ax, image) in enumerate(zip(line, images, strict=True)):
                ax.imshow(tile(image[None], 1))
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                if notes:
                    ax.set_xlabel(notes[label][column], fontsize=8)
                if column < len(strokes) and len(strokes[column]):
                    y, x = np.divmod(np.asarray(strokes[column]), width)
                    radius = np.hypot(np.ptp(x) + 1, np.ptp(y) + 1) / 2 + 0.04 * height
                    centre = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
                    ax.add_patch(plt.Circle(centre, radius, fill=False, ec="red", lw=1.5))
            line[0].set_ylabel(label, fontsize=9)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=9)
    return figure


def spreads(rows: dict[str, Tensor], titles: Sequence[str], limit: float) -> Figure:
    """Maps (N, H, W) of standard deviations on one scale from 0 to `limit`."""
    count, height, width = next(iter(rows.values())).shape
    side = min(2.2, WIDTH / count)
    with styled():
        figure, axes = plt.subplots(
            len(rows), count, layout="constrained", squeeze=False,
            figsize=(side * count + 1.4, (side * height / width + 0.1) * len(rows) + 0.3),
        )  # fmt: skip
        for line, (label, maps) in zip(axes, rows.items(), strict=True):
            for ax, values in zip(line, maps, strict=True):
                shown = ax.imshow(values.cpu(), cmap="viridis", vmin=0, vmax=limit)
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            line[0].set_ylabel(label, fontsize=9)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title, fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="standard deviation")
    return figure


def greedy(
    picture: Tensor, removed: Tensor, chosen: Sequence[int], curves: dict, errors: dict
) -> Figure:
    """Which pixels tell most: the first map with the chosen ones, what is left, and the error.

    picture (C, H, W), removed (H, W); curves and errors {label: values after 0, 1, 2 ... pixels}.
    """
    width = picture.shape[-1]
    with styled():
        figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.9), layout="constrained")
        axes[0].imshow(tile(picture[None], 1))
        axes[0].set_title("mean, and the first ten")
        shown = axes[1].imshow(removed.cpu(), cmap="viridis", vmin=0)
        axes[1].set_title("variance that one pixel removes")
        figure.colorbar(shown, ax=axes[1], shrink=0.6)
        for ax in axes[:2]:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for number, pixel in enumerate(chosen[:10]):
            row, column = divmod(pixel, width)
            axes[0].text(
                column, row, str(number + 1), ha="center", va="center", fontsize=8, color="white",
                bbox={"boxstyle": "circle,pad=0.15", "fc": "#c44e52", "ec": "none"},
            )  # fmt: skip
        for ax, lines in ((axes[2], curves), (axes[3], errors)):
            for label, values in lines.items():
                style = "--" if "random" in label else "-"
                ax.plot(values, style, lw=1.2, label=label)
            ax.set(xlabel="pixels known", ylim=(0, None))
            ax.legend(fontsize=7)
        axes[2].set_title("variance left (share)")
        axes[3].set_title("error of the mean (RMSE)")
    return figure


def convergence(gaps: dict, spectra: dict, angles: dict, exact: Tensor) -> Figure:
    """How far trainings of one distribution are from the exact optimum; {training: ...} each.

    `gaps` (steps, nats per dimension), `spectra` and `exact` eigenvalues (R,) of PPᵀ, `angles`
    (R,) in degrees between the span of P and the exact one.
    """
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.2), layout="constrained")
        number = np.arange(1, len(exact) + 1)
        axes[1].plot(number, exact, color=BARE["exact"], lw=3, alpha=0.35, label="exact")
        for name, (steps, gap) in gaps.items():
            look = {"color": BARE[name], "lw": 1.4, "label": name}
            axes[0].plot(steps, gap, **look)
            axes[1].plot(number, spectra[name], **look)
            axes[2].plot(number, angles[name], **look)
        axes[0].set(xlabel="training step", ylabel="nats per dimension below the exact one")
        axes[0].set(title="log-density of validation images", yscale="log")
        axes[1].set(title="eigenvalues of PPᵀ", xlabel="component", yscale="log")
        axes[2].set(title="principal angles to the exact span", xlabel="component")
        axes[2].set(ylabel="degrees", ylim=(0, 92), yticks=(0, 15, 30, 45, 60, 75, 90))
        handles = axes[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(handles[1]), fontsize=8)
    return figure


def entropy_and_epsilon(
    target: dict, trained: dict, data_variance: float, epsilon: tuple, marks: dict
) -> Figure:
    """What the entropy constraint's target and what ε do to the exact solution.

    `target` as `sos.bare.Spectrum.by_multiplier` has it, `trained` points (rank entropy, variance),
    `epsilon` (ε, log-density) along a curve and at `marks`.
    """
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.1), layout="constrained")
        for ax, key in zip(axes, ("variance", "lost"), strict=False):
            ax.plot(target["rank_entropy"], target[key], color=BARE["exact"], lw=1.2, label="exact")
            ax.set_xlabel("rank entropy (nats)")
        for name, point in trained.items():
            axes[0].plot(*point, "o", color=BARE[name], label=name)
        axes[0].axhline(data_variance, color="black", lw=0.7, ls=":")
        axes[0].text(target["rank_entropy"][-1], data_variance, "data", va="bottom", fontsize=8)
        axes[0].set(ylabel="mean variance of a value", yscale="log")
        axes[1].set(ylabel="log-density lost (nats)", yscale="asinh", ylim=(0, None))
        axes[2].plot(*epsilon, color=BARE["exact"], lw=1.2)
        for label, (x, y) in marks.items():
            axes[2].plot(x, y, "o", color="#dd8452")
            offset = (6, 4) if y > 0 else (6, -12)
            axes[2].annotate(label, (x, y), textcoords="offset points", xytext=offset, fontsize=8)
        axes[2].set(xscale="log", xlabel="ε", ylabel="log-density (nats per dimension)")
        axes[2].set_yscale("asinh")
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(handles[1]), fontsize=8)
    return figure


def diagonals(panels: dict[str, Tensor]) -> Figure:
    """Standard deviations of each value's own noise, {title: variances (C, H, W)}, one scale."""
    with styled():
        figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.2), layout="constrained")
        maps = {title: variance.mean(0).sqrt().cpu() for title, variance in panels.items()}
        top = max(robust_limit(image) for image in maps.values())
        for ax, (title, image) in zip(axes, maps.items(), strict=True):
            shown = ax.imshow(image, cmap="magma", vmin=0, vmax=top)
            ax.set(title=title, xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="standard deviation")
    return figure


def figure_8(drawn: dict[str, tuple[LowRankNormal, Tensor]], shape: Shape) -> Figure:
    """{title: (p, samples (rows, columns, S))}: under each title means, then samples."""
    rows = []
    for title, (p, sampled) in drawn.items():
        means = p.mean.unflatten(-1, shape)
        rows += [
            {"label": "", "images": means, "note": title},
            {"label": "mean", "images": means},
        ]
        rows += [{"label": "samples" if k == 0 else "", "images": y.unflatten(-1, shape)}
                 for k, y in enumerate(sampled)]  # fmt: skip
    return picture_rows(rows)


def ablation_samples(rows: dict[str, tuple[Tensor, float]], shape: Shape) -> Figure:
    """One row of samples (N, S) for each training, {label: (samples, mean variance)}."""
    return picture_rows(
        [
            {"label": f"{label}\nvariance {variance:.2g}", "images": y.unflatten(-1, shape)}
            for label, (y, variance) in rows.items()
        ]
    )


def stability(groups: dict[str, dict[str, list[dict]]], data_variance: float) -> Figure:
    """Mean predicted variance, and the multiplier of the entropy, along training.

    {title of a column: {training: history}}. Dotted: the data's variance; dashed: the largest
    that values between 0 and 1 can have.
    """
    with styled():
        figure, axes = plt.subplots(
            2, len(groups), figsize=(WIDTH, 5.2), sharex="col", sharey="row", layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for column, (title, histories) in zip(axes.T, groups.items(), strict=True):
            for k, (name, history) in enumerate(histories.items()):
                rows = report.after_release(history)
                steps = [row["step"] for row in rows]
                look = {"label": name, "lw": 1.3, "color": f"C{k}"}
                column[0].plot(steps, [row["variance"] for row in rows], **look)
                multipliers = [row["rank_entropy_multiplier"] for row in rows]
                if any(multipliers):
                    column[1].plot(steps, multipliers, **look)
            column[0].axhline(data_variance, color="black", lw=0.8, ls=":")
            column[0].axhline(report.LARGEST_VARIANCE, color="black", lw=0.8, ls="--")
            column[0].set(title=title, yscale="log")
            column[1].set_yscale("symlog", linthresh=10)
            column[1].set(xlabel="training step")
            column[0].legend(fontsize=7, ncols=2)
        axes[0, 0].set_ylabel("mean variance of a value")
        axes[1, 0].set_ylabel("multiplier λ_H")
        axes[1, 0].set_ylim(bottom=0)  # after all lines: it ends the scaling
    return figure


def phase_portrait(runs: dict[str, tuple[list[dict], float]]) -> Figure:
    """Rank entropy less its target against the multiplier λ_H, {training: (history, target)}."""
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4), layout="constrained")
        for k, (name, (history, target)) in enumerate(runs.items()):
            rows = report.after_release(history)
            slack = np.array([row["rank_entropy_nats"] - target for row in rows])
            multiplier = np.array([row["rank_entropy_multiplier"] for row in rows])
            steps = [row["step"] for row in rows]
            axes[0].plot(steps, slack, color=f"C{k}", lw=1.3, label=name)
            axes[1].plot(slack, multiplier, ".-", color=f"C{k}", lw=1, ms=4, label=name)
            axes[1].plot(slack[-1], multiplier[-1], "o", color=f"C{k}", ms=7)
        axes[0].axhline(0, color="black", lw=0.7, ls=":")
        axes[1].axvline(0, color="black", lw=0.7, ls=":")
        axes[0].set(xlabel="training step", ylabel="rank entropy − ξ_H (nats)")
        axes[1].set(xlabel="rank entropy − ξ_H (nats)", ylabel="multiplier λ_H")
        axes[1].set_title("large dot: the end")
        axes[0].legend(fontsize=8)
    return figure
