"""Simulate axial T1 brain slices of random subjects, warped from one population template.

`render(index)` draws a subject (age, shape, folds, contrast), looks up tissue probabilities of the
ICBM 152 template on a tilted, warped plane near the lateral ventricles, and images them. All random
quantities except the pixel noise are in millimetres, and each has its own random stream, so that a
subject is the same at every size. The template's licence is in data/assets/BRAIN_LICENCE.txt.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from sos.datasets.factors import changed
from sos.system import paths

VERSION = 1  # bump when any picture changes
CHANNELS = 1
REGIONS = ("background", "ventricles", "csf", "gray", "white")
ASSET = paths.ASSETS / "brain.npz"

VIEW_MM = (204.0, 163.0)  # height, width: the 233x197 mm slice without its empty border
CENTRE_MM = (0.0, -17.0)  # x, y of the middle of the brain in template space
SAMPLE_MM = 1.3  # coarsest sampling of the tissue maps; larger pixels average several samples
LESION_REACH_MM = (65.0, 48.0)  # y, x: semi-axes of the ellipse of lesions' middles
LESION_EDGE_MM = 2.0  # over which a lesion begins
LESION_GRAIN_MM = 5.0  # of its texture
GRID_HALF_MM = (140.0, 120.0)  # y, x reach of the control grids of smooth fields
STREAMS = {"factors": 0, "shape": 1, "folds": 2, "tissue": 3, "bias": 4, "noise": 5, "lesion": 6}
TAG = 0x5B7A15  # keeps these random streams apart from those of other data sets


class Factors(NamedTuple):
    """Hold the factors behind one subject, with lengths in millimetres and angles in degrees."""

    age: float  # years
    slice_height_mm: float  # above the anterior commissure
    scale_x: float  # size relative to the template: left-right
    scale_y: float  # back-front
    scale_z: float  # foot-head
    taper: float  # egg shape: relative widening towards the back
    rotation_x: float  # nod
    rotation_y: float  # tilt to a shoulder
    rotation_z: float  # turn, in the image plane
    ventricle_growth: float  # 0: as in the template
    sulcal_widening: float  # log-odds in favour of fluid
    white_intensity: float  # fractions of the display range
    gray_intensity: float
    csf_intensity: float
    bias_amplitude: float  # standard deviation of the receive field's logarithm
    bias_x: float  # log gain from the left edge to the right
    bias_y: float  # log gain from the bottom edge to the top
    noise: float  # standard deviation of each quadrature channel


class Lesion(NamedTuple):
    """Say what a round lesion in a subject's gray and white matter looks like."""

    radius_mm: float
    contrast: float  # change of the intensity, a fraction of the display range
    texture: float = 0.0  # standard deviation of additional noise, smooth over LESION_GRAIN_MM


class Rendered(NamedTuple):
    """Hold one image and its ground truth."""

    image: np.ndarray  # uint8 (1, height, width)
    factors: np.ndarray  # float32 (len(FACTORS),)
    regions: np.ndarray  # uint8 (height, width), index into REGIONS


FACTORS: tuple[str, ...] = Factors._fields


def render(
    index: int, height: int = 80, width: int = 64, changes: Mapping[str, float] | None = None
) -> Rendered:
    """Render image number `index`, or the same subject with other values of some FACTORS.

    A factor is changed by itself; a changed age changes no ventricle. Raises ValueError for a
    negative index, a side under 16 pixels, unknown factors and values that are not finite.
    """
    return _render(index, height, width, changes, None)[0]


def render_lesion(
    index: int, lesion: Lesion, height: int = 80, width: int = 64
) -> tuple[Rendered, np.ndarray]:
    """Render image number `index` with a lesion, whose middle is the same for every kind.

    Also returns each pixel's share of the lesion, float32 (height, width), all zero where its place
    holds neither gray nor white matter. Raises ValueError as `render` does, and for lesions without
    a positive radius.
    """
    lesion = Lesion(*lesion)
    if not (np.isfinite(lesion).all() and lesion.radius_mm > 0):
        raise ValueError(f"a lesion needs a positive radius and finite numbers, not {lesion}")
    return _render(index, height, width, None, lesion)


