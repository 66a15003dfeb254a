"""Copying a directory tree and comparing it, file by file.

Made for proving that a file system gives back what was put in: a copy is several files at a time,
as `cp` in a few windows would do it, and a comparison is by SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from umktls.dataclass import dataclass

__all__ = ["Entry", "copy", "differences", "digests", "survey"]

AT_ONCE = 4
PIECE = 1 << 20

Advance = Callable[[int], None]
"""Called with the number of bytes that were just dealt with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory, regular file or symbolic link of a tree; `name` is relative to its top."""

    name: str
    kind: str  # "directory", "file" or "link"
    size: int = 0


def survey(top: Path, leave_out: Collection[str] = ()) -> list[Entry]:
    """What is in the tree, parents before children; names in `leave_out` are passed over."""
    return list(_walk(top, "", frozenset(leave_out)))


def _walk(directory: Path, prefix: str, leave_out: frozenset[str]) -> Iterator[Entry]:
    with os.scandir(directory) as scan:
        found = sorted(scan, key=lambda item: item.name)
    for item in found:
        name = prefix + item.name
        if item.name in leave_out:
            continue
        if item.is_symlink():
            yield Entry(name, "link")
        elif item.is_dir():
            yield Entry(name, "directory")
            yield from _walk(directory / item.name, name + "/", leave_out)
        elif item.is_file():
            yield Entry(name, "file", item.stat().st_size)


def copy(entries: Collection[Entry], source: Path, target: Path, advance: Advance) -> None:
    """Copy the entries, with modes and times, from below `source` to below `target`.

    Raises OSError of the first file that could not be copied.
    """
    target.mkdir(exist_ok=True)
    for entry in entries:
        if entry.kind == "directory":
            (target / entry.name).mkdir()

    def one(entry: Entry) -> int:
        shutil.copy2(source / entry.name, target / entry.name, follow_symlinks=False)
        return entry.size

    _each([entry for entry in entries if entry.kind != "directory"], one, advance)


def digests(entries: Collection[Entry], top: Path, advance: Advance) -> dict[str, str]:
    """What each entry is below `top`: a file's SHA-256, a link's target, or that it is missing."""
    found: dict[str, str] = {}

    def one(entry: Entry) -> int:
        found[entry.name] = _digest(top / entry.name)
        return entry.size

    _each(entries, one, advance)
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The names that are not the same on both sides, sorted."""
    return sorted(name for name in expected | found if expected.get(name) != found.get(name))


def _each(entries: Collection[Entry], one: Callable[[Entry], int], advance: Advance) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for size in pool.map(one, entries):
                advance(size)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _digest(path: Path) -> str:
    try:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        if path.is_dir():
            return "directory"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
