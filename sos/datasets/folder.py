"""A folder of the user's own images, of any size, cropped and resized to what a model needs."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from sos.config import Data

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}  # the paper's (authors' data loaders)
FEWEST = 100  # images below which neither training nor a Fréchet distance makes sense
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors
SHUFFLE_SEED = 42  # the authors'


@cache
def scan(folder: str) -> tuple[Path, ...]:
    """All images below `folder`, in a fixed random order; looked for once per process."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"--faces {folder}: not a folder; give one that holds images")
    found = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if len(found) < FEWEST:
        kinds = " ".join(sorted(SUFFIXES))
        raise ValueError(
            f"--faces {folder}: {len(found)} images found ({kinds}, subfolders included); "
            f"at least {FEWEST} are needed"
        )
    return shuffled(found)


def shuffled(found: Sequence) -> tuple:
    """What was found in a fixed random order, the same at every place that holds as much."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(found))
    return tuple(found[i] for i in order)


def files(data: Data, split: str) -> list[Path]:
    """The files of a split: disjoint shares of the folder, each at most `data.<split>` long."""
    return share(scan(data.folder), data, split)


def share(found: Sequence, data: Data, split: str) -> list:
    """A disjoint share for each split of what was found, at most `data.<split>` long."""
    stops = np.rint(np.cumsum(list(SHARES.values())) * len(found)).astype(int)
    starts = dict(zip(SHARES, [0, *stops[:-1]], strict=True))
    stop = dict(zip(SHARES, stops, strict=True))[split]
    return list(found[starts[split] : min(stop, starts[split] + getattr(data, split))])


def fingerprint(data: Data, split: str) -> str:
    """Twelve hexadecimal digits that change when a file is added, removed, renamed or rewritten."""
    return digits([(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files(data, split)])


def digits(content: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of what can be printed."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def describe(data: Data) -> str:
    """One line that says what is read and what is done to it."""
    found = scan(data.folder)
    counts: Counter = Counter()
    for file in found[:50]:
        with suppress(ValueError):  # `build` counts and names those that cannot be read
            counts[upright(file, file).size] += 1
    (width, height), _ = (counts or Counter([("?", "?")])).most_common(1)[0]
    others = f" and {len(counts) - 1} other sizes" if len(counts) > 1 else ""
    shares = ", ".join(f"{len(files(data, split))} {split}" for split in SHARES)
    return (
        f"{len(found)} images in {data.folder} ({width}x{height} pixels{others}, width first): "
        f"cropped centrally to {data.width}:{data.height}, resized to {data.width}x{data.height}, "
        f"{'colour' if data.channels == 3 else 'gray'}; {shares}"
    )


def upright(source: Path | BinaryIO | str, name: Path | str) -> Image.Image:
    """The picture as one sees it: turned as its camera says, on white where it is transparent."""
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image.convert("RGBA"))
            if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
                return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            if image.mode in "IF":  # it would clip these too, and who knows what white is
                raise ValueError(f"pixels of mode {image.mode}, expected 8 or 16 bits: convert it")
            image.load()
            return image
    except UNREADABLE as error:
        raise ValueError(f"{name} cannot be read as an image ({error}): remove it") from error


def read(file: Path, data: Data) -> np.ndarray:
    """One image (C, H, W) as uint8, see `fitted`."""
    return fitted(upright(file, file), data)


def fitted(image: Image.Image, data: Data) -> np.ndarray:
    """A picture as (C, H, W) uint8: largest central crop of the aspect, antialiased resize."""
    image = image.convert("RGB" if data.channels == 3 else "L")
    scale = min(image.width / data.width, image.height / data.height)
    crop = np.minimum(np.array([data.width, data.height]) * scale, image.size)  # despite rounding
    corner = (np.array(image.size) - crop) / 2
    box = (*corner, *(corner + crop))
    image = image.resize((data.width, data.height), Image.Resampling.BICUBIC, box=tuple(box))
    array = np.asarray(image)
    return array.transpose(2, 0, 1).copy() if data.channels == 3 else array[None].copy()
