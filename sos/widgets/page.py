"""Export the editor and the pad as one HTML file that needs neither server nor network."""

import base64
import html
import json
import math
from collections.abc import Mapping
from pathlib import Path

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
    gaussians,
)

TEMPLATE = HERE / "page.html"
ABOUT_EDITING = (  # what a page for painting says of itself
    "Each button is a distribution over images that the decoder of a variational autoencoder "
    "predicted. Paint on it, and the rest of the image follows: the mean, or a sample, of the "
    "distribution given your strokes. All of it is computed in this page; nothing is sent away."
)


def export_page(
    target: Path | str,
    distributions: Mapping[str, LowRankNormal],
    shape: Shape,
    title: str,
    about: str = "",
    std: float = 0.0,
) -> Path:
    """Write named `distributions`, with sliders, brush and pad, into an HTML page; return its path.

    Arrays are stored in half precision, 2 (R + 1) bytes and a third more per value. `std` is the
    softness of strokes that the page starts with. Raises ValueError for a wrong shape or std, for
    no distributions, and for means or factors that are not finite.
    """
    if not isinstance(distributions, Mapping) or not distributions:
        raise ValueError("distributions must be a dictionary with at least one: {'a name': p}")
    std = float(std)
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std must be zero (exact strokes) or a positive number, not {std}")
    entries = [entry(name, seed, p, shape) for seed, (name, p) in enumerate(distributions.items())]
    state = {
        "shape": list(shape), "dtype": "float16", "zoom": comfortable_zoom(shape),
        "view": "mean", "uncertainty": False, "brush": 3, "std": std,
        "colour": default_colour(shape), "x": 0.5, "y": 0.5,
    }  # fmt: skip
    data = json.dumps({"state": state, "distributions": entries}, allow_nan=False)
    parts = {
        "TITLE": html.escape(title), "ABOUT": html.escape(about),
        "STYLE": STYLE.read_text(encoding="utf-8"), "MODULE": MODULE.read_text(encoding="utf-8"),
        "DATA": data.replace("<", "\\u003c"),
    }  # fmt: skip
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    paths.write_text(Path(target), text)
    return Path(target)


def entry(name: str, seed: int, p: LowRankNormal, shape: Shape) -> dict:
    """Encode one distribution for the page.

    Raises ValueError for a wrong shape, and for a mean or factor that is not finite.
    """
    check_canvas(p, shape)
    if not (p.loc.isfinite().all() and p.cov_factor.isfinite().all()):
        raise ValueError(f"mean and factor of {name!r} must be finite")
    encoded = {k: base64.b64encode(v).decode() for k, v in arrays(p, "float16").items()}
    corners = gaussians(seed, 0, 4 * p.rank).reshape(4, p.rank)
    return encoded | {
        "name": name, "seed": seed, "scales": [1.0] * p.rank,
        "omega": corners[0].round(4).tolist(), "corners": corners.round(4).tolist(),
    }  # fmt: skip


def room_for(p: LowRankNormal, most: int, bytes_: float = 4.9e6) -> int:
    """Return how many distributions of the batch p, from 1 to `most`, fit into `bytes_` of page."""
    each = 2 * 4 / 3 * p.event_shape[0] * (p.rank + 1)
    return max(1, min(most, len(p.loc), int((bytes_ - 60_000) / each)))
