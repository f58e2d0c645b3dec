"""Find the files below a folder, order them, and identify them by their content."""

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sos.system import paths
from sos.system.progress import tqdm

# System folders of macOS, network storage and Windows whose names do not begin with a dot.
SYSTEM = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found"}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}  # as in the paper (authors' data loaders)
SHUFFLE_SEED = 42  # the authors' seed
UNREADABLE = "unreadable"  # stands in for the digest of an unreadable file
LONG = 2**28  # from this many bytes to read on there is a progress bar


def is_hidden(name: str) -> bool:
    """Return whether a name is the system's: trash, thumbnails, resource forks, checkpoints."""
    return name.startswith(".") or name.lower() in SYSTEM


def walk(root: Path) -> tuple[list[Path], int]:
    """Return all files below `root` except hidden ones, and the number of broken links.

    The files are in the order of their names. Links are followed, and a file that has several names
    counts once.
    """
    seen, found, broken = set(), [], 0

    def is_new(status: os.stat_result) -> bool:
        known = len(seen)
        seen.add((status.st_dev, status.st_ino))
        return len(seen) > known

    for folder, below, names in os.walk(root, followlinks=True):
        if not is_new(os.stat(folder)):
            below.clear()
            continue
        below[:] = sorted(name for name in below if not is_hidden(name))
        for name in sorted(name for name in names if not is_hidden(name)):
            file = Path(folder, name)
            try:
                status = file.stat()
            except OSError:
                broken += 1
                continue
            if stat.S_ISREG(status.st_mode) and is_new(status):
                found.append(file)
    return sorted(found), broken


@cache
def _remembered(file: Path) -> dict[str, list]:
    """Load {path: [size, times, digest]} of the files read before; empty if damaged or absent."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: entry for name, entry in content.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _signature(file: Path) -> list[int]:
    """Return size, mtime and ctime, which change when a file is written.

    The ctime does so even where the mtime is set back.
    """
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, or UNREADABLE where it cannot be read.

    The error is reported later, by the reader of the file.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def digests(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file's content; read only files that are new or have changed."""
    if not files:
        return []
    root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
    memory = paths.CACHE / "digests" / f"{digits(str(root))}.json"
    known = _remembered(memory)
    names = [os.path.relpath(os.path.abspath(file), root) for file in files]
    now = [_signature(file) for file in files]
    new = [
        (name, file, signature)
        for name, file, signature in zip(names, files, now, strict=True)
        if known.get(name, [])[:3] != signature
    ]
    if new:
        size = sum(signature[0] for *_, signature in new)
        bar = tqdm(desc="reading", total=size, unit="B", unit_scale=True, disable=size < LONG)
        with bar, ThreadPoolExecutor() as pool:
            made = pool.map(_digest, [file for _, file, _ in new])
            for (name, _, signature), digest in zip(new, made, strict=True):
                known[name] = [*signature, digest]
                bar.update(signature[0])
        paths.write_text(memory, json.dumps(known))
    return [known[name][3] for name in names]


def together(groups: Sequence[tuple[Path, ...]]) -> tuple[list[tuple[Path, ...]], int]:
    """Merge groups that share a file with the same bytes; return them, and the number of copies.

    A group is never split, so that no copy of a training image is in the test split.
    """
    by_size = defaultdict(list)
    for number, group in enumerate(groups):
        for file in group:
            by_size[file.stat().st_size].append((number, file))
    alike = [pair for pairs in by_size.values() if len(pairs) > 1 for pair in pairs]
    contents = digests([file for _, file in alike])
    kinds = {digest: len(groups) + k for k, digest in enumerate(dict.fromkeys(contents))}
    edges = [number for number, _ in alike], [kinds[digest] for digest in contents]
    size = len(groups) + len(kinds)
    graph = coo_array((np.ones(len(alike)), edges), shape=(size, size))
    merged = defaultdict(tuple)
    for group, label in zip(groups, connected_components(graph)[1], strict=False):
        merged[label] += group
    return list(merged.values()), len(alike) - len(kinds)


def digits(content: object) -> str:
    """Return the first twelve hexadecimal digits of the SHA-256 of an object's repr."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def shuffled(found: Sequence) -> tuple:
    """Shuffle the items by a fixed permutation, which depends only on how many they are."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(found))
    return tuple(found[i] for i in order)


def share(found: Sequence, split: str) -> list:
    """Return the items of a split; the splits are disjoint and have the sizes of SHARES."""
    stops = np.rint(np.cumsum(list(SHARES.values())) * len(found)).astype(int)
    starts = dict(zip(SHARES, [0, *stops[:-1]], strict=True))
    stop = dict(zip(SHARES, stops, strict=True))[split]
    return list(found[starts[split] : stop])


def listed(notes: dict[str, int]) -> str:
    """Put counts into words, for the line that says what is read: "; 3 links to nothing"."""
    return "".join(f"; {count} {what}" for what, count in notes.items() if count)
