"""Load images as uint8 arrays from a checksummed cache.

`load(data)` returns the three splits. Simulated image i is a function of i alone, so the splits are
disjoint ranges of indices, and the cache can be deleted at any time. All arithmetic is in numpy.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from joblib import Parallel, cpu_count, delayed

from sos.config import Data
from sos.datasets import biobank, brains, celeba, cells, faces, folder
from sos.system import paths
from sos.system.progress import tqdm

SIMULATORS: dict[str, ModuleType] = {"faces": faces, "brains": brains}
READERS: dict[str, ModuleType] = {
    "folder": folder,
    "celeba": celeba,
    "biobank": biobank,
    "cells": cells,
}
FIRST_INDEX = {"train": 0, "validation": 10_000_000, "test": 20_000_000}  # too far apart to overlap
BLOCK = 125  # images that one worker makes before it writes them to disk
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in Pillow's mode "L"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Hold one split: its images, uint8 (N, C, H, W), and the factors behind simulated ones."""

    images: np.ndarray
    factors: np.ndarray | None = None  # float32 (N, F)
    factor_names: tuple[str, ...] = ()


def load(data: Data) -> dict[str, Split]:
    """Return the splits "train", "validation" and "test"; build those that the cache lacks."""
    return {name: load_split(data, name) for name in FIRST_INDEX}


def load_split(data: Data, split: str) -> Split:
    """Return one split of `data`; check its checksums, and build it again where they fail."""
    target = cache_folder(data, split)
    arrays = read(target)
    if arrays is None:
        if target.exists():
            log.warning("%s is damaged: building it again", target)
            shutil.rmtree(target)
        try:
            if not made_gray(data, split):
                build_split(data, split)
        except Unreadable as error:
            others = (
                other for other in FIRST_INDEX if other != split and not is_cached(data, other)
            )
            lists = [str(error), *filter(None, (unreadable(data, other) for other in others))]
            advice = "mend or remove them, or pass --skip-unreadable"
            raise ValueError("\n".join([*lists, advice])) from error
        except OSError:  # for example because another process built this split first
            if read(target) is None:
                raise
        arrays = read(target)
    names = () if data.name in READERS else simulator(data).FACTORS
    return Split(arrays["images"], arrays.get("factors"), names)


class Unreadable(ValueError):
    """List the images that cannot be read, as the message of an error."""


def build_split(data: Data, split: str) -> None:
    """Make or read the images of a split, and write them to the cache.

    Raises Unreadable for images that cannot be read, and ValueError where there are no images or
    where the files changed while they were read.
    """
    title, todo = f"{data.name} {split}", items(data, split)
    if not len(todo):
        raise ValueError(f"{title}: no images in this split of {data.folder or data}")
    target = cache_folder(data, split)
    build(target, todo, partial(make, data), title, data.skip_unreadable)
    if cache_folder(data, split) != target:
        shutil.rmtree(target)
        raise ValueError(f"{title}: files in {data.folder} changed while they were read: run again")


def unreadable(data: Data, split: str) -> str | None:
    """Return the list of a split's images that cannot be read, or None where all can be.

    With the lists of all splits at hand, a user can mend all images at once.
    """
    try:
        build_split(data, split)
    except Unreadable as error:
        return str(error)
    except ValueError:  # reported when that split itself is loaded
        pass
    return None


def is_cached(data: Data, split: str) -> bool:
    """Return whether a split lies in the cache (not whether it is undamaged)."""
    return (cache_folder(data, split) / "meta.json").exists()


def is_at_hand(data: Data) -> bool:
    """Return whether images of this name can be had: solar cells need a package that is optional.

    Folders that were named are looked at when they are read.
    """
    return data.name != "cells" or cells.is_available()


def simulator(data: Data) -> ModuleType:
    """Return the module that renders `data`.

    Raises ValueError for an unknown name, and for channels that the simulator does not have.
    """
    if data.name not in SIMULATORS:
        expected = ", ".join((*SIMULATORS, *READERS))
        raise ValueError(f"data.name is {data.name!r}; expected one of {expected}")
    chosen = SIMULATORS[data.name]
    if data.channels not in (1, chosen.CHANNELS):
        expected = " or ".join(map(str, sorted({1, chosen.CHANNELS})))
        raise ValueError(f"data.channels is {data.channels}; {data.name} have {expected}")
    return chosen


def cache_key(data: Data, split: str) -> str:
    """Return a readable name for what determines the pictures of a split.

    It is part of every model's cache key.
    """
    size = f"{data.height}x{data.width}x{data.channels}"
    if data.name in READERS:
        skipping = "-skipping" if data.skip_unreadable else ""
        marks = READERS[data.name].cache_key(data, split)
        return f"{data.name}-{size}-{split}-{marks}{skipping}"
    return f"{data.name}-v{simulator(data).VERSION}-{size}-{split}-{getattr(data, split)}"


def cache_folder(data: Data, split: str) -> Path:
    """Return the folder of the cache in which a split lies."""
    return paths.CACHE / "images" / cache_key(data, split)


def partial_folder(target: Path) -> Path:
    """Return the folder that holds the finished blocks of a split until all are finished."""
    return target.with_name(target.name + ".partial")


def items(data: Data, split: str) -> Sequence:
    """Return what the images of a split are made from: indices, or files."""
    if data.name in READERS:
        return READERS[data.name].files(data, split)
    return range(FIRST_INDEX[split], FIRST_INDEX[split] + getattr(data, split))


