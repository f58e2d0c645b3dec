"""Simulate faces with a CC0 morphable head, procedural hair, and a renderer in numpy alone.

`render(index, height, width)` draws person number `index`: the same person, pose, light and
background at every size, with the continuous factors behind the image and a map of regions. The
steps are in reading order: the factors, the head, the hair, the rasteriser, the colours, the light,
the background, the composite. Nothing here depicts a real person.

Units and axes: the head is in decimetres, with x to the viewer's right, y up, and z towards the
viewer. The image coordinates `u, v` run over -0.5..0.5 of its central square, with v downwards, so
a taller or wider image shows more of the scene and never stretches it. Colours are linear light
until the composite. Axes in shapes are named vertices, triangles, samples (2x2 to a pixel), strands
and knots (points along a strand).
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sos.datasets.factors import changed
from sos.system import paths

VERSION: int = 1  # bump when any picture changes
CHANNELS = 3
ASSET = paths.ASSETS / "head.npz"

FACTORS: tuple[str, ...] = (
    "skin_tone",  # 0 darkest .. 1 lightest, drawn independently of the shape of the head
    "skin_warmth",
    *("hair_red", "hair_green", "hair_blue"),  # base colours, display-referred, 0..1
    "hair_length",  # 0 none, 0.3 short, 0.5 jaw, 1 below the shoulders
    "hair_volume",
    "fringe",  # 1 where the hair falls over the forehead
    "beard",
    *("background_red", "background_green", "background_blue"),
    *("clothes_red", "clothes_green", "clothes_blue"),
    *("light_azimuth", "light_elevation"),  # radians, positive to the right and upwards
    *("light_strength", "light_warmth"),
    *("yaw", "pitch", "roll"),  # radians
    *("age", "masculinity", "weight"),  # -1..1 for weight, 0..1 for the others
    *("shape_a", "shape_b", "shape_c"),  # mixture of the mesh's three shape bases, sums to 1
    *("smile", "eyes_open"),
)
REGIONS: tuple[str, ...] = (
    *("background", "skin", "hair", "clothes", "eyes", "brows", "mouth", "beard"),
)
BACKGROUND, SKIN, HAIR, CLOTHES, EYES, BROWS, MOUTH, BEARD = range(len(REGIONS))

_TAG = 0x50FACE5  # keeps these random streams apart from those of other generators
_STREAMS = ("shape", "pose", "hair", "colours", "light", "background")
_BODY, _LEFT_EYE, _RIGHT_EYE, _LASHES, _TEETH, _HAIR = range(6)  # parts of the geometry
_SUPERSAMPLING = 2
_HUES = ("red", "green", "blue")

_EYE_DISTANCE = 0.24  # between the eyes, as a share of the central square
_EYE_HEIGHT = -0.045  # v of the point between them
_CAMERA = 12.0  # distance of the camera, in eye distances

_SKIN_TONES = np.array(
    [[72, 46, 36], [104, 67, 49], [145, 96, 70], [184, 131, 101], [219, 172, 143], [232, 194, 172]]
)
_HAIR_TONES = np.array(
    [[22, 18, 17], [40, 28, 22], [70, 46, 32], [105, 72, 46], [152, 112, 70], [205, 170, 115]]
)
_IRISES = np.array([[62, 36, 20], [95, 62, 32], [88, 96, 62], [92, 118, 138], [110, 120, 126]])
# The hairline: the polar angle (degrees from the top of the head) where hair ends, by azimuth
_HAIRLINE_AZIMUTH = (0, 30, 45, 56, 64, 70, 78, 88, 102, 120, 140, 180)
_HAIRLINE_POLAR = (56, 58, 62, 71, 84, 98, 100, 86, 86, 108, 122, 132)
# The beard's upper edge: height over distance from the middle, in dm from the eyes
_BEARD_WIDTH = (0, 0.2, 0.3, 0.42, 0.54, 0.62, 0.7)
_BEARD_UPPER = (-0.46, -0.47, -0.56, -0.62, -0.5, -0.3, 0.05)


class Rendered(NamedTuple):
    """Hold one image and its ground truth."""

    image: np.ndarray  # uint8 (3, height, width), RGB
    factors: np.ndarray  # float32 (len(FACTORS),)
    regions: np.ndarray  # uint8 (height, width), index into REGIONS


def render(
    index: int, height: int = 64, width: int = 64, changes: Mapping[str, float] | None = None
) -> Rendered:
    """Draw person `index`, or what they would look like with other values of some FACTORS.

    What a factor decided when the person was drawn stays as it was: a changed age changes the
    shape of the head, but turns no hair gray. Raises ValueError for a negative index, a side under
    16 pixels, unknown factors and values that are not finite.
    """
    if index < 0:
        raise ValueError(f"index is {index}; it must be 0 or more: count persons from 0.")
    if min(height, width) < 16:
        raise ValueError(
            f"the size is {height} x {width}; faces need at least 16 x 16 pixels: render larger "
            "and shrink the result."
        )
    head, traits = _head(), _draw_traits(index)
    traits |= {name: _single(value) for name, value in changed(FACTORS, changes).items()}
    scene = _build_scene(head, traits)
    size = height * _SUPERSAMPLING, width * _SUPERSAMPLING
    screen = _project(scene.positions, traits, *size)
    sample, triangle, weights, _ = rasterise(
        screen, scene.positions[:, 2], scene.triangles, *size, two_sided=scene.part == _HAIR
    )
    surface = _surface(scene, triangle, weights)
    albedo, region = _albedo(surface, head, traits)
    canvas = _background(traits, height, width)
    canvas[sample] = _display(_shade(surface, albedo, region, traits))
    regions = np.full(len(canvas), BACKGROUND, np.uint8)
    regions[sample] = region
    return Rendered(
        image=_resolve(canvas, height, width),
        factors=np.array([traits[name] for name in FACTORS], np.float32),
        regions=_dominant(regions, height, width),
    )


# ---- the head asset -------------------------------------------------------------------------


class _Head(NamedTuple):
    """Hold the head asset, with everything computed once that all images need."""

    positions: np.ndarray  # (vertices, 3); the skull's grid follows the mesh
    targets: np.ndarray  # (targets, vertices * 3)
    target: dict[str, int]  # name -> row of targets
    details: np.ndarray  # rows of targets that vary freely
    triangles: np.ndarray  # (triangles, 3)
    part: np.ndarray  # (triangles,)
    place: np.ndarray  # (mesh, 3): neutral position from the eyes; on an eye, direction from it
    masks: np.ndarray  # (mesh, 5): lips, ears, eyelids, inside of the mouth, openness
    eyes: tuple[np.ndarray, np.ndarray]  # vertices of each eye
    corners: tuple[np.ndarray, np.ndarray]  # triangles sorted by vertex, and where each begins
    skull_shape: tuple[int, int]
    skull_centre: np.ndarray  # (3,)


@functools.cache
def _head() -> _Head:
    """Load the head asset and precompute what all images need of it."""
    with np.load(ASSET) as file:
        asset = {name: file[name] for name in file.files}
    positions, part = asset["positions"], asset["part"]
    triangles = asset["triangles"].astype(np.intp)
    skull_shape = tuple(int(side) for side in asset["skull_shape"])
    mesh = len(positions) - skull_shape[0] * skull_shape[1]
    eyes = tuple(np.unique(triangles[part == side]) for side in (_LEFT_EYE, _RIGHT_EYE))
    between = np.mean([positions[eye].mean(0) for eye in eyes], 0)
    place = positions[:mesh] - between
    for eye in eyes:
        direction = positions[eye] - positions[eye].mean(0)
        place[eye] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    names = [str(name) for name in asset["names"]]
    macro = ("shape-", "weight-")
    details = [row for row, name in enumerate(names) if "-" in name and not name.startswith(macro)]
    order = np.argsort(triangles.ravel(), kind="stable")
    begins = np.searchsorted(triangles.ravel()[order], np.arange(mesh))
    return _Head(
        positions=positions,
        targets=asset["targets"].astype(np.float32).reshape(len(names), -1),
        target={name: row for row, name in enumerate(names)},
        details=np.array(details),
        triangles=triangles,
        part=part,
        place=place,
        masks=asset["masks"][:, :mesh].T.astype(np.float32) / 255,
        eyes=eyes,
        corners=(order // 3, begins),
        skull_shape=skull_shape,
        skull_centre=asset["skull_centre"] - between,
    )


# ---- the factors: everything random is drawn here, before anything depends on the size ---------


def _draw_traits(index: int) -> dict:
    """Draw all factors and textures of person `index`, each subject from its own random stream."""
    stream = {
        name: np.random.default_rng([_TAG, index, place]) for place, name in enumerate(_STREAMS)
    }
    traits = {
        **_draw_shape(stream["shape"]),
        **_draw_pose(stream["pose"]),
        **_draw_light(stream["light"]),
        **_draw_background(stream["background"]),
    }
    traits |= _draw_skin_and_clothes(stream["colours"], traits)
    traits |= _draw_hair(stream["hair"], traits)
    return {name: _single(value) for name, value in traits.items()}


def _draw_shape(rng) -> dict:
    shape_a, shape_b, shape_c = rng.dirichlet([0.5, 0.5, 0.5])
    return {
        "masculinity": np.clip((rng.random() < 0.5) + rng.normal(0, 0.12), 0, 1),
        "age": rng.beta(1.2, 2.4),
        "weight": np.clip(rng.normal(0, 0.4), -1, 1),
        "shape_a": shape_a,
        "shape_b": shape_b,
        "shape_c": shape_c,
        "smile": np.clip(rng.normal(0.45, 0.4), 0, 1),
        "teeth": rng.random(),
        "eyes_open": np.clip(rng.normal(0.65, 0.2), 0, 1),
        "brows_raised": np.clip(rng.normal(0.2, 0.3), -0.3, 0.9),
        "details": np.clip(rng.normal(0, 0.22, 96), 0, 0.6),
    }


def _draw_pose(rng) -> dict:
    yaw, pitch, roll = np.clip(rng.normal(0, [0.22, 0.07, 0.04]), -0.55, 0.55)
    zoom, shift_x, shift_y = rng.normal(0, [0.035, 0.01, 0.01])
    gaze = rng.normal(0, 0.08, 2)
    return {
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "zoom": np.exp(zoom),
        "shift": np.array([shift_x, shift_y]),
        "gaze": gaze,
    }


def _draw_light(rng) -> dict:
    return {
        "light_azimuth": rng.uniform(-1.15, 1.15),
        "light_elevation": np.clip(rng.normal(0.5, 0.25), -0.1, 1.1),
        "light_strength": rng.uniform(0.6, 1.15),
        "light_warmth": rng.normal(0, 0.08),
        "ambient": rng.uniform(0.3, 0.5),
        "ambient_tint": np.exp(rng.normal(0, 0.04, 3)),
    }


def _draw_background(rng) -> dict:
    shades, tints = rng.normal(0, 0.2, (6, 1)), rng.normal(0, 0.02, (6, 3))
    return {
        **_channels("background", _muted(rng)),
        "background_slope": rng.normal(0, 0.22, 2),
        "background_tint": rng.normal(0, 0.04, 3),
        "blob_centre": rng.uniform(-0.65, 0.65, (6, 2)),
        "blob_width": rng.uniform(0.08, 0.35, 6),
        "blob_gain": shades * (rng.random() < 0.6) + tints,
    }


def _draw_skin_and_clothes(rng, traits: dict) -> dict:
    return {
        "skin_tone": rng.beta(1.3, 1.0),
        "skin_warmth": rng.normal(0, 1),
        **_channels("clothes", _muted(rng)),
        "second_clothes": _muted(rng),
        "neckline": rng.choice(4, p=[0.45, 0.2, 0.15, 0.2]),  # crew, V, high, jacket
        "neckline_shift": rng.normal(0, 0.06),
        "iris": rng.random(),
        "lip_colour": rng.uniform(0, 1) * (1 - 0.7 * traits["masculinity"]),
        "cheek_colour": rng.uniform(0.05, 0.35),
    }


def _draw_hair(rng, traits: dict) -> dict:
    """Draw length and cut, then a natural colour: dark to blond, some red, grey with age."""
    masculine, age = traits["masculinity"], traits["age"]
    bald = rng.random() < 0.12 * (masculine > 0.5) * (0.4 + 1.6 * age)
    long = rng.random() < (0.78 if masculine < 0.5 else 0.08)
    length = rng.uniform(0.42, 1.0) if long else rng.uniform(0.12, 0.38)
    full = rng.random() < 0.14  # short and round
    volume = rng.uniform(0.1, 0.24) + (rng.uniform(0.1, 0.3) if full else 0.0)
    fringe = float(rng.random() < (0.35 if masculine < 0.5 else 0.2))
    darkness = rng.beta(0.9, 1.3) * np.interp(traits["skin_tone"], [0.15, 0.7], [0.25, 1.0])
    colour = _ramp(_HAIR_TONES, darkness) / 255
    redness = max(rng.normal(-0.25, 0.4), 0) * np.interp(darkness, [0, 0.4, 0.9], [0.2, 1, 0.3])
    colour = colour * (1 + redness * np.array([0.5, -0.15, -0.45]))
    grey = np.clip((age - rng.uniform(0.35, 0.8)) * 3, 0, 1)
    colour = colour + grey * (rng.uniform(0.45, 0.78) * np.array([1, 0.985, 0.96]) - colour)
    beard = rng.choice([0, 0.3, 0.9], p=[0.55, 0.25, 0.2]) * rng.uniform(0.6, 1) * (masculine > 0.5)
    return {
        "hair_length": 0.0 if bald else length,
        "hair_volume": 0.0 if bald else volume,
        "fringe": 0.0 if bald else fringe,
        **_channels("hair", np.clip(colour, 0.02, 0.95)),
        "beard": beard,
        "recession": np.clip(rng.normal(-0.3, 0.5) + 0.9 * age, 0, 1) * (masculine > 0.5),
        "hairline_shift": rng.normal(0, 0.05),
        "part": rng.choice([0.0, -0.32, 0.32]) + rng.normal(0, 0.03),
        "sides": rng.uniform(0.25, 1.0),
        "quiff": max(rng.normal(0, 0.1), 0),
        "curl": rng.beta(1, 2),
        "flare": rng.normal(0.06, 0.05),
        "tucked": float(rng.random() < 0.25),
        "opening": rng.uniform(0.9, 1.1),
        "texture": rng.uniform(0, 2 * np.pi, 12),
        "brow_height": rng.uniform(0.8, 1.2) * (0.85 + 0.35 * masculine),
        "brow_strength": rng.uniform(0.75, 1.0),
    }


# ---- the head: morph targets, then pose ---------------------------------------------------------


def _blend(head: _Head, traits: dict) -> np.ndarray:
    """Blend the person's head before posing: (vertices, 3) in dm from between the eyes."""
    weights = np.zeros(len(head.targets), np.float32)
    weights[head.details] = traits["details"][: len(head.details)]
    male, old, weight = traits["masculinity"], traits["age"], traits["weight"]
    by_weight = {"min": max(-weight, 0), "max": max(weight, 0), "average": 1 - abs(weight)}
    for sex, of_sex in (("female", 1 - male), ("male", male)):
        for age, of_age in (("young", 1 - old), ("old", old)):
            for letter in "abc":
                row = head.target[f"shape-{letter}-{sex}-{age}"]
                weights[row] = of_sex * of_age * traits[f"shape_{letter}"]
            for name, share in by_weight.items():
                weights[head.target[f"weight-{name}-{sex}-{age}"]] = of_sex * of_age * share
    smile = traits["smile"]
    open_smile = np.clip((smile - 0.5) * 2, 0, 1) * (traits["teeth"] > 0.4)
    expression = {
        "mouthSmile": 0.85 * smile,
        "mouthUpperUp": 0.55 * open_smile,
        "mouthLowerDown": 0.5 * open_smile,
        "jawOpen": 0.06 * open_smile,
        "cheekSquint": 0.3 * smile,
        "eyeBlink": 0.5 * max(0.45 - traits["eyes_open"], 0),
        "eyeWide": 0.5 * max(traits["eyes_open"] - 0.3, 0),
        "browInnerUp": max(traits["brows_raised"], 0),
        "browDown": max(-traits["brows_raised"], 0),
        "eye-scale-incr": 0.5,
        "eye-height2-incr": 0.35,
    }
    for name, amount in expression.items():
        weights[head.target[name]] += amount
    blended = head.positions + (weights @ head.targets).reshape(-1, 3)
    return blended - np.mean([blended[eye].mean(0) for eye in head.eyes], 0)


