"""CelebA (aligned, 218x178) in the shapes in which people have it.

torchvision's folder, the unpacked img_align_celeba/ or img_align_celeba.zip alone, or Parquet files
with embedded images. At 218x178 the pixels stay as they are; other sizes are the largest central
crop of that aspect, resized: 64x64 is the central 178x178.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from sos.config import Data
from sos.datasets import folder

ZIP = "img_align_celeba.zip"
PARTITION = "list_eval_partition.txt"  # "000001.jpg 0": 0 train, 1 validation, 2 test
SPLITS = ("train", "validation", "test")
SUBSET = 10_000  # images; Appendix A and §4.5 name this many, chosen at random
HELP = (
    "The place may hold torchvision's folder, img_align_celeba/ or img_align_celeba.zip, or "
    "Parquet files with a column `image`. Get the data from the CelebA project page "
    "(mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or run the same profile with --data simulated"
)


@dataclass(frozen=True)
class Item:
    """One image: a file, or a member of a zip archive, or a row of a Parquet file."""

    file: str
    member: str | int | None = None
    size: int = 0  # bytes; of a Parquet file, of all its rows
    split: str = ""  # as the file's name has it, where it has

    @property
    def name(self) -> str:
        place = "" if self.member is None else f" [{self.member}]"
        return f"{self.file}{place}"


@cache
def scan(place: str) -> tuple[Item, ...]:
    """All images of `place` by name, looked for once per process. Raises FileNotFoundError."""
    root = Path(place).expanduser()
    if root.is_dir():
        for find in (_loose, _zipped, _parquet):
            found = find(root)
            if found:
                break
    elif root.suffix == ".zip" and root.is_file():
        found = _members(root)
    elif root.suffix == ".parquet" and root.is_file():
        found = _rows(root)
    else:
        found = []
    if len(found) < folder.FEWEST:
        raise FileNotFoundError(
            f"CelebA: {len(found)} images found in {root.absolute()}; at least {folder.FEWEST} are "
            f"needed. {HELP}"
        )
    return tuple(found)


def _loose(root: Path) -> list[Item]:
    aligned = next((f for f in sorted(root.rglob("img_align_celeba")) if f.is_dir()), root)
    files = sorted(aligned.rglob("[0-9]" * 6 + ".jpg"))  # img_celeba beside it has the same names
    return [Item(str(file), size=file.stat().st_size) for file in files]


def _zipped(root: Path) -> list[Item]:
    archives = sorted(root.rglob(ZIP))
    return _members(archives[0]) if archives else []


def _members(archive: Path) -> list[Item]:
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [i for i in opened.infolist() if i.filename.endswith((".jpg", ".jpeg", ".png"))]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no whole zip archive ({error}): fetch it again") from error
    found.sort(key=lambda info: info.filename)
    return [Item(str(archive), info.filename, info.file_size) for info in found]


def _parquet(root: Path) -> list[Item]:
    return [item for file in sorted(root.rglob("*.parquet")) for item in _rows(file)]


def _rows(file: Path) -> list[Item]:
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} is no whole Parquet file ({error}): fetch it again") from error
    if "image" not in opened.schema_arrow.names:
        names = ", ".join(opened.schema_arrow.names)
        raise ValueError(f"{file} has the columns {names}; expected one named `image`")
    split = next((s for s in SPLITS if file.name.lower().startswith(s[:5])), "")
    size = file.stat().st_size
    return [Item(str(file), row, size, split) for row in range(opened.metadata.num_rows)]


@lru_cache(maxsize=4)
def _archive(file: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)  # reading the directory of 202,599 names takes a second


@lru_cache(maxsize=64)
def _row_group(file: str, group: int) -> list:
    from pyarrow import parquet

    column = parquet.ParquetFile(file).read_row_group(group, columns=["image"])["image"].to_pylist()
    return [value["bytes"] if isinstance(value, dict) else value for value in column]


@lru_cache(maxsize=64)
def _group_starts(file: str) -> np.ndarray:
    from pyarrow import parquet

    meta = parquet.ParquetFile(file).metadata
    rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    return np.cumsum([0, *rows])


def _stream(item: Item) -> io.BytesIO | str:
    if item.member is None:
        return item.file
    try:
        if isinstance(item.member, str):
            return io.BytesIO(_archive(item.file).read(item.member))
        group = int(np.searchsorted(_group_starts(item.file), item.member, side="right")) - 1
        content = _row_group(item.file, group)[item.member - _group_starts(item.file)[group]]
        return io.BytesIO(content)  # TypeError where a column holds paths, not images
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{item.name} cannot be read ({error}): fetch it again") from error


def partition(place: str) -> dict[str, str]:
    """{file name: split} of the official partition. Raises FileNotFoundError."""
    root = Path(place).expanduser()
    near = root if root.is_dir() else root.parent
    found = sorted(near.rglob(PARTITION)) or sorted(near.parent.glob(PARTITION))
    if not found:
        raise FileNotFoundError(
            f"CelebA: the official partition needs {PARTITION}, which is not below "
            f"{near.absolute()}: put it there, or leave out --partition official"
        )
    known = {}
    for line in filter(str.strip, found[0].read_text().splitlines()):
        try:
            name, number = line.split()
            known[name] = SPLITS[int(number)]
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{found[0]} has the line {line!r}; expected a file name and 0, 1 or 2: fetch it "
                f"again, or leave out --partition official"
            ) from error
    return known


def files(data: Data, split: str) -> Sequence[Item]:
    """The images of a split, at most `data.<split>` of them.

    "subset": of 10,000 images chosen with seed 42, as the paper's, 70 % to train on. (The authors
    validate on 20 % and test on 10 %; here that is exchanged, because distances need images.)
    "official": the partition of the data set.
    """
    found = scan(data.folder)
    if data.partition == "subset":
        return folder.share(folder.shuffled(found)[:SUBSET], data, split)
    known = {} if found[0].split else partition(data.folder)
    chosen = [
        i for i in found if (i.split or known.get(Path(str(i.member or i.file)).name)) == split
    ]
    return chosen[: getattr(data, split)]


def fingerprint(data: Data, split: str) -> str:
    """Twelve hexadecimal digits of names and sizes, wherever the data lie."""
    parts = [(Path(i.file).name, i.member, i.size) for i in files(data, split)]
    return folder.digits((data.partition, parts))


def read(item: Item, data: Data) -> np.ndarray:
    """One image (C, H, W) as uint8. Raises ValueError that names it."""
    return folder.fitted(folder.upright(_stream(item), item.name), data)


def describe(data: Data) -> str:
    """One line that says what is read and what is done to it."""
    counts = ", ".join(f"{len(files(data, split))} {split}" for split in SPLITS)
    return f"CelebA in {data.folder}, {len(scan(data.folder))} images; {data.partition}: {counts}"
