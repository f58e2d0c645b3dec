"""Write data/assets/brain.npz, the template slab behind sos.datasets.brains.

Source: the ICBM 152 2009a nonlinear symmetric template (T1, gray- and white-matter maps, brain
extracted, 1 mm) as shipped in the nilearn 0.14.1 wheel. Its notice, BRAIN_LICENCE.txt, must stay
beside the asset. Needed once, with nibabel, which is no run-time dependency:

    unzip nilearn-0.14.1-py3-none-any.whl -d wheel
    python data/build_brain_asset.py wheel
"""

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

ASSET = Path(__file__).resolve().parent / "assets" / "brain.npz"
SLAB_MM = (-12, 42)  # heights above the anterior commissure that a tilted, warped slice can reach
PAD = 2  # empty voxels kept around the brain, so that clamped look-ups outside it read zero
VENTRICLE_BOX_MM = ((-46, 46), (-62, 46), (-12, 42))  # x, y, z limits of the lateral ventricles
CISTERN_BOX_MM = ((-15, 15), (-70, -27), (-12, 13))  # fluid behind the third ventricle, left out
RIM_MM = 3  # the ventricle map includes the partial-volume voxels this near


def read_map(wheel: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One template map (x, y, z), uint8, and the voxel index of the origin of its millimetres."""
    import nibabel

    folder = wheel / "nilearn" / "datasets" / "data"
    image = nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    assert np.array_equal(image.affine[:3, :3], np.eye(3)), "expected 1 mm voxels, axes aligned"
    return np.asarray(image.dataobj), -image.affine[:3, 3].astype(int)


def in_box(shape: tuple, origin: np.ndarray, box_mm: tuple) -> np.ndarray:
    """Boolean volume, true inside a box given in millimetres."""
    inside = np.zeros(shape, bool)
    limits = np.array(box_mm) + np.array(origin)[:, None] + [0, 1]
    inside[tuple(slice(*pair) for pair in limits)] = True
    return inside


def ventricle_map(fluid: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The part of the fluid map (x, y, z) that belongs to the two lateral ventricles."""
    allowed = in_box(fluid.shape, origin, VENTRICLE_BOX_MM)
    allowed &= ~in_box(fluid.shape, origin, CISTERN_BOX_MM)
    labels, _ = ndimage.label((fluid > 128) & allowed)
    left, right = (labels[tuple(np.add(origin, (x, 12, 16)))] for x in (-9, 9))
    assert left and right, "expected fluid at the frontal horns"
    core = np.isin(labels, (left, right))
    return np.where(ndimage.binary_dilation(core, iterations=RIM_MM), fluid, 0)


def main(wheel: Path) -> None:
    (t1, origin), (gray, _), (white, _) = (read_map(wheel, name) for name in ("t1", "gm", "wm"))
    brain = np.where(t1 > 0, 255, 0)
    fluid = np.clip(brain - gray.astype(int) - white, 0, 255)
    maps = np.stack([brain, gray, white, ventricle_map(fluid, origin), t1]).astype(np.uint8)

    slab = slice(SLAB_MM[0] + origin[2], SLAB_MM[1] + origin[2] + 1)
    columns, rows = (np.flatnonzero(brain[:, :, slab].any(axis=axes)) for axes in ((1, 2), (0, 2)))
    crop = [slice(found[0] - PAD, found[-1] + PAD + 1) for found in (columns, rows)]
    maps = maps[:, crop[0], crop[1], slab]
    origin = origin - [crop[0].start, crop[1].start, slab.start]

    names = np.array(["brain", "gray", "white", "ventricles", "t1"])
    np.savez_compressed(ASSET, maps=maps, names=names, origin=origin.astype(np.int16))
    print(f"{ASSET}: maps {maps.shape}, origin {origin}, {ASSET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
