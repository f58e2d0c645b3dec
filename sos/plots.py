"""Every figure of the collection; one owner of style, colour scales and file names."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from sos import paths
from sos.low_rank_normal import LowRankNormal
from sos.models import Model

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # editable text
    "image.interpolation": "nearest",
}
COLOURS = {"β-VAE": "#c44e52", "SOS-VAE": "#4c72b0", "data": "#555555"}
WIDTH = 10.0  # inches
SHOWN_DPI = 75  # in notebooks, whose size counts; the files have more
GAP = 2  # white pixels between tiled images


def save(figure: Figure, name: str, profile: str) -> Figure:
    """Writes figures/<profile>/<name>.png and .pdf, each whole or not at all, without dates."""
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        with paths.replacing(paths.FIGURES / profile / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata, bbox_inches="tight")
    plt.close(figure)  # the notebook shows the returned figure, once
    figure.set_dpi(SHOWN_DPI)
    return figure


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


def picture_rows(rows: Sequence[dict], title: str | None = None) -> Figure:
    """Rows of equally many images, each a dict: label, images, and for a scale map and limits.

    `images` (N, C, H, W). A row without `map` shows colours as they are; with one it shows the
    channel average through that colour map between `limits`, with a colour bar. `bar` (map,
    limits) draws a colour bar beside a row of colours. `note` is written across the row.
    """
    count, _, height, width = rows[0]["images"].shape
    tall = WIDTH * 0.86 / count * height / width
    heights = [0.35 * tall if "note" in row else tall for row in rows]
    with plt.style.context(STYLE):
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
        if title:
            grid[0, 0].set_title(title)
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
    with plt.style.context(STYLE):
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
    with plt.style.context(STYLE):
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
        axes[0, 0].legend(fontsize=8, ncols=2)
        axes[1, 0].set_yscale("symlog", linthresh=10)
        axes[1, 0].set_ylim(bottom=0)
        for ax in axes[1]:
            ax.set_xlabel("training step")
    return figure


def coherence(curves: dict[str, dict[str, Tensor]], shares: dict[str, dict[str, float]]) -> Figure:
    """Left panels: correlation of y − μ by pixel distance. Right: where Var[y] sits.

    `curves[data set][model]` (distances,), `shares[data set][model]` share in observation space.
    """
    with plt.style.context(STYLE):
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