def _rotation(traits: dict) -> np.ndarray:
    """Return the rotation (3, 3) by yaw, then pitch, then roll, for row vectors on its left."""
    (cy, sy), (cp, sp), (cr, sr) = (
        (np.cos(traits[name]), np.sin(traits[name])) for name in ("yaw", "pitch", "roll")
    )
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (roll @ pitch @ yaw).T.astype(np.float32)


def _vertex_normals(head: _Head, positions: np.ndarray) -> np.ndarray:
    a, b, c = (positions[head.triangles[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    sorted_triangles, begins = head.corners
    return _unit(np.add.reduceat(normals[sorted_triangles], begins, axis=0))


# ---- the hair: sheets of strands grown over the skull -------------------------------------------


class _Sheet(NamedTuple):
    """Hold a surface woven of strands: its knots, and coordinates along and across strands."""

    knots: np.ndarray  # (strands, knots, 3)
    strand: np.ndarray  # (strands, knots): azimuth, the coordinate of the texture
    along: np.ndarray  # (strands, knots): 0 root .. 1 tip
    thin: np.ndarray  # (strands, knots): how much skin shows through, 0..1


def _direction(azimuth, polar) -> np.ndarray:
    """Return unit vectors.

    The azimuth runs from the front to the viewer's right, the polar angle from the top.
    """
    flat, up = np.sin(polar), np.cos(polar) + 0 * azimuth
    return np.stack([flat * np.sin(azimuth), up, flat * np.cos(azimuth)], -1)


def _hairline(azimuth: np.ndarray, traits: dict) -> np.ndarray:
    """Return the polar angle where hair ends, by height of forehead and receding temples."""
    side = np.degrees(np.abs(azimuth))
    polar = np.radians(np.interp(side, _HAIRLINE_AZIMUTH, _HAIRLINE_POLAR))
    front = _step(65 - side, 30)
    temples = np.exp(-(((side - 34) / 16) ** 2)) + 0.45 * np.exp(-((side / 26) ** 2))
    return polar + front * traits["hairline_shift"] - 0.3 * traits["recession"] * temples


def _on_skull(skull: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Interpolate the skull in the given directions, bilinearly in its (azimuths, polars) grid."""
    azimuths, polars = skull.shape[:2]
    azimuth = np.arctan2(direction[..., 0], direction[..., 2])
    polar = np.arccos(np.clip(direction[..., 1], -1, 1))
    column = (azimuth / (2 * np.pi) + 0.5) * azimuths
    row = np.clip(polar / np.radians(125) * (polars - 1), 0, polars - 1.001)
    left, top = np.floor(column).astype(int), row.astype(int)
    across, down = (column - left)[..., None], (row - top)[..., None]
    left, right = left % azimuths, (left + 1) % azimuths
    upper = skull[left, top] * (1 - across) + skull[right, top] * across
    lower = skull[left, top + 1] * (1 - across) + skull[right, top + 1] * across
    return upper * (1 - down) + lower * down


def _slerp(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Step on great circles from start to end, both (strands, 3): (strands, knots, 3)."""
    angle = np.arccos(np.clip((start * end).sum(-1), -1, 1))[:, None]
    before, after = np.sin((1 - share) * angle), np.sin(share * angle)
    return _unit(before[..., None] * start[:, None] + after[..., None] * end[:, None])


def _cap(skull: np.ndarray, traits: dict, strands=72, knots=18) -> _Sheet:
    """Grow short hair, from the whorl to the hairline, or over the forehead as a fringe."""
    azimuth = np.linspace(-np.pi, np.pi, strands)
    share = np.linspace(0, 1, knots)
    front = _step(58 - np.degrees(np.abs(azimuth)), 25)
    long = traits["hair_length"] > 0.4
    ends = _hairline(azimuth, traits)
    fringe_end = np.radians(70) + 0.05 * np.sin(3 * azimuth + traits["texture"][0])
    over_forehead = (traits["fringe"] > 0) & (np.abs(azimuth) < np.radians(60))
    ends = np.where(over_forehead, np.maximum(fringe_end, ends), ends)
    whorl = _direction(np.array(np.pi + 2 * traits["part"]), np.array(0.45))
    path = _slerp(np.broadcast_to(whorl, (strands, 3)), _direction(azimuth, ends), share)
    polar = np.degrees(np.arccos(np.clip(path[..., 1], -1, 1)))
    sides = 1 + (traits["sides"] - 1) * _step(polar - 62, 30) * (1 - front[:, None])
    swell = 1 - share**5
    ripple = 1 + 0.05 * np.sin(7 * azimuth + traits["texture"][1])[:, None]
    lift = traits["hair_volume"] * sides * swell * ripple + 0.014 * share
    quiff = traits["quiff"] * (1 - traits["fringe"]) * front[:, None]
    lift += quiff * np.exp(-(((share - 0.78) / 0.2) ** 2))
    lift += traits["fringe"] * front[:, None] * (0.035 + 0.02 * share)
    if long:  # it lies under the curtains
        lift = np.minimum(lift, 0.5 * traits["hair_volume"]) * 0.8
    return _Sheet(
        _on_skull(skull, path) + lift[..., None] * path,
        np.broadcast_to(azimuth[:, None], lift.shape),
        np.broadcast_to(0.7 * share, lift.shape),
        0.6 * (1 - traits["sides"]) * _step(polar - 68, 25) * (1 - front[:, None]) * (not long),
    )


def _curtain(skull: np.ndarray, traits: dict, side: int, strands=36, knots=26) -> _Sheet:
    """Grow long hair on one side (-1 or 1), from the parting over the skull, then straight down."""
    over = knots // 2
    spread = np.linspace(0, 1, strands) ** 1.3  # 0 beside the face .. 1 at the back
    opening = traits["opening"] + 0.6 * traits["tucked"]
    azimuth = side * (opening + (np.pi - opening) * spread)
    crown = _step(spread, 0.9)
    front = np.radians(56) + traits["hairline_shift"]
    forward = front * (1 - crown) - np.radians(28) * crown
    offset = np.tan(traits["part"]) * (1 - crown)
    roots = _unit(np.stack([offset, np.cos(forward), np.sin(forward)], -1))
    widest = np.radians(92) * np.ones(strands)
    share = np.linspace(0, 1, over)
    path = _slerp(roots, _direction(azimuth, widest), share)
    edge = 0.3 + 0.7 * _step(spread, 0.22)
    rise = 0.2 + 0.8 * _step(share, 0.75) - 0.2 * _step(0.12 - share, 0.12)
    rise = 0.035 + (0.1 + 1.1 * traits["hair_volume"]) * edge[:, None] * rise
    ripple = 1 + 0.07 * np.sin(9 * azimuth + traits["texture"][1])[:, None]
    on_skull = _on_skull(skull, path) + (rise * ripple)[..., None] * path
    length = np.interp(traits["hair_length"], [0.4, 0.55, 1.0], [0.9, 1.45, 2.9])
    length = length * (0.86 + 0.14 * _step(spread, 0.5)) * (1 + 0.03 * np.sin(14 * azimuth))
    fall = np.linspace(0, 1, knots - over + 1)[1:]
    drop = length[:, None] * fall
    hang = np.repeat(on_skull[:, -1:], len(fall), axis=1)
    waves = 0.1 * traits["curl"] * np.sin(5.5 * drop + 3 * np.abs(azimuth)[:, None])
    width = 1 + traits["flare"] * drop - 0.16 * fall**3 + waves * _step(drop, 0.6)
    hang = hang * np.stack([width, np.ones_like(width), width], -1)
    hang[..., 1] -= drop
    hang[..., 2] += 0.3 * _step(drop - 0.9, 1.0) * (1 - _step(spread, 0.5))[:, None]
    knots_at = np.concatenate([on_skull, hang], 1)
    along = np.linspace(0, 1, knots_at.shape[1])
    return _Sheet(
        knots_at if side > 0 else knots_at[::-1],
        np.broadcast_to(azimuth[:: 1 if side > 0 else -1, None], knots_at.shape[:2]),
        np.broadcast_to(along, knots_at.shape[:2]),
        np.zeros(knots_at.shape[:2]),
    )


def _hair_sheets(skull: np.ndarray, traits: dict) -> list[_Sheet]:
    sheets = []
    if 0 < traits["hair_length"] < 0.4 or (traits["hair_length"] > 0 and traits["fringe"]):
        sheets.append(_cap(skull, traits))
    if traits["hair_length"] >= 0.4:
        sheets += [_curtain(skull, traits, side) for side in (-1, 1)]
    return sheets


# ---- the scene: one soup of triangles with attributes -------------------------------------------


class _Scene(NamedTuple):
    positions: np.ndarray  # (vertices, 3), posed, in eye distances
    attributes: np.ndarray  # (vertices, 14): see _Surface
    triangles: np.ndarray  # (triangles, 3)
    part: np.ndarray  # (triangles,)


def _build_scene(head: _Head, traits: dict) -> _Scene:
    blended = _blend(head, traits)
    mesh = len(head.place)
    face = blended[:mesh]
    skull = blended[mesh:].reshape(*head.skull_shape, 3) - head.skull_centre
    covers_ears = traits["hair_length"] >= 0.4 and not traits["tucked"]
    if covers_ears:  # press the ears flat under the hair
        ears = head.masks[:, 1:2] * (np.abs(face[:, :1]) > 0.62)
        face = face + ears * np.array([1, 0, 0]) * (0.62 * np.sign(face[:, :1]) - face[:, :1])
    down = head.place - head.skull_centre
    tangent = _unit(np.cross(np.cross(down, [0, 1, 0]), down) + 1e-6)
    place = head.place.copy()  # clothes are cut level on the person, not on the neutral body
    place[:, 1] += _step(-1.1 - place[:, 1], 0.3) * (face[:, 1] - place[:, 1])
    pieces = [(face, _vertex_normals(head, face), place, head.masks, tangent)]
    triangles, part, start = [head.triangles], [head.part], mesh
    for sheet in _hair_sheets(skull, traits):
        along = np.gradient(sheet.knots, axis=1)
        across = np.gradient(sheet.knots, axis=0)
        flat = sheet.knots.reshape(-1, 3) + head.skull_centre
        place = np.stack([sheet.strand, sheet.along, sheet.thin], -1).reshape(-1, 3)
        masks = np.zeros((len(flat), 5))
        masks[:, 4] = 0.95 - 0.3 * np.clip(-flat[:, 1] - 0.3, 0, 1)
        normals = _unit(np.cross(along, across).reshape(-1, 3))
        pieces.append((flat, normals, place, masks, _unit(along.reshape(-1, 3))))
        triangles.append(start + _grid_triangles(*sheet.knots.shape[:2]))
        part.append(np.full(len(triangles[-1]), _HAIR, np.uint8))
        start += len(flat)
    position, normal, place, masks, tangent = (
        np.concatenate(piece).astype(np.float32) for piece in zip(*pieces, strict=True)
    )
    scale = 1 / np.linalg.norm(np.subtract(*(blended[eye].mean(0) for eye in head.eyes)))
    turn = _rotation(traits)
    return _Scene(
        positions=position @ turn * np.float32(scale),
        attributes=np.concatenate([normal @ turn, place, masks, tangent @ turn], 1),
        triangles=np.concatenate(triangles),
        part=np.concatenate(part),
    )


def _grid_triangles(strands: int, knots: int) -> np.ndarray:
    """Return both triangles of every cell of a (strands, knots) grid: (triangles, 3)."""
    first = (np.arange(strands - 1)[:, None] * knots + np.arange(knots - 1)).ravel()
    upper = np.stack([first, first + 1, first + knots], 1)
    lower = np.stack([first + 1, first + knots + 1, first + knots], 1)
    return np.concatenate([upper, lower])


# ---- the rasteriser ------------------------------------------------------------------------------


def _project(positions: np.ndarray, traits: dict, height: int, width: int) -> np.ndarray:
    """Project in perspective to (x, y) in samples, y down; the central square is the unit."""
    near = _CAMERA / (_CAMERA - positions[:, 2:])
    uv = positions[:, :2] * near * [1, -1] * _EYE_DISTANCE * traits["zoom"]
    uv = uv + traits["shift"] + [0, _EYE_HEIGHT]
    return (uv * min(height, width) + [width / 2, height / 2]).astype(np.float32)


def rasterise(
    screen: np.ndarray,
    depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
    two_sided: np.ndarray | bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rasterise triangles with a z-buffer over all (triangle, sample of its bounding box) pairs.

    `screen` (vertices, 2) is in samples with y down. `depth` (vertices,) is larger where it is
    nearer. `triangles` is (triangles, 3). Triangles that are not `two_sided` (triangles,) are
    dropped where they face away. Returns for each covered sample its position in the flattened
    image, its triangle, the barycentric weights (3, samples) and the depth.
    """
    (xa, ya), (xb, yb), (xc, yc) = (screen[corner].T for corner in triangles.T)
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)  # negative: faces the viewer
    left, right = (_first_sample(side, width) for side in _span(xa, xb, xc))
    top, bottom = (_first_sample(side, height) for side in _span(ya, yb, yc))
    shown = (area < 0) | ((area > 0) & two_sided)
    shown = np.flatnonzero(shown & (right > left) & (bottom > top))
    # From here on there is one row per pair. Each weight is affine in the sample's position.
    columns = (right - left)[shown]
    counts = columns * (bottom - top)[shown]
    owner = np.repeat(shown, counts)
    step = np.arange(len(owner), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
    down, across = np.divmod(step, np.repeat(columns, counts))
    column, row = left[owner] + across, top[owner] + down
    dx, dy = column + np.float32(0.5) - xa[owner], row + np.float32(0.5) - ya[owner]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.stack([yc - ya, xa - xc, ya - yb, xb - xa]) / area
    second = slopes[0][owner] * dx + slopes[1][owner] * dy
    third = slopes[2][owner] * dx + slopes[3][owner] * dy
    first = 1 - second - third
    inside = np.flatnonzero(np.minimum(np.minimum(first, second), third) >= -1e-5)
    owner, pixel = owner[inside], (row * width + column)[inside]
    weights = np.stack([first[inside], second[inside], third[inside]])
    nearness = (depth[triangles[owner]].T * weights).sum(0)
    front = np.full(height * width, -np.inf, nearness.dtype)
    np.maximum.at(front, pixel, nearness)
    nearest = np.flatnonzero(nearness == front[pixel])
    winner = np.full(height * width, -1)
    winner[pixel[nearest]] = nearest
    covered = np.flatnonzero(winner >= 0)
    chosen = winner[covered]
    return covered, owner[chosen], weights[:, chosen], nearness[chosen]


def _span(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)


def _first_sample(edge: np.ndarray, count: int) -> np.ndarray:
    """Return the index of the first sample centre at or beyond an edge, within the image."""
    return np.clip(np.ceil(edge - 0.5), 0, count).astype(np.int32)


# ---- the colours ---------------------------------------------------------------------------------


class _Surface(NamedTuple):
    """Hold the surface that is seen at every covered sample."""

    normal: np.ndarray  # (samples, 3), towards the viewer
    place: np.ndarray  # (samples, 3): body, dm from the eyes; eye, direction; hair, _Sheet's
    masks: np.ndarray  # (samples, 5)
    tangent: np.ndarray  # (samples, 3), along the hair
    part: np.ndarray  # (samples,)
    inner: np.ndarray  # (samples,) bool: the inner side of hair


def _surface(scene: _Scene, triangle: np.ndarray, weights: np.ndarray) -> _Surface:
    corners = scene.triangles[triangle]
    seen = sum(scene.attributes[corners[:, i]] * weights[i][:, None] for i in range(3))
    part = scene.part[triangle]
    normal = _unit(seen[:, :3])
    inner = (part == _HAIR) & (normal[:, 2] < 0)
    normal = np.where(inner[:, None], -normal, normal)
    return _Surface(normal, seen[:, 3:6], seen[:, 6:11], _unit(seen[:, 11:14]), part, inner)


def _paint(albedo: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    return albedo + amount[:, None] * (colour - albedo)


def _albedo(surface: _Surface, head: _Head, traits: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return base colour in linear light (samples, 3) and region (samples,) of every sample."""
    albedo = np.zeros_like(surface.normal)
    region = np.full(len(albedo), HAIR, np.uint8)
    body = np.flatnonzero(surface.part == _BODY)
    place, masks = surface.place[body], surface.masks[body]
    albedo[body], region[body] = _body_colour(place, masks, head, traits)
    for eye in (_LEFT_EYE, _RIGHT_EYE):
        of_eye = np.flatnonzero(surface.part == eye)
        albedo[of_eye] = _eye_colour(surface.place[of_eye], traits)
        region[of_eye] = EYES
    lashes, teeth = surface.part == _LASHES, surface.part == _TEETH
    albedo[lashes], region[lashes] = 0.02, EYES
    albedo[teeth], region[teeth] = _linear(np.array([0.9, 0.88, 0.82])), MOUTH
    hair = np.flatnonzero(surface.part == _HAIR)
    albedo[hair] = _hair_colour(surface.place[hair, 0], surface.place[hair, 1], traits)
    skin = 0.8 * _linear(_ramp(_SKIN_TONES, traits["skin_tone"]) / 255)
    albedo[hair] = _paint(albedo[hair], skin, surface.place[hair, 2])
    return albedo, region


def _body_colour(place, masks, head: _Head, traits: dict) -> tuple[np.ndarray, np.ndarray]:
    """Paint skin, then beard, lips, brows, scalp and clothes over it, each with a soft edge."""
    x, y, z = place.T
    wide = np.abs(x)
    lips, ears, lids, mouth, _ = masks.T
    skin = _linear(_ramp(_SKIN_TONES, traits["skin_tone"]) / 255)
    skin = skin * np.exp(0.05 * traits["skin_warmth"] * np.array([1, 0, -1.5]))
    hair = _linear(_colour(traits, "hair"))
    albedo = np.broadcast_to(skin, place.shape)
    region = np.full(len(place), SKIN, np.uint8)
    # Cheeks, nose and ears are redder.
    blush = np.exp(-(((wide - 0.42) / 0.2) ** 2) - ((y + 0.38) / 0.2) ** 2)
    blush += 0.7 * np.exp(-((x / 0.14) ** 2) - ((y + 0.42) / 0.14) ** 2) + 0.5 * ears
    albedo = _paint(albedo, skin * [1.0, 0.62, 0.6], traits["cheek_colour"] * blush * (z > -0.5))
    albedo = _paint(albedo, skin * [0.75, 0.6, 0.58], 0.6 * lids)
    beard = traits["beard"] * _beard_cover(wide, y, z) * (1 - np.clip(2 * lips, 0, 1))
    albedo = _paint(albedo, hair, beard)
    lip_colour = skin * [0.85, 0.42, 0.42] + traits["lip_colour"] * np.array([0.12, 0, 0.01])
    albedo = _paint(albedo, lip_colour, np.clip(1.3 * lips, 0, 1) * 0.85)
    albedo = _paint(albedo, np.array([0.06, 0.012, 0.01]), np.clip(1.5 * mouth, 0, 1))
    brow = traits["brow_strength"] * _brow_cover(wide, y, z, traits)
    albedo = _paint(albedo, hair * np.array([0.7, 0.55, 0.5]), brow)
    region[beard > 0.45] = BEARD
    region[brow > 0.4] = BROWS
    region[(lips > 0.4) | (mouth > 0.5)] = MOUTH
    offset = place - head.skull_centre
    azimuth = np.arctan2(offset[:, 0], offset[:, 2])
    polar = np.arccos(np.clip(offset[:, 1] / np.linalg.norm(offset, axis=1), -1, 1))
    if traits["hair_length"] > 0:
        hairline = _hairline(azimuth, traits)
        albedo = albedo * _contact_shadow(azimuth, polar - hairline, y, traits)[:, None]
        inside = _step(hairline - polar + 0.03, 0.09)
        scalp = inside * (1 - np.clip(2.5 * ears, 0, 1)) * (y > -1.0)
        texture = _hair_colour(azimuth, np.clip(polar / 2, 0, 1), traits)
        albedo = _paint(albedo, texture, scalp)
        region[scalp > 0.5] = HAIR
    first, second, trim = _clothes_cover(x, y, z, traits)
    cloth = _linear(_colour(traits, "clothes"))
    albedo = _paint(albedo, _linear(traits["second_clothes"]), second)
    albedo = _paint(albedo, cloth, first)
    albedo = albedo * (1 - 0.35 * trim)[:, None]
    region[np.maximum(first, second) > 0.5] = CLOTHES
    return albedo, region


def _contact_shadow(azimuth, under, y, traits) -> np.ndarray:
    """Return the gain of skin: darker just under the hairline or a fringe, and beside long hair.

    `under` is the angle below the hairline, in radians.
    """
    if traits["fringe"] > 0:
        under = np.where(np.abs(azimuth) < 1.05, under - 0.2, under)
    shadow = 0.3 * _step(0.14 - under, 0.14)
    if traits["hair_length"] >= 0.4 and not traits["tucked"]:
        beside = np.abs(azimuth) - traits["opening"] + 0.3
        shadow = np.maximum(shadow, 0.45 * _step(beside, 0.35) * (y > -1.1))
    return 1 - shadow


def _beard_cover(wide, y, z) -> np.ndarray:
    """Return where a beard grows: under a line from sideburns to nose, down to the throat."""
    upper = np.interp(wide, _BEARD_WIDTH, _BEARD_UPPER)
    under = _step(upper - y, 0.11)
    throat = _step(y + 1.3 + 0.25 * z, 0.2)
    return under * throat * _step(z + 0.95, 0.3)


def _brow_cover(wide, y, z, traits) -> np.ndarray:
    """Return where brows grow: two arcs over the eyes, thicker towards the nose."""
    arc = 0.225 + 0.05 * np.sin(np.clip((wide - 0.1) / 0.5, 0, 1) * np.pi * 0.8)
    thick = 0.034 * traits["brow_height"] * np.interp(wide, [0.1, 0.3, 0.58], [1.0, 1.0, 0.45])
    ends = _step(wide - 0.09, 0.08) * _step(0.60 - wide, 0.12)
    return ends * np.exp(-(((y - arc) / thick) ** 2)) * (z > -0.9)


def _clothes_cover(x, y, z, traits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cover of the main garment, of the one under it, and of the dark neckline trim."""
    wide = np.abs(x)
    front = _step(z + 1.7, 0.9)
    shoulders = 0.42 * _step(wide - 0.35, 0.5)
    round_neck = shoulders - 1.44 - 0.14 * front
    vee = shoulders - 1.38 - front * np.clip(0.6 - 1.2 * wide, 0, 0.6)
    high = shoulders - 1.28 - 0.1 * front
    style = traits["neckline"]
    line = (round_neck, vee, high, vee - 0.05)[int(style)] + traits["neckline_shift"]
    below = line - y
    first = _step(below + 0.01, 0.02)
    second = _step(round_neck - y, 0.02) if style == 3 else np.zeros_like(first)
    trim = np.exp(-(((below - 0.05) / 0.025) ** 2)) * first
    return first, second * (1 - first), trim


def _eye_colour(direction: np.ndarray, traits: dict) -> np.ndarray:
    """Colour the eye: white, iris with a dark rim, and pupil.

    `direction` (samples, 3) points from the eye's centre.
    """
    gaze = _unit(np.array([*traits["gaze"], 1.0]))
    angle = np.arccos(np.clip(_unit(direction) @ gaze, -1, 1))
    lightness = traits["iris"] * (1.0 if traits["skin_tone"] > 0.45 else 0.15)
    iris = _linear(_ramp(_IRISES, lightness) / 255)
    colour = np.broadcast_to(_linear(np.array([0.93, 0.91, 0.89])), direction.shape)
    colour = _paint(colour, iris * 0.35, _step(0.53 - angle, 0.06))
    colour = _paint(colour, iris * 1.25, _step(0.46 - angle, 0.08))
    colour = _paint(colour, np.full(3, 0.004), _step(0.235 - angle, 0.05))
    shade = 1 - 0.55 * _step(direction[:, 1] - 0.12, 0.3)  # under the upper lid
    return colour * shade[:, None]


def _hair_colour(strand, along, traits: dict) -> np.ndarray:
    """Colour hair with lighter and darker strands and darker roots: (samples, 3)."""
    phase = traits["texture"]
    drift = 0.5 * np.sin(5 * along + phase[2])
    drift += 0.5 * traits["curl"] * np.sin(16 * along + 3 * strand)
    tone = 0.07 * np.sin(11 * strand + phase[3] + 2 * drift)
    tone += 0.10 * np.sin(26 * strand + phase[4] + 3 * drift)
    tone += 0.09 * np.sin(47 * strand + phase[5] + 4 * drift)
    tone += 0.08 * np.sin(83 * strand + phase[6] + 5 * drift)
    tone += 0.2 * traits["curl"] * np.sin(34 * along + 2 * drift) * np.sin(21 * strand + phase[7])
    gain = np.exp(1.5 * tone) * (0.8 + 0.25 * _step(along, 0.5))
    return _linear(_colour(traits, "hair")) * gain[:, None]


# ---- the light -----------------------------------------------------------------------------------


def _shade(surface: _Surface, albedo, region, traits: dict) -> np.ndarray:
    """Shade by one warm or cool key light, wrapped softly, with ambient light and highlights."""
    azimuth, elevation = traits["light_azimuth"], traits["light_elevation"]
    toward = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        np.float32,
    )
    half = _unit(toward + [0, 0, 1]).astype(np.float32)
    key = 1.15 * traits["light_strength"] * np.exp(traits["light_warmth"] * np.array([1, 0.15, -1]))
    ambient = 1.0 * traits["ambient"] * traits["ambient_tint"]
    normal, openness = surface.normal, surface.masks[:, 4]
    is_eye = (surface.part == _LEFT_EYE) | (surface.part == _RIGHT_EYE)
    openness = np.where(is_eye, 0.8, openness)
    openness = np.where(surface.inner, 0.6, openness)
    openness = np.where(surface.part == _TEETH, 0.65, openness)
    hair = region == HAIR
    if traits["hair_length"] >= 0.4:  # the hair shades the neck
        neck = (surface.part == _BODY) & (region == SKIN)
        openness = openness * (1 - 0.35 * neck * _step(-surface.place[:, 1] - 0.9, 0.4))
    facing = (normal @ toward)[:, None]
    wrap = np.where(hair[:, None], 0.35, np.array([0.30, 0.18, 0.14]))
    diffuse = np.clip((facing + wrap) / (1 + wrap), 0, None)
    shadow = (0.25 + 0.75 * _step(openness - 0.15, 0.6))[:, None]
    sky = (0.75 + 0.25 * normal[:, 1:2]) * (0.8 + 0.2 * normal[:, 2:]) * openness[:, None]
    light = albedo * (diffuse * shadow * key + sky * ambient)
    gloss = np.clip(normal @ half, 0, None)
    sheen = 1 - np.clip(surface.tangent @ half - 0.18, -1, 1) ** 2  # hair scales are tilted
    hair_shine = 0.06 * np.clip(sheen, 0, 1) ** 24 * np.clip(facing[:, 0] + 0.3, 0, 1)
    shine = np.where(hair, hair_shine, 0.05 * gloss**14)
    shine = np.where(is_eye, 0.9 * gloss**150, shine)
    matt = (region == CLOTHES) | (region == BROWS) | (region == BEARD) | surface.inner
    shine = np.where(matt, 0, shine)
    tint = np.where(hair[:, None], 0.4 + 3 * albedo, 1.0)
    return light + (shine * shadow[:, 0])[:, None] * tint * key


# ---- the background and the composite ------------------------------------------------------------


def _background(traits: dict, height: int, width: int) -> np.ndarray:
    """Draw a colour with a slope and a few soft blobs: display colours (samples, 3)."""
    side = min(height, width)
    v = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / side)[:, None]
    u = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / side)[None]
    slope = traits["background_slope"]
    tone = (slope[0] * u + slope[1] * v)[..., None] * (1 + 3 * traits["background_tint"])
    for (x, y), size, gain in zip(
        traits["blob_centre"], traits["blob_width"], traits["blob_gain"], strict=True
    ):
        bump_u, bump_v = np.exp(-(((u - x) / size) ** 2)), np.exp(-(((v - y) / size) ** 2))
        tone += (bump_u * bump_v)[..., None] * gain
    base = _colour(traits, "background")
    canvas = np.clip(base * (1 + 0.8 * tone) + 0.25 * tone, 0.01, 0.98)
    samples = canvas.repeat(_SUPERSAMPLING, axis=0).repeat(_SUPERSAMPLING, axis=1)
    return samples.reshape(-1, 3)


def _resolve(canvas: np.ndarray, height: int, width: int) -> np.ndarray:
    """Average the samples of each pixel: uint8 (3, height, width)."""
    mean = sum(_samples_of_pixels(canvas, height, width)) / _SUPERSAMPLING**2
    return np.round(mean * 255).astype(np.uint8).transpose(2, 0, 1)


def _dominant(regions: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the commonest region among each pixel's samples; ties go to the first region."""
    samples = _samples_of_pixels(regions, height, width)
    votes = [
        sum((sample == region).view(np.uint8) for sample in samples)
        for region in range(len(REGIONS))
    ]
    return np.argmax(votes, axis=0).astype(np.uint8)


def _samples_of_pixels(samples: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Split into the images of every pixel's first sample, second sample, and so on."""
    grid = samples.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, *samples.shape[1:])
    return [grid[:, i, :, j] for i in range(_SUPERSAMPLING) for j in range(_SUPERSAMPLING)]


# ---- small helpers -------------------------------------------------------------------------------


def _single(value):
    """Convert to a Python number or a float32 array, which keep float32 arithmetic in float32."""
    return np.asarray(value, np.float32) if np.ndim(value) else float(value)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.sqrt(np.einsum("...i,...i", vectors, vectors))[..., None] + 1e-9)


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """Step smoothly from 0 to 1 while the distance goes from 0 to the width."""
    share = np.clip(distance / width, 0, 1)
    return share * share * (3 - 2 * share)


def _linear(display: np.ndarray) -> np.ndarray:
    return np.asarray(display, np.float32) ** 2.2


def _display(linear: np.ndarray) -> np.ndarray:
    """Apply gamma; highlights roll off smoothly from 0.5 instead of clipping at 1."""
    linear = np.maximum(linear, 0)
    rolled = 1 - 0.5 * np.exp(1 - 2 * np.maximum(linear, 0.5))
    return np.where(linear < 0.5, linear, rolled) ** (1 / 2.2)


def _ramp(table: np.ndarray, position: float) -> np.ndarray:
    """Interpolate the rows of a table at a position in 0..1."""
    rows = np.linspace(0, 1, len(table))
    return np.array([np.interp(position, rows, column) for column in table.T], np.float32)


def _channels(name: str, colour: np.ndarray) -> dict:
    """Split a colour into three named traits; `_colour` puts them together again."""
    return {f"{name}_{hue}": value for hue, value in zip(_HUES, colour, strict=True)}


def _colour(traits: dict, name: str) -> np.ndarray:
    return np.array([traits[f"{name}_{hue}"] for hue in _HUES], np.float32)


def _muted(rng) -> np.ndarray:
    """Draw a colour of any hue and lightness, less saturated if lighter: (3,) in 0..1."""
    hue, value = rng.random(), rng.uniform(0.08, 0.95)
    saturation = rng.beta(1.2, 2.0) * (0.85 - 0.5 * value)
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 + saturation * (ramp - 1))
