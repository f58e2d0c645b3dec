"""Read axial T1 brain slices of UK Biobank, or of any brains in MNI space.

The folder holds brain-extracted volumes (.nii.gz, .nii) in MNI space, from each of which one slice
is taken, or ready slices (PNG and the like). Access to UK Biobank needs an approved application.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from sos.config import Data
from sos.datasets import folder
from sos.datasets.files import digests, digits, listed, shuffled, together
from sos.datasets.files import walk as files_below

VOLUMES = (".nii.gz", ".nii")
SLICE_MM = 16.0  # height of the slice above the anterior commissure, as in the simulated brains
# The field of view of the ICBM 152 template, whose axial planes are the paper's 233x197 pixels:
# from the back of the head to the front, and from left to right.
Y_MM, X_MM = (-134.0, 98.0), (-98.0, 98.0)
FEWEST = 20  # with fewer volumes or slices nothing can be learnt
PERCENTILE = 99.5  # of the brain's intensities; it becomes white, and brighter values are clipped
RINGING = 0.1  # share of white that resampling can leave below zero at most
BACKGROUND = 0.1  # least share of a volume's voxels that makes their value the background
FAR = 5  # a background this many ranges of the brain below it is a mark, not an intensity
PACKED = 1100  # slightly above gzip's largest ratio; a header that claims more is wrong
HELP = (
    "The place may hold brain-extracted T1 volumes in MNI space (.nii.gz, .nii), or ready slices "
    "(.png and the like), in folders of any depth. UK Biobank gives access on application "
    "(ukbiobank.ac.uk); or run the same profile with --data simulated"
)


def _word(words: str) -> re.Pattern:
    """Compile a pattern for any of the words, set off by separators, within a file's name."""
    return re.compile(rf"(?:^|[_.\-])(?:{words})(?:[_.\-\d]|$)", re.IGNORECASE)


# How UK Biobank, BIDS, fMRIPrep, FSL, FreeSurfer and the HCP name kinds of volumes.
SEGMENTATIONS = _word(
    r"mask|b?mask|(?:d|pve|brain)?seg|(?:prob|c|aparc\+a|a)seg|prob|pve(?:seg)?|label\w*|parc|"
    r"aparc\w*|wmparc|ribbon|mixeltype|first|firstseg|lesions?|roi|atlas|dkt?\w*"
)
TRANSFORMS = _word(r"warp|\w*warp|xfm|jac|jacobian\w*|field|\w*coeff?|displacement|bias\w*")
MODALITIES = _word(r"t2w?|flair|pd|pdw|bold|dwi|dti|swi|tof|rest|asl|fa|md|t2star\w*|t2_flair")
T1 = _word(r"t1w?|mprage|mp2rage|t1_\w+")
MNI = re.compile(r"to_?mni|mni152|space-mni|_mni|mninonlinear", re.IGNORECASE)
BRAIN = re.compile(r"brain|bet|skullstrip|extracted", re.IGNORECASE)
# A person in a path: sub-… in BIDS, seven digits in UK Biobank, a folder of six in the HCP.
PERSON = re.compile(r"sub-[0-9a-zA-Z]+|(?<!\d)\d{7}(?=_\d+_\d)|(?<=/)\d{6}(?=/)")
SCAN = re.compile(r"ses-[0-9a-zA-Z]+|(?<=\d{7})_\d+_\d+_\d+")  # one of a person's scans


def _rank(name: str) -> int:
    """Rank a volume by its name: being in MNI space counts more than being brain-extracted."""
    return 2 * bool(MNI.search(name)) + bool(BRAIN.search(PurePath(name).name))