def count(data: Data, split: str) -> int:
    """Return the number of images of a split, without those that could not be read."""
    if data.skip_unreadable:
        return len(load_split(data, split).images)
    return len(items(data, split))


def make(data: Data, item) -> dict[str, np.ndarray]:
    """Make one image (C, H, W) as uint8, with its factors where they are known."""
    if data.name in READERS:
        return {"images": READERS[data.name].read(item, data)}
    rendered = simulator(data).render(item, data.height, data.width)
    return {"images": in_channels(data, rendered.image), "factors": rendered.factors}


def can_be_made_gray(data: Data) -> bool:
    """Return whether the images are simulated in colour and wanted in gray."""
    return data.name not in READERS and data.channels != simulator(data).CHANNELS


def made_gray(data: Data, split: str) -> bool:
    """Make a gray split from the same images in colour, if those are cached.

    Returns whether it did.
    """
    if not can_be_made_gray(data):
        return False
    arrays = read(cache_folder(replace(data, channels=simulator(data).CHANNELS), split))
    if arrays is None:
        return False
    images = np.stack([in_channels(data, image) for image in arrays["images"]])
    write(cache_folder(data, split), [arrays | {"images": images}], len(images))
    return True


def in_channels(data: Data, image: np.ndarray) -> np.ndarray:
    """Convert a rendered image (C, H, W) to the number of channels of `data`."""
    if data.channels == 1 and len(image) == 3:
        return np.rint(np.tensordot(LUMA, image, 1))[None].astype(np.uint8)
    return image


def build(target: Path, items: Sequence, make: Callable, title: str, skip: bool = False) -> None:
    """Make all items on all cores, block by block, and continue where an interrupted run ended.

    Raises Unreadable with the items that cannot be made; with `skip` these are left out.
    """
    blocks_folder = partial_folder(target)
    blocks_folder.mkdir(parents=True, exist_ok=True)
    blocks = {start: items[start : start + BLOCK] for start in range(0, len(items), BLOCK)}
    files = {start: blocks_folder / f"{start:09d}.npz" for start in blocks}
    missing = [start for start in blocks if not files[start].exists()]
    finished = sum(len(blocks[start]) for start in blocks if start not in missing)
    workers = Parallel(n_jobs=cpu_count(), return_as="generator_unordered")
    with tqdm(desc=title, total=len(items), initial=finished, unit="image") as bar:
        tasks = (delayed(build_block)(files[start], blocks[start], make) for start in missing)
        for count in workers(tasks):
            bar.update(count)
    reasons: list[str] = []
    for file in files.values():
        with np.load(file) as part:
            found = part["unreadable"].tolist()
        reasons += found
        if found and not skip:
            file.unlink()  # the next run reads them again, as they may be mended by then
    if reasons:
        names = "\n  ".join(reasons[:10] + [f"and {len(reasons) - 10} more"][: len(reasons) > 10])
        listed = f"{title}: {len(reasons)} of {len(items)} images cannot be read:\n  {names}"
        if not skip or len(reasons) == len(items):
            raise Unreadable(listed)
        log.warning("%s\nthey are left out", listed)
    write(target, map(made_block, files.values()), len(items) - len(reasons))
    shutil.rmtree(blocks_folder)


def build_block(file: Path, items: Sequence, make: Callable) -> int:
    """Make the items of one block, write them to `file`, and return how many items there are."""
    made, reasons = [], []
    for item in items:
        try:
            made.append(make(item))
        except ValueError as error:
            reasons.append(str(error))
    arrays = {name: np.stack([m[name] for m in made]) for name in (made[0] if made else ())}
    with paths.replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, unreadable=np.array(reasons, dtype=str), **arrays)
    return len(items)


def made_block(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a block; return an empty dictionary where no item could be read."""
    with np.load(file) as part:
        return {name: part[name] for name in part.files if name != "unreadable"}


def write(target: Path, parts: Iterable[dict[str, np.ndarray]], count: int) -> None:
    """Write a folder of .npy files and their SHA-256, which appears whole or not at all.

    The parts, `count` images in all, are written one after the other, because together they may be
    larger than the memory. The files are not memory-mapped, because then a full disk would end the
    process.
    """
    with paths.replacing(target) as temporary, ExitStack() as opened:
        temporary.mkdir(parents=True)
        files = {}
        for part in parts:
            for name, block in part.items():
                if name not in files:
                    stream = (temporary / f"{name}.npy").open("wb")
                    files[name] = opened.enter_context(stream)
                    header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(block))
                    header["shape"] = (count, *block.shape[1:])
                    np.lib.format.write_array_header_1_0(stream, header)
                files[name].write(np.ascontiguousarray(block).data)
        for stream in files.values():
            stream.flush()
        meta = {name: {"sha256": digest(temporary / f"{name}.npy")} for name in files}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))


def read(target: Path) -> dict[str, np.ndarray] | None:
    """Map the arrays of `target` into memory; return None where they are absent or damaged."""
    try:
        meta = json.loads((target / "meta.json").read_text())
        if "images" not in meta:
            return None
        if any(digest(target / f"{name}.npy") != m["sha256"] for name, m in meta.items()):
            return None
        # Copy on write, so that torch can use the map itself and the file never changes.
        return {name: np.load(target / f"{name}.npy", mmap_mode="c") for name in meta}
    except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
        return None


def digest(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
