"""Copies that are under way, while something breaks."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.system.live import Live, until

MEBIBYTE = 1 << 20
LARGE = 96 * MEBIBYTE
SECONDS = 50


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Copying:
    """A copy of a file by `cp`. `progress`: the file whose size tells how far it is."""

    def __init__(self, source: Path, target: Path, progress: Path) -> None:
        self.process = subprocess.Popen(["cp", source, target])
        self._progress = progress

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def reach(self, mebibytes: int) -> None:
        """Wait until so much is there; it may not be all."""
        until(lambda: size(self._progress) >= mebibytes * MEBIBYTE, f"{mebibytes} MiB are there")
        assert self.running


@contextmanager
def copying(source: Path, target: Path, progress: Path) -> Iterator[Copying]:
    """Copy a file beside the block. At its end the copy is waited for, and has to be right."""
    copy = Copying(source, target, progress)
    try:
        yield copy
        assert copy.process.wait(SECONDS) == 0
    finally:
        copy.process.kill()
        copy.process.wait()
    assert digest(source) == digest(target)


@contextmanager
def writing(mount: Live, large: Path) -> Iterator[Copying]:
    """Copy the large file to the mount."""
    there = mount.export / "written"
    with copying(large, mount.path / "written", there) as copy:
        yield copy
    assert digest(there) == digest(large)
    (mount.path / "written").unlink()


@contextmanager
def reading(mount: Live, large: Path) -> Iterator[Copying]:
    """Copy the large file from the mount, where only the server has seen it before."""
    target = large.with_name("read")
    target.unlink(missing_ok=True)
    shutil.copyfile(large, mount.export / "for reading")
    with copying(mount.path / "for reading", target, target) as copy:
        yield copy
    (mount.path / "for reading").unlink()


both_ways = pytest.mark.parametrize("how", [writing, reading])
Copy = Callable[[Live, Path], AbstractContextManager[Copying]]