def choose(names: Sequence[str]) -> tuple[list[list[str]], Counter]:
    """Choose brain volumes by their paths alone; return them by person, and counts of the rest.

    Masks, segmentations and warps are left out, and so are other contrasts where there are T1
    volumes. Of each scan the one volume is kept that is most surely a brain in MNI space. A scan
    without a volume as good as those of most scans is left out.
    """
    left_out = Counter()
    kinds = {"masks and segmentations": SEGMENTATIONS, "warps and fields": TRANSFORMS}
    if any(T1.search(PurePath(name).name) for name in names):
        kinds["other contrasts"] = MODALITIES
    scans = defaultdict(list)
    for name in names:
        what = next((k for k, p in kinds.items() if p.search(PurePath(name).name)), None)
        if what:
            left_out[what] += 1
            continue
        person = PERSON.search(f"/{name}")
        visit = SCAN.search(f"/{name}")
        key = (person.group(), visit and visit.group()) if person else (name, None)
        scans[key].append(name)
    best = {key: max(map(_rank, found)) for key, found in scans.items()}
    usual = max(Counter(best.values()).items(), key=lambda pair: pair[::-1], default=(0, 0))[0]
    people = defaultdict(list)
    for (person, _), found in scans.items():
        top = max(map(_rank, found))
        if top < usual:
            left_out["scans without a volume like the others'"] += len(found)
            continue
        people[person].append(min(name for name in found if _rank(name) == top))
        left_out["other volumes of the same scans"] += len(found) - 1
    return list(people.values()), left_out


@cache
def survey(place: str) -> folder.Survey:
    """Find all volumes, or else all slices, below `place`, once per process.

    Raises FileNotFoundError where there are too few.
    """
    root = Path(place).expanduser()
    everything, broken = files_below(root) if root.is_dir() else ([], 0)
    volumes = [file for file in everything if file.name.lower().endswith(VOLUMES)]
    slices = [] if volumes else [f for f in everything if folder.is_picture(f)]
    by_name = {file.relative_to(root).as_posix(): file for file in volumes or slices}
    people, left_out = choose(list(by_name)) if volumes else (_people(by_name), Counter())
    found = sum(map(len, people))
    notes = {f"{what} left out": count for what, count in left_out.items()}
    if found < FEWEST:
        kind = "brain volumes" if volumes else "volumes or slices"
        raise FileNotFoundError(
            f"brain slices: {found} {kind} found in {root.absolute()}{listed(notes)}; at least "
            f"{FEWEST} are needed. {HELP}"
        )
    groups, copies = together([tuple(by_name[name] for name in names) for names in people])
    notes |= {"copies of others, in one split with them": copies, "links to nothing": broken}
    return folder.Survey(shuffled(groups), notes)


def _people(names: Sequence[str]) -> list[list[str]]:
    """Group the names of slices by person."""
    people = defaultdict(list)
    for name in names:
        person = PERSON.search(f"/{name}")
        people[person.group() if person else name].append(name)
    return list(people.values())


def scan(place: str) -> tuple[Path, ...]:
    """Return all volumes, or else all slices, below `place`, in a fixed random order of people."""
    return survey(place).files


def files(data: Data, split: str) -> Sequence[Path]:
    """Return the files of a split: a disjoint share of people, at most `data.<split>` files."""
    return survey(data.folder).split(split, getattr(data, split))


def cache_key(data: Data, split: str) -> str:
    """Return twelve hexadecimal digits of the content of a split's files, wherever they lie."""
    return digits(digests(files(data, split)))


def read(file: Path, data: Data) -> np.ndarray:
    """Read one slice (1, H, W) as uint8, with the front of the head at the top.

    Raises ValueError that names the file.
    """
    if not file.name.lower().endswith(VOLUMES):
        return folder.read(file, data)
    return folder.fitted(Image.fromarray(axial(file)), data)