def _render(index, height, width, changes, lesion) -> tuple[Rendered, np.ndarray]:
    """Render a subject; return each pixel's share of its lesion as well."""
    if index < 0:
        raise ValueError(f"index is {index}, expected 0 or more: count pictures from zero")
    if min(height, width) < 16:
        raise ValueError(f"size is {height}x{width}, expected at least 16x16: ask for more pixels")
    factors = _factors(_random(index, "factors"))._replace(**changed(FACTORS, changes))
    view = _view(height, width)
    points = _template_points(factors, index, view)  # (3, rows, columns) mm
    tissues, detail = _tissues(factors, index, view, points)  # (5, rows, columns), (rows, columns)
    fractions = _average(tissues, view.samples)  # (5, height, width)
    signal, share = _signal(factors, tissues, detail), np.zeros_like(detail)
    if lesion is not None:
        place, look = _lesion(index, view, lesion)
        share = place * (tissues[3] + tissues[4])
        signal = signal + look * share
    image = _acquire(factors, index, view, _average(signal, view.samples), fractions[0])
    rendered = Rendered(
        image=np.rint(255 * image).astype(np.uint8)[None],
        factors=np.array(factors, np.float32),
        regions=fractions.argmax(0).astype(np.uint8),
    )
    return rendered, _average(share, view.samples)


