"""Axial T1 brain slices of UK Biobank, or of any brains in MNI space.

A folder of brain-extracted volumes (.nii.gz, .nii) in MNI space, of which one slice each is taken,
or of ready slices (PNG and the like). Access to UK Biobank needs an approved application.
"""

import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from sos.config import Data
from sos.datasets import folder

VOLUMES = (".nii.gz", ".nii")
SLICE_MM = 16.0  # height of the slice above the anterior commissure, as of the simulated brains
# The field of view of the ICBM 152 template, whose axial planes are the paper's 233x197 pixels:
# from the back of the head to the front, and from left to right.
Y_MM, X_MM = (-134.0, 98.0), (-98.0, 98.0)
UNREADABLE = (OSError, EOFError, ValueError, TypeError, zlib.error)  # of damaged volumes
PERCENTILE = 99.5  # of the brain's intensities: becomes white, what is brighter is clipped
HELP = (
    "The place may hold brain-extracted T1 volumes in MNI space (.nii.gz, .nii), or ready slices "
    "(.png and the like), in folders of any depth. UK Biobank gives access on application "
    "(ukbiobank.ac.uk); or run the same profile with --data simulated"
)


@cache
def scan(place: str) -> tuple[Path, ...]:
    """All volumes, or else all slices, below `place`, in a fixed random order.

    Looked for once per process. Raises FileNotFoundError.
    """
    root = Path(place).expanduser()
    files = sorted(f for f in root.rglob("*") if f.is_file()) if root.is_dir() else []
    volumes = [f for f in files if f.name.lower().endswith(VOLUMES)]
    found = volumes or [f for f in files if f.suffix.lower() in folder.SUFFIXES]
    if len(found) < folder.FEWEST:
        kind = "volumes" if volumes else "volumes or slices"
        raise FileNotFoundError(
            f"brain slices: {len(found)} {kind} found in {root.absolute()}; at least "
            f"{folder.FEWEST} are needed. {HELP}"
        )
    return folder.shuffled(found)


def files(data: Data, split: str) -> Sequence[Path]:
    """The files of a split: disjoint shares, at most `data.<split>` long."""
    return folder.share(scan(data.folder), data, split)


def fingerprint(data: Data, split: str) -> str:
    """Twelve hexadecimal digits of names and sizes, wherever the data lie."""
    return folder.digits([(f.name, f.stat().st_size) for f in files(data, split)])


def read(file: Path, data: Data) -> np.ndarray:
    """One slice (1, H, W) as uint8, the front of the head above. Raises ValueError naming it."""
    if not file.name.lower().endswith(VOLUMES):
        return folder.read(file, data)
    return folder.fitted(Image.fromarray(axial(file)), data)


def axial(file: Path) -> np.ndarray:
    """The slice of a volume as uint8 (233, 197) at 1 mm, by linear interpolation in MNI space.

    Black is zero, white the 99.5th percentile of the volume's positive values.
    """
    import nibabel
    from scipy import ndimage

    try:
        image = nibabel.load(file)
        volume = np.asarray(image.dataobj, dtype=np.float32)
        to_voxels = np.linalg.inv(image.affine)
    except (nibabel.filebasedimages.ImageFileError, *UNREADABLE) as error:
        raise ValueError(f"{file} cannot be read as a volume ({error}): remove it") from error
    volume = volume[..., 0] if volume.ndim == 4 and volume.shape[3] == 1 else volume
    if volume.ndim != 3:
        raise ValueError(f"{file} has the shape {volume.shape}; expected one volume (x, y, z)")
    brain = volume[np.isfinite(volume) & (volume > 0)]
    if not len(brain):
        raise ValueError(f"{file} holds no positive values: is it a brain-extracted T1 volume?")
    y, x = np.arange(Y_MM[1], Y_MM[0] - 1, -1), np.arange(X_MM[0], X_MM[1] + 1)
    rows, columns = np.meshgrid(y, x, indexing="ij")
    points = np.stack([columns, rows, np.full_like(rows, SLICE_MM), np.ones_like(rows)])
    voxels = np.tensordot(to_voxels, points, 1)[:3]
    plane = ndimage.map_coordinates(np.nan_to_num(volume), voxels, order=1)
    if not plane.any():
        raise ValueError(
            f"{file} is empty {SLICE_MM:g} mm above the origin: is it registered to MNI space?"
        )
    white = np.percentile(brain, PERCENTILE)
    return np.rint(255 * (plane / white).clip(0, 1)).astype(np.uint8)


def describe(data: Data) -> str:
    """One line that says what is read and what is done to it."""
    found = scan(data.folder)
    what = "volumes" if found[0].name.lower().endswith(VOLUMES) else "slices"
    counts = ", ".join(f"{len(files(data, split))} {split}" for split in folder.SHARES)
    return f"brains in {data.folder}, {len(found)} {what}: {counts}"
