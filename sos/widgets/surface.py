"""Draw on distributions, with algebra in the browser and the state in the kernel.

`observation.js` paints, conditions and draws by itself. A finished stroke, a moved slider or a new
sample is sent back as a trait, so that the next cell can use `editor.conditional`, a
`LowRankNormal`, or `editor.sample`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from sos.analysis import editing
from sos.analysis.editing import Shape, Stroke
from sos.analysis.interpolation import bilinear_at
from sos.distributions.low_rank_normal import LowRankNormal
from sos.widgets.pictures import Still, comfortable_zoom, png

HERE = Path(__file__).resolve().parent
MODULE, STYLE = HERE / "observation.js", HERE / "observation.css"


def gaussians(seed: int, stream: int, count: int) -> np.ndarray:
    """Draw `count` standard normal numbers from seed and stream, the same as in observation.js."""
    wrap = 2**32 - 1
    key = (seed * 0x9E3779B9 & wrap) ^ ((stream + 1) * 0x85EBCA6B & wrap)
    x = (np.arange(2 * count, dtype=np.uint64) + np.uint64(key)).astype(np.uint32)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    uniform = (x ^ (x >> 16)).reshape(count, 2) / 2.0**32
    radius = np.sqrt(-2 * np.log(uniform[:, 0] + 0.5 / 2**32))
    return radius * np.cos(2 * np.pi * uniform[:, 1])


def encoded(values: Tensor, dtype: str) -> bytes:
    """Encode values as the bytes of an array of `dtype`."""
    return values.detach().float().cpu().numpy().astype(dtype).tobytes()


def arrays(p: LowRankNormal, dtype: str) -> dict[str, bytes]:
    """Encode μ (S), the components U diag(s) (R, S) and the diagonal (1 or S) of p as bytes."""
    components = p.principal_components()
    factor = (components.directions * components.scales).mT  # (R, S)
    diag = p.cov_diag
    diag = diag[:1] if bool((diag == diag[0]).all()) else diag
    parts = {"mean": p.loc, "factor": factor}
    result = {name: encoded(part, dtype) for name, part in parts.items()}
    return result | {"diag": encoded(diag, "float32")}  # half precision makes tiny ones zero


def check_canvas(p: LowRankNormal, shape: Shape) -> None:
    """Check that p is one distribution over gray or colour images. Raises ValueError otherwise."""
    editing.check_shape(p, shape)
    if shape[0] not in (1, 3):
        raise ValueError(f"a canvas shows 1 channel (gray) or 3 (colour), not {shape[0]}")


def true_picture(truth: Tensor | np.ndarray, shape: Shape) -> Tensor:
    """Check a true picture, (C, H, W) or flat (S,), with values in [0, 1], and flatten it.

    Raises ValueError for other shapes and values.
    """
    values = torch.as_tensor(truth).detach().cpu()
    size = math.prod(shape)
    if tuple(values.shape) not in {tuple(shape), (size,)}:
        raise ValueError(
            f"a true picture must be {tuple(shape)} or flat ({size},), not "
            f"{tuple(values.shape)}; give one image of the shape that the distribution is over"
        )
    if not ((values >= 0) & (values <= 1)).all() or values.dtype == torch.uint8:  # NaN fails too
        raise ValueError(
            f"values of a true picture must be in [0, 1], but are {values.dtype} from "
            f"{values.min()} to {values.max()}; divide bytes by 255"
        )
    return values.flatten()


def default_colour(shape: Shape) -> list[float]:
    """Return the colour that a brush starts with: blond, or a light gray."""
    return [0.8, 0.6, 0.3] if shape[0] == 3 else [0.9] * shape[0]


class _Surface(Still, anywidget.AnyWidget):
    """Show a distribution on a canvas. `omega` (R,) is the noise of the principal components."""

    _esm, _css = MODULE, STYLE
    kind = traitlets.Unicode().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    dtype = traitlets.Unicode("float32").tag(sync=True)
    mean = traitlets.Bytes().tag(sync=True)
    factor = traitlets.Bytes().tag(sync=True)
    diag = traitlets.Bytes().tag(sync=True)
    omega = traitlets.List(traitlets.Float()).tag(sync=True)
    seed = traitlets.Int(0, min=0, max=2**31).tag(sync=True)
    zoom = traitlets.Int(1, min=1, max=16).tag(sync=True)

    def __init__(self, p: LowRankNormal, shape: Shape, **traits):
        unknown = sorted(set(traits) - set(self.trait_names()))
        if unknown:
            known = ", ".join(sorted(set(type(self).class_own_traits()) | {"seed", "zoom"}))
            raise TypeError(f"{type(self).__name__} has no {', '.join(unknown)}; it has {known}")
        self._p, self._rotation = p, p.principal_components().rotation.to(p.loc)
        traits = {"zoom": comfortable_zoom(shape), "shape": list(shape)} | traits
        super().__init__(**arrays(p, "float32"), **traits)

    def _noise(self, stream: int) -> Tensor:
        """Draw a standard normal number for each value (S,)."""
        drawn = gaussians(self.seed, stream, self._p.event_shape[0])
        return torch.from_numpy(drawn).to(self._p.loc)

    def _own(self, omega: Sequence[float]) -> Tensor:
        """Convert noise of the principal components to noise of P's columns, V ω."""
        return self._rotation @ torch.tensor(omega, dtype=self._rotation.dtype).to(self._rotation)

    def image(self) -> Tensor:
        """Return the image on the canvas (C, H, W)."""
        raise NotImplementedError

    def still(self) -> bytes:
        """Return the image on the canvas as a PNG file."""
        return png(self.image(), self.zoom)