def _random(index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([TAG, index, STREAMS[stream]])


# ------------------------------------------------------------------------------- subject factors


def _factors(rng: np.random.Generator) -> Factors:
    """Draw a subject; clip normals at 2.5 standard deviations to stay inside the template."""

    def normal(mean, std):
        return mean + std * float(np.clip(rng.standard_normal(), -2.5, 2.5))

    age = normal(65, 8)
    years = (age - 65) / 10  # decades from the mean
    return Factors(
        age=age,
        slice_height_mm=normal(16, 1.5),
        scale_x=normal(1, 0.025),
        scale_y=normal(1, 0.025),
        scale_z=normal(1, 0.025),
        taper=normal(0, 0.03),
        rotation_x=normal(0, 2),
        rotation_y=normal(0, 1.5),
        rotation_z=normal(0, 1.5),
        ventricle_growth=normal(0.22 + 0.15 * years, 0.05),
        sulcal_widening=normal(1.4 + 0.8 * years, 0.3),
        white_intensity=normal(0.80 - 0.01 * years, 0.035),
        gray_intensity=normal(0.55 + 0.01 * years, 0.03),
        csf_intensity=normal(0.15, 0.02),
        bias_amplitude=abs(normal(0, 0.03)),
        bias_x=normal(0, 0.05),
        bias_y=normal(0, 0.08),
        noise=normal(0.014, 0.003),
    )


# --------------------------------------------------------------------------------- geometry, warp


class View(NamedTuple):
    """Hold the pixel grid of one image size.

    `samples` look-ups per pixel along each side keep the sampling of the tissue maps fine.
    """

    height: int
    width: int
    samples: int
    y: np.ndarray  # (height * samples,) mm from the centre of the view, front of the head positive
    x: np.ndarray  # (width * samples,)


@cache
def _view(height: int, width: int) -> View:
    """Make a grid of square pixels, just large enough for VIEW_MM to fit without stretching."""
    pixel = max(VIEW_MM[0] / height, VIEW_MM[1] / width)
    samples = int(np.ceil(pixel / SAMPLE_MM))

    def positions(size):
        steps = np.arange(size * samples, dtype=np.float32) - (size * samples - 1) / 2
        return steps * np.float32(pixel / samples)

    return View(height, width, samples, -positions(height), positions(width))


@cache
def _spline_basis(height: int, width: int, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return cubic B-splines of one spacing: (rows, controls_y) and (columns, controls_x)."""

    def basis(positions, half):
        controls = np.arange(-np.ceil(half / spacing), np.ceil(half / spacing) + 1) * spacing
        t = np.abs(positions[:, None] - controls) / spacing
        near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
        return (np.where(t < 1, near, far) / np.sqrt(151 / 315)).astype(np.float32)  # unit variance

    view = _view(height, width)
    return basis(view.y, GRID_HALF_MM[0]), basis(view.x, GRID_HALF_MM[1])


def _smooth_field(
    rng: np.random.Generator, view: View, spacing: float, count: int, mirrored: bool = False
) -> np.ndarray:
    """Draw Gaussian fields (count, rows, columns) of about unit variance, smooth over `spacing` mm.

    With `mirrored` they are a displacement (x, y, z) that is symmetric between left and right.
    """
    along_y, along_x = _spline_basis(view.height, view.width, spacing)
    controls = rng.standard_normal((count, along_y.shape[1], along_x.shape[1]), np.float32)
    if mirrored:
        reflection = controls[..., ::-1] * np.float32([-1, 1, 1])[:, None, None]
        controls = (controls + reflection) / np.float32(2**0.5)
    return along_y @ controls @ along_x.T


def _rotation(*degrees: float) -> np.ndarray:
    """Return the rotation (3, 3) about z, then y, then x."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _template_points(factors: Factors, index: int, view: View) -> np.ndarray:
    """Map each sample of the slice into the template: (3, rows, columns) float32, mm."""
    rotation = _rotation(factors.rotation_x, factors.rotation_y, factors.rotation_z)
    size = np.array([factors.scale_x, factors.scale_y, factors.scale_z])
    across, up, _ = (rotation / size[:, None]).astype(np.float32).T
    middle = _column(*CENTRE_MM, factors.slice_height_mm / factors.scale_z)
    points = across[:, None, None] * view.x + up[:, None, None] * view.y[:, None] + middle
    points[0] *= 1 + factors.taper * (points[1] - CENTRE_MM[1]) / 90

    shape, folds = _random(index, "shape"), _random(index, "folds")
    warp = _column(0.7, 0.7, 2.0) * _smooth_field(folds, view, 28, 3)
    warp += _column(0.3, 0.3, 0.8) * _smooth_field(folds, view, 14, 3)
    warp *= 1 - 0.7 * np.exp(-((points[0] / 28) ** 2) - ((points[1] + 10) / 42) ** 2)  # calm middle
    points += warp + _column(1.5, 1.5, 1.0) * _smooth_field(shape, view, 60, 3, mirrored=True)
    points += _column(0.6, 0.6, 0.6) * _smooth_field(shape, view, 60, 3)
    return _grow_ventricles(points, factors.ventricle_growth)


def _column(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z], np.float32)[:, None, None]


def _grow_ventricles(points: np.ndarray, growth: float) -> np.ndarray:
    """Magnify the tissue around the front and the back horn of each lateral ventricle."""
    x, y, z = points
    side = np.tanh(x / 4)  # left -1, right 1; smooth, so that the septum between them survives
    pull = np.zeros((2, *x.shape), np.float32)
    for centre_x, centre_y, reach_x, reach_y in ((8, 14, 13, 20), (20, -30, 15, 18)):
        dx, dy = x - side * centre_x, y - centre_y
        weight = growth * np.exp(-((dx / reach_x) ** 2) - (dy / reach_y) ** 2)
        pull += weight * np.stack([dx, dy])
    return np.stack([x - pull[0], y - pull[1], z])


# ---------------------------------------------------------------------------------- tissue lookup


@cache
def _template() -> tuple[np.ndarray, np.ndarray]:
    """Load the template maps (x, y, z, 5) in [0, 1], and the voxel (1 mm) at the origin of the mm.

    The maps are brain, gray, white, ventricles, and detail, which is the T1 intensity minus what
    the tissues explain.
    """
    with np.load(ASSET) as asset:
        *tissues, t1 = asset["maps"].astype(np.float32) / 255
        origin = asset["origin"].astype(np.float32)
    brain, gray, white, _ = tissues
    explaining = np.stack([brain, gray, white], -1)
    interior = gray + white > 0.5
    weights = np.linalg.lstsq(explaining[interior], t1[interior])[0]
    detail = np.where(interior, t1 - explaining @ weights, 0)
    return np.stack([*tissues, detail], -1), origin


def _look_up(points: np.ndarray) -> np.ndarray:
    """Interpolate all template maps at points (3, rows, columns) in mm: (5, rows, columns).

    The interpolation is trilinear, with one gather per voxel corner for all maps together, which is
    six times faster than map_coordinates.
    """
    maps, origin = _template()
    *size, channels = maps.shape
    last = np.array(size, np.float32)[:, None] - 1.001
    voxels = np.clip(points.reshape(3, -1) + origin[:, None], 0, last)  # empty at its sides
    corner = voxels.astype(np.int32)
    upper = voxels - corner
    strides = np.array([size[1] * size[2], size[2], 1], np.int32)
    first, rows = strides @ corner, maps.reshape(-1, channels)
    total = np.zeros((voxels.shape[1], channels), np.float32)
    for step in product((0, 1), repeat=3):
        weight = np.prod([u if s else 1 - u for s, u in zip(step, upper, strict=True)], axis=0)
        total += weight[:, None] * rows.take(first + np.dot(strides, step), axis=0)
    return total.T.reshape(channels, *points.shape[1:])


def _tissues(
    factors: Factors, index: int, view: View, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return one subject's tissue fractions (5, rows, columns) in REGIONS order, and the detail.

    The template's probabilities are blurred by averaging many heads. Squaring them and adding
    smooth log-odds picks one plausible anatomy: its own sulci, its own cortical thickness.
    """
    brain, gray, white, ventricles, detail = _look_up(points)
    csf = np.clip(brain - gray - white - ventricles, 0, 1)
    fluid, thick = _smooth_field(_random(index, "tissue"), view, 9, 2)
    widening, thickening = np.exp(factors.sulcal_widening + 0.6 * fluid), np.exp(0.5 * thick)
    wide_ventricles = ventricles**2 * np.exp(factors.sulcal_widening)
    odds = np.stack([wide_ventricles, csf**2 * widening, gray**2 * thickening, white**2])
    inside = np.clip(2 * brain - 0.5, 0, 1)
    return np.concatenate([1 - inside[None], inside * odds / (odds.sum(0) + 1e-6)]), detail


# -------------------------------------------------------------------- intensity, acquisition noise


def _signal(factors: Factors, tissues: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """Return the noise-free intensity (rows, columns): tissue means and the template's detail."""
    fluid, gray, white = factors.csf_intensity, factors.gray_intensity, factors.white_intensity
    means = np.array([0, fluid, fluid, gray, white], np.float32)
    return np.tensordot(means, tissues, 1) + 0.8 * detail * (tissues[3] + tissues[4])


def _lesion(index: int, view: View, lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """Return where a lesion is (rows, columns), with a soft edge, and how it changes intensity."""
    stream = _random(index, "lesion")
    distance, angle = stream.random() ** 0.5, stream.uniform(0, 2 * np.pi)
    middle = distance * np.array([np.sin(angle), np.cos(angle)]) * LESION_REACH_MM
    away = np.hypot(view.y[:, None] - middle[0], view.x - middle[1])
    place = np.clip((lesion.radius_mm - away) / LESION_EDGE_MM + 0.5, 0, 1).astype(np.float32)
    grain = _smooth_field(stream, view, LESION_GRAIN_MM, 1)[0]
    return place, np.float32(lesion.contrast) + np.float32(lesion.texture) * grain


def _acquire(
    factors: Factors, index: int, view: View, signal: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """Add receive-field bias and Rician noise in the brain, and set everything outside to zero.

    The exact zero outside is that of skull-stripped images.
    """
    field = _average(_smooth_field(_random(index, "bias"), view, 90, 1), view.samples)[0]
    x, y = view.x.reshape(view.width, -1).mean(1), view.y.reshape(view.height, -1).mean(1)
    tilt = factors.bias_x * x / VIEW_MM[1] + factors.bias_y * y[:, None] / VIEW_MM[0]
    noise = _random(index, "noise").standard_normal((2, *signal.shape), np.float32)
    real, imaginary = factors.noise * noise
    measured = np.hypot(signal * np.exp(factors.bias_amplitude * field + tilt) + real, imaginary)
    return np.clip(np.where(outside < 0.98, measured, 0), 0, 1)


def _average(fields: np.ndarray, samples: int) -> np.ndarray:
    """Average the samples of each pixel, in blocks over the last two axes."""
    offsets = product(range(samples), repeat=2)
    return sum(fields[..., i::samples, j::samples] for i, j in offsets) / samples**2
