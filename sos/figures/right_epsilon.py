"""Figures of notebook 08: what is measured of models, from several seeds, against ε and by kind."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sos.figures.labels import EPSILON, LABELS, TITLES
from sos.figures.panels import letter
from sos.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WIDTH, styled

Records = Sequence[dict]  # what was measured of one model, a dictionary for each seed
COLOURS = {
    "paper": VERMILLION,
    "learnt": BLUE,
    "sigma": BLACK,
    "sparse": GREEN,
    "hybrid": PURPLE,
}
MARKS = {"means": "s", "coherent": "o", "samples": "^"}
WORDS = {"means": "means μ", "coherent": "μ + Pω", "samples": "full samples y"}
SHADES = {"means": ORANGE, "coherent": BLUE, "samples": GREEN}
PARTS = {"latent": ORANGE, "factor": BLUE, "noise": SKY}
CALIBRATED = 0.7, 1.4  # where the mean square of a component counts as calibrated


# Columns that exact densities leave empty
EXACT = "bound of 64 codes gains", "bits per dimension", "nats of z", "nats of ω"


def values(records: Records, name: str) -> np.ndarray:
    """Return a measurement of all seeds that have it."""
    return np.array([record[name] for record in records if name in record])


def spread(records: Records, name: str, digits: int = 0) -> str | None:
    """Write the mean and the range over seeds, or None where nothing was measured."""
    found = values(records, name)
    if not len(found):
        return None
    numbers = found.mean(), found.min(), found.max()
    mean, low, high = (f"{x:,.{digits}f}".replace("-", "−") for x in numbers)
    return mean if len(found) == 1 else f"{mean} ({low} to {high})"


def ratio(records: Records, above: str, below: str) -> str | None:
    """Write the quotient of two measurements, as `spread` does."""
    return spread([{"ratio": r[above] / r[below]} for r in records], "ratio", 2)


def means(records: Records) -> dict[str, float]:
    """Return the mean over seeds of each number, and its least and largest value."""
    result = {"seeds": len(records)} if records else {}
    first = records[0] if records else {}
    for name in (
        n
        for n, value in first.items()
        if np.isscalar(value) and n not in ("seed", "training_seconds")
    ):
        found = values(records, name)
        result |= {name: found.mean(), f"{name}_least": found.min(), f"{name}_most": found.max()}
    return result


def density_rows(
    records: dict[str, dict[str, Records]], controls: dict[str, dict[str, dict]]
) -> list[dict]:
    """Make rows of log-densities: ELBO, what its bound gains, bits, and nats of z and of ω."""
    rows = []
    for data, kinds in records.items():
        for kind, found in ((kind, found) for kind, found in kinds.items() if found):
            rows.append({
                "images": TITLES[data],
                "model": EPSILON[kind],
                "ELBO or log-density (nats)": spread(found, "elbo"),
                "bound of 64 codes gains": f"{_gain(found):.0f}" if _gain(found) else None,
                "bits per dimension": spread(found, "bits", 2),
                "nats of z": spread(found, "kl_nats"),
                "nats of ω": spread(found, "rank_nats") or "–",
            })  # fmt: skip
        for words, numbers in controls[data].items():
            exact = f"{numbers['density']:,.0f} ± {numbers['density_error']:.0f}"
            row = {"images": TITLES[data], "model": words, "ELBO or log-density (nats)": exact}
            rows.append(row | dict.fromkeys(EXACT, "–"))
    return rows


def criteria(
    kinds: dict[str, Records], controls: dict[str, dict], rank: int, wanted: int = 5
) -> dict[str, str]:
    """Hold the five criteria against all seeds: {criterion: verdict with its numbers}.

    The verdict is "met" where all seeds agree, "failed" where none does, and otherwise "undecided".
    Pairs of models are compared seed by seed.
    """
    learnt, paper, hybrid = (kinds[kind] for kind in ("learnt", "paper", "hybrid"))
    pca = controls.get(f"PPCA, R = {rank}", {}).get("density", math.nan)
    squares = values(learnt, "components")
    inside = [((CALIBRATED[0] <= s) & (s <= CALIBRATED[1])).mean() for s in squares]
    return {
        "1. trains without constraint": f"{_stable(learnt)} of {wanted}" if learnt else None,
        "2. ELBO above the σ-VAE's": _verdict(differences(learnt, kinds["sigma"])),
        "2. ELBO above PPCA's": _verdict(values(learnt, "elbo") - pca),
        "3. every component within 0.7 to 1.4": _shares(inside),
        "4. μ + Pω closer than the paper's samples": _verdict(
            differences(paper, learnt, "distance_samples", "distance_coherent")
        ),
        "5. both together above the sparse precision": _verdict(
            differences(hybrid, kinds["sparse"])
        ),
        "5. both together above the low rank": _verdict(differences(hybrid, learnt)),
    }


def _stable(records: Records) -> int:
    """Count trainings whose samples have less than twice the variance of the images."""
    shares = (sum(record[f"variance_{part}"] for part in PARTS) for record in records)
    return sum(share < 2 for share in shares)


def differences(
    ours: Records, theirs: Records, name: str = "elbo", other: str | None = None
) -> np.ndarray:
    """Return the differences of a measurement, or of it and another, for each seed of both."""
    by_seed = {record["seed"]: record for record in theirs}
    pairs = ((record, by_seed[record["seed"]]) for record in ours if record["seed"] in by_seed)
    return np.array([one[name] - two[other or name] for one, two in pairs])


def _verdict(found: np.ndarray) -> str | None:
    """Write a verdict over seeds, with the range of the differences, or None without any."""
    if not len(found) or np.isnan(found).any():
        return None
    word = {len(found): "met", 0: "failed"}.get(int((found > 0).sum()), "undecided")
    low, high = (f"{x:+,.0f}".replace("-", "−") for x in (found.min(), found.max()))
    if len(found) == 1:
        return f"one seed ({low})"
    return f"{word} in {len(found)} seeds ({low} to {high})"


def _shares(inside: Sequence[float]) -> str | None:
    if not inside:
        return None
    whole = sum(share == 1 for share in inside)
    word = {len(inside): "met", 0: "failed"}.get(whole, "undecided")
    return f"{word} ({min(inside):.0%} to {max(inside):.0%} of components)"


def criteria_rows(verdicts: dict[str, dict[str, str]]) -> list[dict]:
    """Make a row for each criterion, {data: criteria}."""
    first = next(iter(verdicts.values()))
    return [
        {"criterion": name} | {LABELS[data]: found[name] for data, found in verdicts.items()}
        for name in first
    ]


def _points(ax: Axes, x: Sequence[float], groups: Sequence[np.ndarray], **look) -> None:
    """Draw a line through the means, and a point for each seed."""
    middle = [group.mean() if len(group) else np.nan for group in groups]
    ax.plot(x, middle, lw=1.2, **look)
    for at, group in zip(x, groups, strict=True):
        dots = {k: v for k, v in look.items() if k in ("color", "marker")}
        ax.plot([at] * len(group), group, ls="none", ms=3, alpha=0.5, **dots)


def grid(fixed: dict[float, Records], learnt: Records, paper: Records) -> Figure:
    """Draw what a fixed ε makes of density, calibration, rate, variance and distance.

    A dotted line is where the learnt ε ends, with its values as crosses; the paper's setting is a
    star at its ε.
    """
    panels = {
        "bits per dimension": ("bits",),
        "χ²/S": ("chi_square",),
        "nats that z carries": ("kl_nats",),
        "share of variance": tuple(f"variance_{part}" for part in PARTS),
        "Fréchet distance": tuple(f"distance_{kind}" for kind in WORDS),
    }
    with styled():
        figure, axes = plt.subplots(2, 3, figsize=(WIDTH, 4.6), layout="constrained")
        for ax, (title, names) in zip(axes.flat, panels.items(), strict=False):
            for name in names:
                _against_epsilon(ax, name, fixed, learnt, paper)
            ax.set(xlim=(min(fixed) / 2, max(fixed) * 2), xscale="log", xlabel="ε", title=title)
            if ax in axes[0, :2] and any((values(r, *names) > 0).any() for r in fixed.values()):
                ax.set_yscale("log")  # which needs something to show
        axes[0, 1].axhline(1, color=BLACK, lw=0.8, ls=(0, (5, 2)))
        axes[1, 0].set_ylim(-0.05, 2)
        _grid_legend(axes[1, 2])
        letter(axes.flat[:5])
    return figure


def _against_epsilon(
    ax: Axes, name: str, fixed: dict[float, Records], learnt: Records, paper: Records
) -> None:
    kind = name.rpartition("_")[2]
    colour = PARTS.get(kind) or SHADES.get(kind, BLACK)
    _points(ax, list(fixed), [values(r, name) for r in fixed.values()], color=colour, marker=".")
    for records, mark, size in ((learnt, "X", 6), (paper, "*", 8)):
        found = values(records, name)
        at = values(records, "epsilon")
        if len(found):
            ax.plot(at, found, ls="none", marker=mark, ms=size, color=colour, mec="white", mew=0.5)
    if len(found := values(learnt, "epsilon")):
        ax.axvline(found.mean(), color=BLACK, lw=0.8, ls=(0, (1, 1.5)))


def _grid_legend(ax: Axes) -> None:
    """Fill the last panel with what marks and colours mean."""
    ax.axis("off")
    colours = {ORANGE: "means μ", BLUE: "Pω (d), μ + Pω (e)", SKY: "noise", GREEN: "full samples y"}
    shown = [({"color": colour}, words) for colour, words in colours.items()]
    marks = (("X", "learnt ε"), ("*", "the paper's setting"), (".", "fixed ε, plain ELBO"))
    handles = [ax.plot([], [], lw=2, **look, label=words)[0] for look, words in shown]
    for mark, words in marks:
        handles += ax.plot([], [], ls="none", marker=mark, color=BLACK, ms=7, label=words)
    ax.legend(handles=handles, loc="center", frameon=False)


def components(records: dict[str, dict[str, Records]]) -> Figure:
    """Draw the mean square of each component's score, by data set: {data: {kind: records}}."""
    with styled():
        figure, axes = plt.subplots(
            1, len(records), figsize=(WIDTH, 2.5), sharey=True, layout="constrained", squeeze=False
        )
        for ax, (data, kinds) in zip(axes[0], records.items(), strict=True):
            ax.axhspan(*CALIBRATED, color="0.9", lw=0)
            ax.axhline(1, color=BLACK, lw=0.8, ls=(0, (5, 2)))
            for kind, found in kinds.items():
                _component_band(ax, found, kind)
            ax.set(title=TITLES[data], xlabel="component", yscale="log")
        axes[0, 0].set_ylabel("mean square (1 is right)")
        axes[0, 0].yaxis.set_major_formatter("{x:g}")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        letter(axes[0])
    return figure


