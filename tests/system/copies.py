"""Copies that are under way, while something breaks."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.live import Live, until

MEBIBYTE = 1 << 20
LARGE = 96 * MEBIBYTE
AHEAD = 24  # MiB: more than a mount holds back or reads ahead
SECONDS = 50


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# Copies a file, as far as it is told: by lines with so many mebibytes, and by the end of its input.
COPY = """
import sys

with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb", buffering=0) as target:
    allowed = 0
    while piece := source.read(1 << 18):
        while allowed is not None and target.tell() >= allowed << 20:
            line = sys.stdin.readline()
            allowed = int(line) if line else None
        target.write(piece)
"""


class Copying:
    """A copy of a file. `progress`: the file whose size tells how far it is."""

    def __init__(self, source: Path, target: Path, progress: Path) -> None:
        command: list[str | Path] = [sys.executable, "-c", COPY, source, target]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self._progress = progress

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def reach(self, mebibytes: int) -> None:
        """Wait until so much is there; from there on the copy goes on, and not to its end."""
        assert mebibytes + AHEAD < LARGE // MEBIBYTE
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mebibytes + AHEAD}\n")
        self.process.stdin.flush()
        until(lambda: size(self._progress) >= mebibytes * MEBIBYTE, f"{mebibytes} MiB are there")

    def go_on(self) -> None:
        """To the end."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def copying(source: Path, target: Path, progress: Path) -> Iterator[Copying]:
    """Copy a file beside the block. At its end the copy is waited for, and has to be right."""
    copy = Copying(source, target, progress)
    try:
        yield copy
        copy.go_on()
        assert copy.process.wait(patience(SECONDS)) == 0
    finally:
        copy.go_on()
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
