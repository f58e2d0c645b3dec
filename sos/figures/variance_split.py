"""Figures of notebook 10: what the rank buys and costs, and where the variance lives."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sos.analysis import verdicts
from sos.figures.panels import heat_map, letter, note
from sos.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, WIDTH, styled
from sos.figures.table_1 import spread
from sos.figures.tables import number

Ranks = dict[int, Sequence[dict]]  # {R: a dictionary of numbers for each seed}
OURS, PPCA = "SOS-VAE, learnt ε", "PPCA, no network"
PANELS = {  # {measurement: label of its axis}
    "elbo": "ELBO or log-density (nats)",
    "distance_samples": "FD of samples",
    "coverage_90": "share inside 90 % intervals",
}


def ranks(models: Ranks, controls: dict[int, dict[str, float]]) -> Figure:
    """Draw what each rank reaches: means over seeds, each seed, and PPCA."""
    with styled():
        figure, axes = plt.subplots(1, len(PANELS), figsize=(WIDTH, 2.3), layout="constrained")
        for ax, (name, label) in zip(axes, PANELS.items(), strict=True):
            _rank_curve(ax, models, name)
            known = {"elbo": "density"}.get(name, name)
            points = {rank: found[known] for rank, found in controls.items() if known in found}
            if points:
                ax.plot(*zip(*points.items(), strict=True), "s--", color=ORANGE, ms=3.5, label=PPCA)
            ax.set_xscale("symlog", linthresh=3, linscale=0.5)
            ax.set_xticks([0, 3, 12, 25, 100], ["0", "3", "12", "25", "100"])
            ax.minorticks_off()
            ax.set(xlabel="rank R", title=" ")
            ax.set_ylabel(label)
        axes[2].axhline(0.9, color="0.5", lw=0.8, ls=":")
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


# Trainings that differ in (R, ξ_KL, latent dimensions): a dictionary of numbers for each seed. A
# target of None is the plain ELBO.
Cells = dict[tuple[int, float | None, int], Sequence[dict]]
PARTS = {  # {part of an image: its words}
    "latent": "μ(z)",
    "factor": "Pω",
    "both": "both",
    "images": "images",
}


SHARES = {  # {measurement: what it is}
    "r2_latent_mean": "R² in μ(z)",
    "r2_factor_mean": "R² in Pω",
    "r2_both_mean": "R² in both",
    "variance_latent": "variance of μ(z)",
    "variance_factor": "variance of Pω",
}
LARGEST = 60.0  # variance, of the images', that is drawn; above it trainings have diverged
TARGET_COLOURS = {2.0: SKY, 8.0: GREEN, 32.0: ORANGE, None: BLACK}
TOLD = 0.2  # R² of a factor in the images, below which no part of them can tell it


def mean_of(records: Sequence[dict], name: str) -> float:
    """Return the mean of a measurement over seeds, or NaN where there is none."""
    values = list(verdicts.values_of(records, name).values())
    return float(np.mean(values)) if values else np.nan


def target_words(target: float | None) -> str:
    """Write a target of the KL divergence."""
    return "plain" if target is None else f"{target:g}"


def ranks_of(cells: Cells) -> list[int]:
    """Return the ranks of cells that were measured, in order."""
    return sorted({rank for (rank, *_), records in cells.items() if records})


def targets_of(cells: Cells) -> list[float | None]:
    """Return the targets of cells that were measured, in order, the plain ELBO at the end."""
    found = {target for (_, target, _), records in cells.items() if records}
    return sorted(found, key=lambda target: (target is None, target))


def latents_of(cells: Cells) -> list[int]:
    """Return the latent dimensions of cells that were measured, in order."""
    return sorted({latent for (*_, latent), records in cells.items() if records})


def phases(cells: Cells) -> Figure:
    """Draw each training by its nats of z and of ω, with lines of equal ELBO.

    There is a panel for each number of latent dimensions. Lines are straight between the means
    over seeds, where all cells are measured.
    """
    every, shown = latents_of(cells), None
    with styled():
        figure, axes = plt.subplots(
            1, max(1, len(every)), figsize=(WIDTH, 2.8), layout="constrained", squeeze=False
        )
        for ax, latent in zip(axes.flat, every, strict=False):
            shown = _phase(ax, cells, latent) or shown
            ax.set(xlabel="nats of z, KL[q‖p]", ylabel="nats of ω, ½ log|I + PᵀP/ε|")
            ax.set_title(f"{latent} latents")
        if shown is not None:
            figure.colorbar(shown, ax=axes, label="ELBO (nats)").outline.set_visible(False)
        letter(axes.flat)
    return figure


def _phase(ax: Axes, cells: Cells, latent: int) -> QuadContourSet | None:
    """Draw the cells with one number of latent dimensions, a line for each rank."""
    ranks, targets = ranks_of(cells), targets_of(cells)
    grid = np.array([
        sorted(
            [mean_of(cells.get((rank, target, latent), ()), name)
             for name in ("kl_nats", "rank_nats", "elbo")]
            for target in targets
        )
        for rank in ranks
    ])  # (ranks, targets, 3)  # fmt: skip
    shown = None
    if min(grid.shape[:2]) > 1 and np.isfinite(grid).all():
        nats, width, elbo = grid.transpose(2, 0, 1)
        limits = [mean_of(records, "elbo") for records in cells.values() if records]
        levels = MaxNLocator(14).tick_values(min(limits), max(limits))
        shown = ax.contour(nats, width, elbo, levels, cmap="viridis", linewidths=1)
    for rank, line in zip(ranks, grid, strict=True):
        ax.plot(line[:, 0], line[:, 1], ":", color="0.6", lw=0.8)
        ax.annotate(f"R = {rank}", line[-1, :2], (6, 0), textcoords="offset points", va="center")
        for target in targets:
            for one in cells.get((rank, target, latent), ()):
                mark = "*" if target is None else "o"
                size = 6 if mark == "*" else 4
                ax.plot(one["kl_nats"], one["rank_nats"], mark, color="black", ms=size, mew=0)
    ax.set_xscale("log")
    ax.set_xlim(1.5, 130)
    ax.set_xticks([2, 8, 32], ["2", "8", "32"])
    top = np.nanmax(grid[..., 1], initial=1.0)
    ax.set_ylim(-0.04 * top, 1.06 * top)
    ax.minorticks_off()
    return shown


def shares(settings: dict[str, Cells]) -> Figure:
    """Draw how much of the factors each part of an image tells, against the rank.

    A row of panels for each of `settings`, {words: cells}, a colour for each target, and broken
    lines for more latent dimensions. Numbers are means over factors; lines join means over seeds,
    and small ticks are the seeds. What is above the last panel's scale has exploded.
    """
    size = WIDTH, 0.3 + 1.9 * len(settings)
    with styled():
        figure, axes = plt.subplots(
            len(settings), len(SHARES), figsize=size, layout="constrained", squeeze=False
        )
        for row, (words, cells) in zip(axes, settings.items(), strict=True):
            for ax, (name, label) in zip(row, SHARES.items(), strict=True):
                _share_curves(ax, cells, name)
                ax.set_title(label)
                ax.set_xlabel("rank R")
            row[0].set_ylabel(words)
            images = [mean_of(records, "r2_images_mean") for records in cells.values() if records]
            for ax in row[:3] if images else ():
                ax.axhline(np.mean(images), color="0.5", lw=0.8, ls=":")
                ax.set_ylim(0, 1.08 * np.mean(images))
            row[3].set_ylim(0, 0.65)
            row[4].set_yscale("log", nonpositive="mask")
            row[4].set_ylim(2e-3, LARGEST)
        lines = {line.get_label(): line for ax in axes[:, 0] for line in ax.get_lines()}
        shown = [line for label, line in lines.items() if not label.startswith("_")]
        every = sorted({latent for cells in settings.values() for latent in latents_of(cells)})
        for latent, style in zip(every, ("-", "--"), strict=False):
            shown.append(Line2D([], [], color="0.5", ls=style, lw=1, label=f"{latent} latents"))
        if shown:
            figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))
    return figure


def _share_curves(ax: Axes, cells: Cells, name: str) -> None:
    """Draw a line over ranks for each target and number of latent dimensions."""
    ranks, every = ranks_of(cells), latents_of(cells)
    for target in targets_of(cells):
        for latent in every:
            found = [mean_of(cells.get((rank, target, latent), ()), name) for rank in ranks]
            words = "plain ELBO" if target is None else f"ξ = {target:g} nats"
            label = words if latent == every[0] else "_"
            style = "o-" if latent == every[0] else "s--"
            colour = TARGET_COLOURS.get(target, BLACK)
            ax.plot(range(len(ranks)), found, style, color=colour, ms=3, lw=1, label=label)
            for x, rank in enumerate(ranks):
                values = verdicts.values_of(cells.get((rank, target, latent), ()), name).values()
                ax.plot([x] * len(values), list(values), "_", color=colour, ms=5, mew=0.8)
    ax.set_xticks(range(len(ranks)), map(str, ranks))
    ax.set_ylim(0, None)


def factors(columns: dict[str, Sequence[dict]], names: Sequence[str], axis: str) -> Figure:
    """Draw heat maps of how much of each factor a part of an image tells, R² in percent.

    A panel for each part, in which each of `columns`, {words: records}, has a column. Factors of
    which the images themselves tell less than `TOLD` are left out. Numbers are means over seeds.
    """
    columns = {words: records for words, records in columns.items() if records}
    if not columns:
        return note("Nothing is recorded of this profile.")
    with styled():
        found = {part: 100 * _factor_table(columns, part) for part in PARTS}
        images = found["images"].mean(1)  # the same in all columns
        told = images >= 100 * TOLD
        rows = [name.replace("_", " ") for name, keep in zip(names, told, strict=True) if keep]
        shown = found | {"images": images[:, None]}
        figure, axes = plt.subplots(
            1, len(PARTS), figsize=(WIDTH, 0.55 + 0.19 * len(rows)), layout="constrained",
            sharey=True, width_ratios=[table.shape[1] for table in shown.values()],
        )  # fmt: skip
        for ax, (part, words) in zip(axes, PARTS.items(), strict=True):
            labels = [""] if part == "images" else list(columns)
            heat_map(ax, shown[part][told], rows, labels, cmap="Blues", vmin=0, vmax=100)
            ax.set_xlabel("" if part == "images" else axis)
            ax.set_title(words)
    return figure


def _factor_table(columns: dict[str, Sequence[dict]], part: str) -> np.ndarray:
    """Return R² (factors, columns) in a part of images, means over seeds."""
    found = [np.mean([r[f"r2_{part}"] for r in records], 0) for records in columns.values()]
    return np.stack(found, 1)


def cell_rows(cells: Cells) -> list[dict]:
    """Make a row for each cell: what z and ω carry, the ELBO, and what they tell."""
    rows = []
    for (rank, target, latent), found in sorted(cells.items(), key=_order):
        rows.append(
            {
                "R": str(rank),
                "ξ_KL (nats)": target_words(target),
                "latents": str(latent),
                "seeds": str(len(found)),
                "ELBO (nats)": spread(found, "elbo"),
                "nats of z": spread(found, "kl_nats", 1),
                "nats of ω": spread(found, "rank_nats", 1),
                "variance of μ(z)": spread(found, "variance_latent", 2),
                "of Pω": spread(found, "variance_factor", 2),
                "R² in μ(z)": spread(found, "r2_latent_mean", 2),
                "in Pω": spread(found, "r2_factor_mean", 2),
                "in both": spread(found, "r2_both_mean", 2),
            }
        )
    return rows


def comparison_rows(compared: dict[str, verdicts.Comparison]) -> list[dict]:
    """Make a row for each comparison of models over seeds, {words: comparison}."""
    return [
        {
            "comparison": words,
            "mean difference": number(found.mean, 3) if found.seeds else None,
            "95 % interval": _interval(found),
            "seeds that agree": found.count if found.seeds else None,
            "verdict": found.verdict,
        }
        for words, found in compared.items()
    ]


def _interval(found: verdicts.Comparison) -> str | None:
    """Write an interval, which one seed does not have."""
    if found.seeds < 2:
        return None
    return f"{number(found.low, 3)} to {number(found.high, 3)}"


def _order(item: tuple) -> tuple:
    """Sort cells by latent dimensions, rank and target, the plain ELBO at the end."""
    (rank, target, latent), _ = item
    return latent, rank, target is None, target or 0.0
