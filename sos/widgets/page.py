"""Export the editor and the pad as one HTML file that needs neither server nor network."""

import base64
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from sos.analysis.editing import Shape
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system import paths
from sos.widgets.pictures import comfortable_zoom
from sos.widgets.surface import (
    HERE,
    MODULE,
    STYLE,
    arrays,
    check_canvas,
    default_colour,
    encoded,
    gaussians,
    true_picture,
)

TEMPLATE = HERE / "page.html"
ABOUT_EDITING = (  # what a page for painting says of itself
    "The decoder of a variational autoencoder predicted a distribution over images. Paint on its "
    "mean, and the rest of the image follows: the mean, or a sample, of the distribution given "
    "your strokes. All of it is computed in this page; nothing is sent away."
)
PAPER = "https://openreview.net/forum?id=cxp7n9q5c4"
CITATION = (
    "J. Langley, M. Monteiro, C. Jones, N. Pawlowski and B. Glocker: "
    f'<a href="{PAPER}">Structured Uncertainty in the Observation Space of Variational '
    "Autoencoders</a>. Transactions on Machine Learning Research, 2022."
)


def collection() -> str | None:
    """Return the collection's public address, `repository-code` in CITATION.cff, if it has one."""
    file = paths.ROOT / "CITATION.cff"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r'^repository-code:\s*"?([^"\s]+)', text, re.MULTILINE)
    return found[1] if found else None


COLLECTION = collection()


def export_page(
    target: Path | str,
    distributions: Mapping[str, LowRankNormal],
    shape: Shape | Mapping[str, Shape],
    title: str,
    about: str = "",
    std: float = 0.0,
    *,
    truths: Mapping[str, Tensor | np.ndarray] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    link: str | None = COLLECTION,
) -> Path:
    """Write named `distributions`, with sliders, brush and pad, into an HTML page; return its path.

    Arrays are stored in half precision, 2 (R + 1) bytes and a third more per value. The page opens
    with the first distribution, and has a thumbnail for each if there are several. `shape` is one
    for all, or {name: shape}. `std` is the softness of strokes that the page starts with. `truths`
    are {name: the true picture (C, H, W) or (S,)}, for some or all. `groups` are the thumbnails'
    labels, {label: names}. `link` is an address of the collection that the page links to.

    Raises ValueError for a wrong shape, truth or std, for no distributions, for means or factors
    that are not finite, and for names that are missing or unknown.
    """
    if not isinstance(distributions, Mapping) or not distributions:
        raise ValueError("distributions must be a dictionary with at least one: {'a name': p}")
    std = float(std)
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std must be zero (exact strokes) or a positive number, not {std}")
    names, truths = list(distributions), truths or {}
    shapes = shape if isinstance(shape, Mapping) else dict.fromkeys(names, shape)
    check_names("shape", shapes, names, every=True)
    check_names("truths", truths, names)
    entries = [
        entry(name, seed, p, shapes[name], truths.get(name))
        for seed, (name, p) in enumerate(distributions.items())
    ]
    state = {
        "dtype": "float16", "view": "mean", "brush": 3, "std": std, "x": 0.5, "y": 0.5,
        "original": False, "outlines": True, "uncertainty": False, "show_truth": False,
    }  # fmt: skip
    content = {"state": state, "distributions": entries, "groups": grouped(names, groups)}
    paths.write_text(Path(target), filled(title, about, link, content))
    return Path(target)


def check_names(what: str, given: Iterable[str], names: Sequence[str], every: bool = False) -> None:
    """Check that names given are those of distributions, and with `every` that none is missing.

    Raises ValueError otherwise.
    """
    given = list(given)
    unknown = sorted({str(name) for name in given} - set(names))
    if unknown:
        raise ValueError(
            f"{what} names {', '.join(unknown)}, but the distributions are {', '.join(names)}"
        )
    wrong = [name for name in names if given.count(name) > 1 or (every and name not in given)]
    if wrong:
        raise ValueError(f"{what} must name each distribution once; look at {', '.join(wrong)}")


def grouped(names: Sequence[str], groups: Mapping[str, Sequence[str]] | None) -> list[dict]:
    """Convert groups of names to labels and places among `names`; without groups all are one.

    Raises ValueError where a name is missing, unknown or given twice.
    """
    if groups is None:
        groups = {"": names}
    check_names("groups", [name for some in groups.values() for name in some], names, every=True)
    places = {name: place for place, name in enumerate(names)}
    return [
        {"label": label, "members": [places[name] for name in some]}
        for label, some in groups.items()
    ]


def filled(title: str, about: str, link: str | None, content: dict) -> str:
    """Fill the page's template with its texts, the module and the distributions."""
    footer = f"<p>Based on {CITATION}</p>"
    if link:
        address = html.escape(link)
        footer += (
            "<p>Code, weights and notebooks that made this page: "
            f'<a href="{address}">SOS-VAE in notebooks</a>.</p>'
        )
    data = json.dumps(content, allow_nan=False)
    parts = {
        "TITLE": html.escape(title), "ABOUT": html.escape(about), "FOOTER": footer,
        "STYLE": STYLE.read_text(encoding="utf-8"), "MODULE": MODULE.read_text(encoding="utf-8"),
        "DATA": data.replace("<", "\\u003c"),
    }  # fmt: skip
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    return text


def entry(name: str, seed: int, p: LowRankNormal, shape: Shape, truth: Tensor | None) -> dict:
    """Encode one distribution, and its true picture if it is known, for the page.

    Raises ValueError for a wrong shape or truth, and for a mean or factor that is not finite.
    """
    check_canvas(p, shape)
    if not (p.loc.isfinite().all() and p.cov_factor.isfinite().all()):
        raise ValueError(f"mean and factor of {name!r} must be finite")
    coded = arrays(p, "float16") | {"reference": b""}
    if truth is not None:
        coded["reference"] = encoded(true_picture(truth, shape), "float16")
    corners = gaussians(seed, 0, 4 * p.rank).reshape(4, p.rank)
    return {k: base64.b64encode(v).decode() for k, v in coded.items()} | {
        "name": name, "seed": seed, "scales": [1.0] * p.rank, "shape": list(shape),
        "zoom": comfortable_zoom(shape), "colour": default_colour(shape),
        "omega": corners[0].round(4).tolist(), "corners": corners.round(4).tolist(),
    }  # fmt: skip


def room_for(p: LowRankNormal, most: int, bytes_: float = 4.9e6) -> int:
    """Return how many distributions of the batch p, from 1 to `most`, fit into `bytes_` of page."""
    each = 2 * 4 / 3 * p.event_shape[0] * (p.rank + 2)  # mean, factor and perhaps a true picture
    return max(1, min(most, len(p.loc), int((bytes_ - 80_000) / each)))