def _component_band(ax: Axes, records: Records, kind: str) -> None:
    squares = values(records, "components")  # (seeds, R)
    if not len(squares):
        return
    x, colour = 1 + np.arange(squares.shape[1]), COLOURS[kind]
    ax.plot(x, squares.mean(0), color=colour, lw=1.2, marker=".", label=EPSILON[kind])
    if len(squares) > 1:
        ax.fill_between(x, squares.min(0), squares.max(0), color=colour, alpha=0.2, lw=0)


def densities(
    records: dict[str, dict[str, Records]], controls: dict[str, dict[str, dict]]
) -> Figure:
    """Draw bars of bits per dimension, {data: {kind: records}} and {data: {control: numbers}}.

    Bars are means over seeds and points are seeds; the light part is what the importance-weighted
    bound of the most codes gains over the ELBO.
    """
    with styled():
        figure, axes = plt.subplots(
            1, len(records), figsize=(WIDTH, 3.6), layout="constrained", squeeze=False, sharey=True
        )
        for ax, (data, kinds) in zip(axes[0], records.items(), strict=True):
            rows = [(EPSILON.get(k, k), _nats(r), _gain(r)) for k, r in kinds.items()]
            rows += [(k, np.array([c["density"]]), 0.0) for k, c in controls[data].items()]
            _bars(ax, rows)
            ax.set(title=TITLES[data], xlabel="nats per image")
        letter(axes[0])
    return figure


