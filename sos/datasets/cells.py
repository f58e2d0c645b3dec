"""Electroluminescence images of solar cells, 300x300 and gray, from the package `elpv-dataset`.

Models are trained and tested on cells that experts labelled sound; the others, with a probability
of a defect above zero, are a split of their own, "defective". The package names no modules, and
cells of one module lie in several splits, so that models may know a module from other cells of it.

The images are under CC BY-NC-SA 4.0: Buerhop-Lutz et al., "A Benchmark for Visual Identification of
Defective Solar Cells in Electroluminescence Imagery", 2018; Deitsch et al., "Segmentation of
Photovoltaic Module Cells in Uncalibrated Electroluminescence Images", 2021.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sos.config import Data
from sos.datasets import folder
from sos.datasets.files import share, shuffled

VERSION = 1  # bump when the same cell no longer gives the same pixels
PACKAGE = "elpv-dataset==1.0.0.post1"
SOUND, DEFECTIVE = 1508, 1116  # cells in the package
LICENCE = (
    "Solar cells: elpv-dataset (Buerhop-Lutz et al., 2018; Deitsch et al., 2021), CC BY-NC-SA 4.0."
)
HELP = (
    f"solar cells are read from the package {PACKAGE} (91 MB; its images are under CC BY-NC-SA "
    f"4.0), which is not installed: `python -m pip install {PACKAGE}` in the environment of the "
    f"notebooks brings it"
)
SHA256 = {
    "labels": "0abe6fe7700aea571717d7d7dfec005a47c6207b4cde26a4556b6807a115483d",
    "images": "23ca267689338c754ae3cc3ef36005bdbbb96f3dbeb401031e3a5e46b0dad8d5",
}


@dataclass(frozen=True)
class Cell:
    """Hold where the image of a cell is, and what the experts say of it."""

    file: Path
    defect: float  # probability of a defect: 0, 1/3, 2/3 or 1
    kind: str  # "mono" or "poly", of its silicon


def is_available() -> bool:
    """Return whether the package is installed."""
    return importlib.util.find_spec("elpv_dataset") is not None


@cache
def scan(_: str | None = None) -> tuple[Cell, ...]:
    """Find all cells, in the order of the package, once per process.

    Raises FileNotFoundError, with the command that helps, where the package is not installed, and
    ValueError where its files are not those of PACKAGE.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None:
        raise FileNotFoundError(HELP)
    root = Path(found.origin).parent / "data"
    labels = (root / "labels.csv").read_bytes()
    rows = [line.split() for line in labels.decode().splitlines() if line.strip()]
    cells = tuple(Cell(root / name, float(defect), kind) for name, defect, kind in rows)
    images = hashlib.sha256()
    for cell in cells:
        images.update(cell.file.read_bytes())
    found = {"labels": hashlib.sha256(labels).hexdigest(), "images": images.hexdigest()}
    if found != SHA256:
        raise ValueError(
            f"{root}: the {' and '.join(k for k in SHA256 if found[k] != SHA256[k])} are not those "
            f"of {PACKAGE}: install that version again"
        )
    return cells


@cache
def ordered(split: str) -> tuple[Cell, ...]:
    """Return all cells of the sound ones, or of the defective ones, in a fixed random order."""
    wanted = [cell for cell in scan() if (cell.defect > 0) == (split == "defective")]
    return shuffled(wanted)


def files(data: Data, split: str) -> list[tuple[str, int]]:
    """Return the places of a split's cells in `ordered`, which are known without the package.

    There are at most `data.<split>` of them; "defective" has all cells that are not sound.
    """
    if split == "defective":
        return [(split, place) for place in range(DEFECTIVE)]
    places = share(range(SOUND), split)[: getattr(data, split)]
    return [("sound", place) for place in places]


def cells(data: Data, split: str) -> list[Cell]:
    """Return the cells of a split, in its order."""
    return [ordered(kind)[place] for kind, place in files(data, split)]


def cache_key(data: Data, split: str) -> str:
    """Return the version and the number of cells, which determine the pictures of a split."""
    return f"v{VERSION}-{len(files(data, split))}"


def describe(data: Data) -> str:
    """Describe in one line what is read and what is done to it."""
    counts = ", ".join(
        f"{len(files(data, s))} {s}" for s in ("train", "validation", "test", "defective")
    )
    return (
        f"solar cells of {PACKAGE}, 300x300 pixels: resized to {data.width}x{data.height}; sound "
        f"cells in {counts}. {LICENCE}"
    )


def read(item: tuple[str, int], data: Data) -> np.ndarray:
    """Read one image (C, H, W) as uint8, resized with antialiasing."""
    kind, place = item
    return folder.read(ordered(kind)[place].file, data)
