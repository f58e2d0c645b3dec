"""Which files below a folder count, in which order, and what identifies their content."""

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

# Folders of macOS, of network storage and of Windows, beside those whose names begin with a dot.
SYSTEM = {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found"}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}  # the paper's (authors' data loaders)
SHUFFLE_SEED = 42  # the authors'
UNREADABLE = "unreadable"  # in place of the digest of such a file
LONG = 2**28  # bytes to read from which on there is a progress bar


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's: trash, thumbnails, resource forks, checkpoints."""
    return name.startswith(".") or name.lower() in SYSTEM


def walk(root: Path) -> tuple[list[Path], int]:
    """All files below `root` but hidden ones, in order of names, and how many links lead nowhere.

    Links are followed, and a file that several names lead to counts once.
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
    """{path: [size, times, digest]} of files that were read before; none where that is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: entry for name, entry in content.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _signature(file: Path) -> list[int]:
    """What changes when a file is written: ctime does so even where its mtime is set back."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(file: Path) -> str:
    """SHA-256 of a file's content; a word where it cannot be read, which its reader will say."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def digests(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content. Only files that are new or were written since are read."""
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
    """Groups of files merged where they hold the same content byte for byte, and how many copies.

    A group is never split, so that no copy of a training image is tested on.
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
    """Twelve hexadecimal digits of the SHA-256 of what can be printed."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def shuffled(found: Sequence) -> tuple:
    """What was found in a fixed random order, the same at every place that holds as much."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(found))
    return tuple(found[i] for i in order)


def share(found: Sequence, split: str) -> list:
    """A disjoint share for each split of what was found."""
    stops = np.rint(np.cumsum(list(SHARES.values())) * len(found)).astype(int)
    starts = dict(zip(SHARES, [0, *stops[:-1]], strict=True))
    stop = dict(zip(SHARES, stops, strict=True))[split]
    return list(found[starts[split] : stop])


def listed(notes: dict[str, int]) -> str:
    """Counts in words, for the line that tells what is read: "; 3 links to nothing"."""
    return "".join(f"; {count} {what}" for what, count in notes.items() if count)