def _nats(records: Records) -> np.ndarray:
    return values(records, "elbo")


def _gain(records: Records) -> float:
    gains = [record["bound_gains"][-1] for record in records if "bound_gains" in record]
    return float(np.mean(gains)) if gains else 0.0


def _bars(ax: Axes, rows: Sequence[tuple[str, np.ndarray, float]]) -> None:
    for at, (label, nats, gain) in enumerate(rows):
        if not len(nats):
            ax.text(0, at, " not run", va="center", fontsize=7, color="0.4")
            continue
        network = "PCA" not in label
        colour = next((COLOURS[k] for k, w in EPSILON.items() if w == label and k in COLOURS), SKY)
        ax.barh(at, nats.mean(), color=colour if network else "0.6", alpha=0.85)
        ax.barh(at, gain, left=nats.mean(), color=colour, alpha=0.35)
        ax.plot(nats, [at] * len(nats), ls="none", marker="|", color=BLACK, ms=6)
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    if not ax.yaxis_inverted():
        ax.invert_yaxis()


def distances(records: dict[str, dict[str, Records]]) -> Figure:
    """Draw the distances of means, μ + Pω and samples, {data: {kind: records}}, a dot per seed."""
    with styled():
        figure, axes = plt.subplots(
            1, len(records), figsize=(WIDTH, 2.9), layout="constrained", squeeze=False, sharey=True
        )
        for ax, (data, kinds) in zip(axes[0], records.items(), strict=True):
            for at, found in enumerate(kinds.values()):
                for kind, words in WORDS.items():
                    dots = values(found, f"distance_{kind}")
                    ax.plot(dots, [at] * len(dots), ls="none", marker=MARKS[kind], ms=5,
                            color=SHADES[kind], alpha=0.7, label=words)  # fmt: skip
            ax.set_yticks(range(len(kinds)), [EPSILON[kind] for kind in kinds])
            ax.set(title=TITLES[data], xlabel="Fréchet distance", xlim=(0, None))
        axes[0, 0].invert_yaxis()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        one = dict(zip(labels, handles, strict=True))
        figure.legend(one.values(), one, loc="outside upper center", ncols=3)
        letter(axes[0])
    return figure


def remaining(records: dict[str, Records]) -> Figure:
    """Draw what is still wrong: PIT histograms of whitened residuals, and of components."""
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharey=True, layout="constrained")
        for ax, name, title in zip(
            axes, ("pit", "component_pit"), ("whitened residuals", "components"), strict=True
        ):
            ax.axhline(1, color=BLACK, lw=0.8, ls=(0, (5, 2)))
            for kind, found in records.items():
                shares = values(found, name)
                if len(shares):
                    bins = shares.shape[1]
                    ax.stairs(shares.mean(0) * bins, np.linspace(0, 1, bins + 1), lw=1.5,
                              color=COLOURS[kind], label=EPSILON[kind])  # fmt: skip
            ax.set(title=title, xlabel="Φ(score)", ylim=(0, 3))
        axes[0].set_ylabel("density (1 is right)")
        axes[0].legend()
        letter(axes)
    return figure
