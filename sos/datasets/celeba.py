"""Read CelebA (aligned, 218x178) in any of its usual forms.

These are torchvision's folder, the unpacked img_align_celeba/ or img_align_celeba.zip alone, and
Parquet files with embedded images. At 218x178 the pixels stay as they are. Other sizes are resized
from the largest central crop of their aspect, which is the central 178x178 for 64x64.
"""

import codecs
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePath

import numpy as np

from sos.config import Data
from sos.datasets import folder
from sos.datasets.files import digests, digits, is_hidden, share, shuffled
from sos.datasets.files import walk as files_below

ZIP = "img_align_celeba.zip"  # or another name with CelebA's in it
UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
PARTITION = "list_eval_partition.txt"  # "000001.jpg 0": 0 train, 1 validation, 2 test
PARTITIONS = (PARTITION, "list_eval_partition.csv")
NUMBERED = re.compile(r"\d{6}\.(jpe?g|png)", re.IGNORECASE)
SPLITS = ("train", "validation", "test")
SUBSET = 10_000  # images; Appendix A and §4.5 name this many, chosen at random
HELP = (
    "The place may hold torchvision's folder, img_align_celeba/ or img_align_celeba.zip, or "
    "Parquet files with a column `image`. Get the data from the CelebA project page "
    "(mmlab.ie.cuhk.edu.hk/projects/CelebA.html), or run the same profile with --data simulated"
)


@dataclass(frozen=True)
class Item:
    """Hold where one image is: in a file, a member of a zip archive, or a row of a Parquet file."""

    file: str
    member: str | int | None = None
    crc: int | None = None  # checksum of a zip member, from the archive's directory
    split: str = ""  # from the file's name, where the name tells it

    @property
    def name(self) -> str:
        """Return the file, with the member or row where there is one, for messages."""
        place = "" if self.member is None else f" [{self.member}]"
        return f"{self.file}{place}"


@cache
def scan(place: str) -> tuple[Item, ...]:
    """Find all images of `place`, ordered by name, once per process.

    Raises FileNotFoundError where there are too few.
    """
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
    """Find images that are files of their own."""
    names = {str(file.relative_to(root)): file for file in files_below(root)[0]}
    return [Item(str(names[name])) for name in _one_edition(names)]


def _one_edition(names: Iterable[str]) -> list[str]:
    """Choose one edition of images with the same numbers: aligned ones, JPEG before PNG."""
    found = sorted(name for name in names if NUMBERED.fullmatch(PurePath(name).name))
    aligned = [name for name in found if "align" in name.lower()] or found
    return [name for name in aligned if not name.lower().endswith(".png")] or aligned


def _zipped(root: Path) -> list[Item]:
    archives = [f for f in files_below(root)[0] if re.search(r"celeba.*\.zip$", f.name.lower())]
    return _members(archives[0]) if archives else []


def _members(archive: Path) -> list[Item]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {i.filename: i for i in opened.infolist()}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no whole zip archive ({error}): fetch it again") from error
    seen = [name for name in members if not any(map(is_hidden, PurePath(name).parts))]
    found = [members[name] for name in _one_edition(seen)]
    for info in found:
        if info.flag_bits & 1 or info.compress_type not in UNPACKED:
            how = "encrypted" if info.flag_bits & 1 else f"packed by method {info.compress_type}"
            raise ValueError(
                f"{archive} cannot be read, because {info.filename} is {how}: unpack it with the "
                f"program that packed it, and give the folder instead"
            )
    return [Item(str(archive), info.filename, info.CRC) for info in found]


def _parquet(root: Path) -> list[Item]:
    found = [file for file in files_below(root)[0] if file.suffix == ".parquet"]
    return [item for file in found for item in _rows(file)]


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
    return [Item(str(file), row, split=split) for row in range(opened.metadata.num_rows)]


@lru_cache(maxsize=4)
def _archive(file: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)  # reading the directory of 202,599 names takes a second


@lru_cache(maxsize=64)
def _row_group(file: str, group: int) -> list:
    from pyarrow import parquet

    column = parquet.ParquetFile(file).read_row_group(group, columns=["image"])["image"].to_pylist()
    contents = [value["bytes"] if isinstance(value, dict) else value for value in column]
    return [bytes(content) if isinstance(content, list) else content for content in contents]


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
        return io.BytesIO(content)  # TypeError where the column holds paths instead of images
    except Exception as error:  # whatever is raised concerns this image alone
        raise ValueError(f"{item.name} cannot be read ({error}): fetch it again") from error


def partition(place: str) -> dict[str, str]:
    """Read the official partition, {number of an image: split}.

    The list is that of the data set, or a table with a header line, as other sites offer it. Raises
    FileNotFoundError where there is no list, and ValueError for a line that cannot be understood.
    """
    root = Path(place).expanduser()
    near = root if root.is_dir() else root.parent
    found = [file for file in files_below(near)[0] if file.name in PARTITIONS]
    found = found or [near.parent / name for name in PARTITIONS if (near.parent / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"CelebA: the official partition needs {PARTITION}, which is not below "
            f"{near.absolute()}: put it there, or leave out --partition official"
        )
    known = {}
    for number, line in enumerate(_text(found[0]).splitlines()):
        parts = re.split(r"[\s,;]+", line.strip())
        if len(parts) == 2 and NUMBERED.fullmatch(parts[0]) and parts[1] in ("0", "1", "2"):
            known[parts[0][:6]] = SPLITS[int(parts[1])]
        elif number and line.strip():  # the first line may be the header of a table
            raise ValueError(
                f"{found[0]} has the line {line!r}; expected a file name and 0, 1 or 2: fetch it "
                f"again, or leave out --partition official"
            )
    return known


def _text(file: Path) -> str:
    """Read a text in any of the encodings that editors and spreadsheets write."""
    content = file.read_bytes()
    encoding = (
        "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    )
    return content.decode(encoding, errors="replace")


def files(data: Data, split: str) -> Sequence[Item]:
    """Return the images of a split, at most `data.<split>` of them.

    With the partition "subset", 10,000 images are chosen with seed 42, as in the paper, and 70 % of
    them are for training. (The authors validate on 20 % and test on 10 %; here the two are
    exchanged, because distances need images.) With "official" it is the partition of the data set.
    """
    found = scan(data.folder)
    if data.partition == "subset":
        return share(shuffled(found)[:SUBSET], split)[: getattr(data, split)]
    known = {} if found[0].split else partition(data.folder)
    chosen = [
        i for i in found if (i.split or known.get(PurePath(str(i.member or i.file)).stem)) == split
    ]
    return chosen[: getattr(data, split)]


def cache_key(data: Data, split: str) -> str:
    """Return twelve hexadecimal digits of the content of a split's images, wherever they lie."""
    chosen = files(data, split)
    whole = list(dict.fromkeys(Path(item.file) for item in chosen if item.crc is None))
    content = dict(zip(map(str, whole), digests(whole), strict=True))
    parts = [(i.member, content[i.file] if i.crc is None else i.crc) for i in chosen]
    return digits((data.partition, parts))


def read(item: Item, data: Data) -> np.ndarray:
    """Read one image (C, H, W) as uint8. Raises ValueError that names the image."""
    return folder.fitted(folder.upright(_stream(item), item.name), data)


def describe(data: Data) -> str:
    """Describe in one line what is read and how it is split."""
    counts = ", ".join(f"{len(files(data, split))} {split}" for split in SPLITS)
    return f"CelebA in {data.folder}, {len(scan(data.folder))} images; {data.partition}: {counts}"
