"""Read a folder of the user's own images of any size, cropped and resized for a model."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from sos.config import Data
from sos.datasets.files import SHARES, digests, digits, listed, share, shuffled, together
from sos.datasets.files import walk as files_below

# Image formats that Pillow reads by itself, so not PDF or PostScript, which run other programs.
WANTED = (
    "PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA",
    "PCX", "SGI",
)  # fmt: skip
Image.init()
FORMATS = tuple(name for name in WANTED if name in Image.OPEN)  # some builds of Pillow lack a few
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
TELLING = tuple(name for name in FORMATS if name != "TGA")  # formats that begin with a signature
FEWEST = 100  # with fewer images neither training nor a Fréchet distance makes sense
GRAY_BITS = {"L;2": 85, "L;4": 17, "1": 255}  # raw mode: Pillow's scaling to 8 bits
TINT = 8  # gray levels by which the channels of a gray image may differ after JPEG
LOOKED_AT = 200  # number of images that decide whether those of a folder are gray


@dataclass(frozen=True)
class Survey:
    """Hold the images below a folder, as groups of files in a fixed random order, and notes."""

    groups: tuple[tuple[Path, ...], ...]  # a group lies within one split
    notes: dict[str, int]  # {what: how many}

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files, group by group."""
        return tuple(file for group in self.groups for file in group)

    def split(self, name: str, most: int) -> list[Path]:
        """Return the files of a split, at most `most` of them."""
        return [file for group in share(self.groups, name) for file in group][:most]


@cache
def survey(folder: str) -> Survey:
    """Find all images below `folder`, once per process.

    Raises FileNotFoundError where there is no folder, ValueError where it holds too few images.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"--faces {folder}: not a folder; give one that holds images")
    everything, broken = files_below(root)
    pictures = [file for file in everything if is_picture(file)]
    others = Counter(file.suffix.lower() for file in set(everything) - set(pictures))
    notes = {f"{suffix or 'nameless'} files passed over": n for suffix, n in sorted(others.items())}
    if len(pictures) < FEWEST:
        raise ValueError(
            f"--faces {folder}: {len(pictures)} images found in it and its subfolders"
            f"{listed(notes)}; at least {FEWEST} are needed ({', '.join(FORMATS)})"
        )
    groups, copies = together([(file,) for file in pictures])
    notes |= {"copies of others, in one split with them": copies, "links to nothing": broken}
    return Survey(shuffled(groups), notes)


def is_picture(file: Path) -> bool:
    """Return whether a file is an image, judged by its suffix or else by its first bytes.

    A damaged file with the suffix of an image counts as one.
    """
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(file, formats=TELLING):
            return True
    except Exception:
        return False


@cache
def is_gray(folder: str) -> bool:
    """Return whether the images below `folder`, or many of them, have no colour; cached."""
    read = 0
    for file in survey(folder).files[:LOOKED_AT]:
        with suppress(ValueError):  # `build` counts and names those that cannot be read
            image = upright(file, file)
            if image.mode != "L":
                few = np.asarray(image.convert("RGB").resize((64, 64))).astype(int)
                if np.ptp(few, axis=-1).max() > TINT:
                    return False
            read += 1
    return read > 0


def scan(folder: str) -> tuple[Path, ...]:
    """Return all images below `folder`, in a fixed random order."""
    return survey(folder).files


def files(data: Data, split: str) -> list[Path]:
    """Return the files of a split: a disjoint share of the folder, at most `data.<split>` files."""
    return survey(data.folder).split(split, getattr(data, split))


def cache_key(data: Data, split: str) -> str:
    """Return twelve hexadecimal digits of the content of a split's files, wherever they lie."""
    return digits(digests(files(data, split)))


def describe(data: Data) -> str:
    """Describe in one line what is read and what is done to it."""
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
        f"{listed(survey(data.folder).notes)}"
    )


def upright(source: Path | BinaryIO | str, name: Path | str) -> Image.Image:
    """Open an image as it is meant to be seen: turned as its camera says, transparency on white.

    Of several pages or frames the first is taken. Colour profiles are not applied. Raises
    ValueError that names the image.
    """
    try:
        with Image.open(source, formats=FORMATS) as opened:
            raw = opened.tile[0].args if opened.tile else None
            raw = raw[0] if isinstance(raw, tuple) else raw
            tags = getattr(opened, "tag_v2", {})
            kind, transparent = opened.format, opened.info.get("transparency")
            image = ImageOps.exif_transpose(opened)
            deep = image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM"))
            if deep:
                bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
                image = _eight_bits(image, bits, tags.get(PHOTOMETRIC) == 0, transparent)
            elif image.mode in ("I", "F"):
                raise ValueError(
                    f"its pixels are of mode {image.mode}, of which nothing tells what white is; "
                    f"expected 8 or 16 bits: convert it"
                )
            elif image.mode in ("1", "L") and isinstance(transparent, int):
                values = np.asarray(image.convert("L"))
                seen = np.where(values == transparent * GRAY_BITS.get(raw, 1), 255, values)
                image = Image.fromarray(seen.astype(np.uint8))
            elif image.has_transparency_data:
                if raw == "RGB;16B":  # Pillow reduces pixels to 8 bits, but not this value
                    image.info["transparency"] = tuple(value >> 8 for value in transparent)
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            elif image.mode == "LAB":
                image = ImageCms.profileToProfile(image, _profile("LAB"), _profile("sRGB"),
                                                  outputMode="RGB")  # fmt: skip
            image.load()
            return image
    except Exception as error:  # whatever Pillow raises concerns this file alone
        raise ValueError(f"{name} cannot be read as an image ({error}): remove it") from error


BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags; photometric 0 means that zero is white


def _eight_bits(
    image: Image.Image, bits: int, zero_is_white: bool, transparent: int | None
) -> Image.Image:
    """Scale a gray image of up to 16 bits to 8 bits, where Pillow would clip it."""
    values = np.asarray(image).astype(float)
    shown = 255 * values / (2**bits - 1)
    shown = 255 - shown if zero_is_white else shown
    if isinstance(transparent, int):
        shown = np.where(values == transparent, 255, shown)
    return Image.fromarray(np.rint(shown).clip(0, 255).astype(np.uint8))


def _profile(name: str) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name))


def read(file: Path, data: Data) -> np.ndarray:
    """Read one image (C, H, W) as uint8, cropped and resized by `fitted`."""
    return fitted(upright(file, file), data)


def fitted(image: Image.Image, data: Data) -> np.ndarray:
    """Crop centrally to the aspect, as large as possible, and resize to (C, H, W) uint8.

    The resizing is antialiased.
    """
    image = image.convert("RGB" if data.channels == 3 else "L")
    scale = min(image.width / data.width, image.height / data.height)
    crop = np.minimum(np.array([data.width, data.height]) * scale, image.size)  # despite rounding
    corner = (np.array(image.size) - crop) / 2
    box = (*corner, *(corner + crop))
    image = image.resize((data.width, data.height), Image.Resampling.BICUBIC, box=tuple(box))
    array = np.asarray(image)
    return array.transpose(2, 0, 1).copy() if data.channels == 3 else array[None].copy()
