"""A host's clock that can stand still, as the host's daemons see it: a file in the run directory.

While somebody goes through what a host does step by step (`umktls watch --step`), its deadlines
stand still, and so have those of its daemons, which are processes of their own. The host writes how
long its clock has stood, and they read it: mapped memory, so that looking costs next to nothing.
The file says too whether anybody steps or watches closely, since a daemon has more to tell then.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

__all__ = ["CLOCK_FILE", "STEPPED", "WATCHED", "ClockFile", "KernelClock"]

CLOCK_FILE = "clock"
# Flags: somebody steps; somebody watches closely.
STEPPED, WATCHED = 1, 2

# Seconds that the clock has stood, until it began to stand now; when that was on CLOCK_MONOTONIC,
# 0.0 while it goes; flags. Each is written by itself, at a place of its own size.
STOOD, SINCE, FLAGS = 0, 8, 16
SIZE = 24


class ClockFile:
    """The host's side of the file. Raises `OSError` where it cannot be made."""

    def __init__(self, rundir: Path) -> None:
        path = rundir / CLOCK_FILE
        temporary = rundir / f"{CLOCK_FILE}.new"
        temporary.unlink(missing_ok=True)
        how = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, how, 0o600)
        try:
            os.write(descriptor, bytes(SIZE))
            self._memory = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        temporary.replace(path)

    def write(self, stood: float, since: float) -> None:
        """Whoever reads in between sees a clock that is late, never one that is early: what was
        added to `stood` goes in front of the end of a standstill."""
        places = ((SINCE, since), (STOOD, stood)) if since else ((STOOD, stood), (SINCE, since))
        for place, value in places:
            struct.pack_into("=d", self._memory, place, value)

    def mark(self, flag: int, on: bool) -> None:
        (flags,) = struct.unpack_from("=Q", self._memory, FLAGS)
        struct.pack_into("=Q", self._memory, FLAGS, flags | flag if on else flags & ~flag)


class KernelClock:
    """The clock of the host with that run directory, in seconds: CLOCK_MONOTONIC, less what it has
    stood. One without the file has a clock that always goes."""

    def __init__(self, rundir: Path) -> None:
        self._memory: mmap.mmap | bytes = bytes(SIZE)
        try:
            with (rundir / CLOCK_FILE).open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            pass

    def now(self) -> float:
        stood, since = struct.unpack_from("=dd", self._memory)
        return float((since or time.monotonic()) - stood)

    @property
    def asks(self) -> int:
        """The flags: what there is to tell more than usual."""
        (flags,) = struct.unpack_from("=Q", self._memory, FLAGS)
        return int(flags)