class Editor(_Surface):
    """Show a canvas on which painting conditions a distribution (§4.4, eq. 7).

        editor = Editor(p, shape)  # show it; then, in another cell:
        editor.conditional         # p given all strokes, a LowRankNormal
        editor.sample              # the sample on the canvas

    p is one distribution over flat images of `shape` = (channels, height, width). `noise_factor`
    (R,) is the noise ω_p of the sample that is shown first. Without it the noise is drawn. Where
    `truth`, the image (C, H, W) or (S,) that p predicts, is known, a switch shows it beside the
    edit with the error to it. Raises ValueError for other shapes, and for a truth outside [0, 1].
    """

    strokes = traitlets.List(traitlets.Dict()).tag(sync=True)
    position = traitlets.Int(0, min=0).tag(sync=True)  # how many strokes hold: undo, redo
    scales = traitlets.List(traitlets.Float()).tag(sync=True)
    view = traitlets.Enum(("mean", "sample"), "mean").tag(sync=True)
    original = traitlets.Bool(False).tag(sync=True)  # show the picture without the strokes
    outlines = traitlets.Bool(True).tag(sync=True)
    show_truth = traitlets.Bool(False).tag(sync=True)
    reference = traitlets.Bytes().tag(sync=True)  # the true picture; empty where unknown
    uncertainty = traitlets.Bool(False).tag(sync=True)
    brush = traitlets.Int(3, min=1, max=10).tag(sync=True)
    colour = traitlets.List(traitlets.Float()).tag(sync=True)
    std = traitlets.Float(0.0, min=0.0).tag(sync=True)

    def __init__(
        self,
        p: LowRankNormal,
        shape: Shape,
        noise_factor: Tensor | None = None,
        truth: Tensor | np.ndarray | None = None,
        **traits,
    ):
        self._shape = tuple(shape)
        check_canvas(p, self._shape)
        drawn = gaussians(traits.get("seed", 0), 0, p.rank).tolist()
        if truth is not None:
            traits["reference"] = encoded(true_picture(truth, self._shape), "float32")
        traits.setdefault("colour", default_colour(shape))
        traits["std"] = float(traits.get("std", 0.0))
        traits.setdefault("position", len(traits.get("strokes", [])))
        super().__init__(
            p,
            shape,
            kind="editor",
            scales=[1.0] * p.rank,
            omega=traits.pop("omega", drawn),
            **traits,
        )
        if noise_factor is not None:
            noise = torch.as_tensor(noise_factor).to(self._rotation)
            if noise.shape != (p.rank,):
                raise ValueError(f"noise_factor must be ({p.rank},), not {tuple(noise.shape)}")
            self.omega = (self._rotation.mT @ noise).tolist()

    @traitlets.validate("strokes")
    def _check_strokes(self, proposal):
        checked = []
        for one in proposal["value"]:
            if set(one) - {"std"} != {"pixels", "colour"}:
                raise traitlets.TraitError(f"a stroke has pixels, colour and std, not {list(one)}")
            checked.append(asdict(self._checked(**one)))
        if self.position > len(checked):
            self.position = len(checked)
        return checked

    @traitlets.validate("position")
    def _check_position(self, proposal):
        return min(proposal["value"], len(self.strokes))

    @traitlets.validate("std")
    def _check_std(self, proposal):
        if not np.isfinite(proposal["value"]):
            raise traitlets.TraitError(f"std must be finite, not {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("colour")
    def _check_colour(self, proposal):
        return list(self._checked([], proposal["value"]).colour)

    @traitlets.validate("scales", "omega")
    def _check_length(self, proposal):
        given, wanted = proposal["value"], self._p.rank
        if len(given) != wanted or not np.isfinite(given).all():
            raise traitlets.TraitError(
                f"{proposal['trait'].name} must be {wanted} finite numbers, one per component, "
                f"not {given}"
            )
        return given

    def _checked(self, pixels, colour, std=0.0) -> Stroke:
        try:
            return editing.stroke(pixels, colour, self._shape, std)
        except (TypeError, ValueError) as error:
            raise traitlets.TraitError(str(error)) from error

    def paint(self, pixels, colour, std: float | None = None) -> None:
        """Paint a stroke on pixel numbers or a mask (H, W), by default as soft as the brush.

        Raises ValueError for bad input.
        """
        new = editing.stroke(pixels, colour, self._shape, self.std if std is None else std)
        if new.pixels:
            with self.hold_trait_notifications():
                self.strokes = [*self.strokes[: self.position], asdict(new)]
                self.position = len(self.strokes)
                self.original = False

    def undo(self) -> None:
        """Undo the last stroke, if there is one."""
        self.position = max(self.position - 1, 0)

    def redo(self) -> None:
        """Redo the stroke that was undone last, if there is one."""
        self.position = min(self.position + 1, len(self.strokes))

    def reset(self) -> None:
        """Undo all strokes; redo brings them back one by one."""
        self.position = 0

    @property
    def edits(self) -> list[Stroke]:
        """Return the strokes that hold, without those undone."""
        return [Stroke(**one) for one in self.strokes[: self.position]]

    @property
    def distribution(self) -> LowRankNormal:
        """Return the distribution that is painted on: p with its components scaled (eq. 5)."""
        if all(scale == 1 for scale in self.scales):
            return self._p
        return self._p.scale_components(torch.tensor(self.scales, device=self._p.loc.device))

    @property
    def conditional(self) -> LowRankNormal:
        """Return the distribution given the strokes (eq. 7)."""
        return editing.condition(self.distribution, self.edits, self._shape)

    @property
    def sample(self) -> Tensor:
        """Return the sample on the canvas (S,), a sample of `conditional`."""
        return self._sample(self.edits)

    @property
    def truth(self) -> Tensor | None:
        """Return the true picture (C, H, W), or None where it is unknown."""
        if not self.reference:
            return None
        return torch.frombuffer(bytearray(self.reference), dtype=torch.float32).view(self._shape)

    @property
    def rmse(self) -> float:
        """Return the root mean square error of `image()` to the true picture.

        Raises ValueError where that is unknown.
        """
        if self.truth is None:
            raise ValueError("the true picture is unknown; give it: Editor(p, shape, truth=image)")
        return (self.image().cpu() - self.truth).square().mean().sqrt().item()

    def image(self) -> Tensor:
        """Return the mean or sample that the canvas shows (C, H, W), with the strokes or without.

        Outlines, the map of uncertainty and the true picture are no part of it.
        """
        strokes = [] if self.original else self.edits
        flat = self._mean(strokes) if self.view == "mean" else self._sample(strokes)
        return flat.unflatten(-1, self._shape)

    def _mean(self, strokes: list[Stroke]) -> Tensor:
        return editing.condition(self.distribution, strokes, self._shape).mean

    def _sample(self, strokes: list[Stroke]) -> Tensor:
        p = self.distribution
        drawn = p.rsample_from(self._own(self.omega), self._noise(1))
        return editing.condition_sample(p, drawn, strokes, self._shape, self._noise(2))


class Pad(_Surface):
    """Show a pad to walk between four samples of one distribution without decoding.

    The walk is that of §4.2, eq. 4 and 8. `corners` (4, R) are the noises ω_p top left, top right,
    bottom left and bottom right.
    """

    corners = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    x = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    y = traitlets.Float(0.5, min=0, max=1).tag(sync=True)

    def __init__(self, p: LowRankNormal, shape: Shape, corners: Tensor | None = None, **traits):
        self._shape = tuple(shape)
        check_canvas(p, self._shape)
        if not p.rank:
            raise ValueError(
                "a pad walks between noises ω_p, and a distribution of rank 0 has none"
            )
        corners = None if corners is None else torch.as_tensor(corners)
        if corners is None:
            drawn = gaussians(traits.get("seed", 0), 0, 4 * p.rank).reshape(4, p.rank)
        elif corners.shape != (4, p.rank):
            raise ValueError(f"corners must be (4, {p.rank}), not {tuple(corners.shape)}")
        else:
            drawn = corners.cpu() @ p.principal_components().rotation.to(corners).cpu()
        super().__init__(p, shape, kind="pad", corners=drawn.tolist(), **traits)

    @traitlets.validate("corners")
    def _check_corners(self, proposal):
        given, wanted = proposal["value"], (4, self._p.rank)
        if np.shape(given) != wanted or not np.isfinite(given).all():
            raise traitlets.TraitError(f"corners must be {wanted} finite numbers")
        return given

    @property
    def noise_factor(self) -> Tensor:
        """Return the noise ω_p (R,) at the handle."""
        corners = torch.tensor(self.corners, dtype=torch.float64)
        return self._own(bilinear_at(corners, self.x, self.y).tolist())

    def image(self) -> Tensor:
        """Return the sample at the handle (C, H, W)."""
        return self._p.rsample_from(self.noise_factor, self._noise(1)).unflatten(-1, self._shape)