def axial(file: Path) -> np.ndarray:
    """Cut the slice out of a volume by linear interpolation in MNI space.

    Returns uint8 (233, 197) at 1 mm. The background becomes black, and the 99.5th percentile of the
    values above it becomes white. Raises ValueError that names the file and says what to do.
    """
    from scipy import ndimage

    volume, affine = _load(file)
    volume = _above_background(volume, file)
    brain = volume[volume > 0]
    if not len(brain):
        raise ValueError(f"{file} holds no positive values: is it a brain-extracted T1 volume?")
    y, x = np.arange(Y_MM[1], Y_MM[0] - 1, -1), np.arange(X_MM[0], X_MM[1] + 1)
    rows, columns = np.meshgrid(y, x, indexing="ij")
    points = np.stack([columns, rows, np.full_like(rows, SLICE_MM), np.ones_like(rows)])
    voxels = np.tensordot(np.linalg.inv(affine), points, 1)[:3]
    plane = ndimage.map_coordinates(volume, voxels, order=1)
    if not plane.any():
        raise ValueError(
            f"{file} is empty {SLICE_MM:g} mm above the origin: is it registered to MNI space?"
        )
    white = np.percentile(brain, PERCENTILE)
    return np.rint(255 * (plane / white).clip(0, 1)).astype(np.uint8)


def _load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Load a volume (x, y, z) in float32 and its affine. Raises ValueError for unusable files."""
    import nibabel

    try:
        image = nibabel.load(file)
        shape, kind = image.shape, image.get_data_dtype()
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(f"it has the shape {image.shape}; expected one volume (x, y, z)")
        if kind.kind not in "iuf":
            raise ValueError(f"its values are {kind}; expected one number for each voxel")
        packed = PACKED if file.name.lower().endswith(".gz") else 1
        if math.prod(shape) * kind.itemsize > packed * file.stat().st_size:
            raise ValueError(f"its header claims {shape} voxels, which the file cannot hold")
        codes = [image.header[name] for name in ("qform_code", "sform_code")]
        if not any(codes):
            raise ValueError(
                "its header does not say how it lies in space (qform_code and sform_code are 0), "
                "so that no slice of it is known; register it to MNI space, or copy the header of "
                "the volume that it was made from"
            )
        if abs(np.linalg.det(image.affine)) < 1e-9:
            raise ValueError("its affine is singular")
        volume = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
        return volume, image.affine
    except Exception as error:  # whatever nibabel raises concerns this file alone
        raise ValueError(
            f"{file} cannot be read as a volume ({error}): mend or remove it"
        ) from error


def _above_background(volume: np.ndarray, file: Path) -> np.ndarray:
    """Move the background of a volume to zero; values may be scaled to [-1, 1] or z-scored.

    Raises ValueError where half of a brain lies below zero, because then nothing tells what was
    black.
    """
    missing = ~np.isfinite(volume)
    low = volume[~missing].min(initial=0) if missing.any() else volume.min()
    volume = np.where(missing, low, volume)
    at_low, at_zero = (np.count_nonzero(volume == value) for value in (low, 0))
    if volume.size > at_low >= max(BACKGROUND * volume.size, at_zero):
        dark, bright = np.percentile(volume[volume > low], [1, 99])
        if dark - low <= FAR * (bright - dark):
            return volume - low
        volume = np.where(volume == low, 0, volume)  # a mark that only says that here is no brain
        low = volume.min()
    above = volume[volume > 0]
    if low < 0 and (not len(above) or -low > RINGING * np.percentile(above, PERCENTILE)):
        raise ValueError(
            f"{file} has values from {low:.3g} to {volume.max():.3g} around a background of zero, "
            f"as z-scored brains have, of which nothing tells what black is: give the volume from "
            f"before that step, or add a constant to its brain that makes it positive"
        )
    return volume.clip(0)


def describe(data: Data) -> str:
    """Describe in one line what is read and what is done to it."""
    found = survey(data.folder)
    what = "volumes" if found.files[0].name.lower().endswith(VOLUMES) else "slices"
    counts = ", ".join(f"{len(files(data, split))} {split}" for split in folder.SHARES)
    people = f" of {len(found.groups)} people" if len(found.groups) < len(found.files) else ""
    notes = listed(found.notes)
    return f"brains in {data.folder}, {len(found.files)} {what}{people}: {counts}{notes}"
