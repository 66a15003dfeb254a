"""Write-behind for a whole mount: memory, calls in flight, the clock (writer.py: one file)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio
from trio.lowlevel import ParkingLot

from .attributes import AttributeCache
from .calls import Calls
from .kernelcache import KernelCache
from .slots import Slots

__all__ = ["WriteBehind"]

MEBIBYTE = 1 << 20
MEMORY = 24 * MEBIBYTE
WRITES_IN_FLIGHT = 8
# A file with this part of it unstable is committed in the background. With half of it, a server
# that is slower than who writes had nothing to do each time until more came.
UNSTABLE_PART = 4
AGE_SECONDS = 1.0


class Unwritten(Protocol):
    """The written data of one file, which its writer holds."""

    def relieve(self) -> None:
        """Memory is short."""

    def tidy(self, now: float, age: float) -> None:
        """Send what has waited for `age` seconds."""

    async def flush(self) -> None:
        """Make everything stable that can be."""


class WriteBehind:
    """Shared by all writers of a mount.

    start: starts a background task (a nursery's start_soon). wsize: bytes of a WRITE at most.
    memory: bytes that may be held before writes wait.
    """

    def __init__(
        self,
        calls: Calls,
        attributes: AttributeCache,
        kernel: KernelCache,
        start: Callable[..., Any],
        clock: Callable[[], float],
        wsize: int,
        memory: int = MEMORY,
    ) -> None:
        self.calls = calls
        self.attributes = attributes
        self.kernel = kernel
        self.start = start
        self.clock = clock
        self.wsize = wsize
        self.slots = Slots(WRITES_IN_FLIGHT)
        self.held = 0
        self.progress = 0.0  # when the server last had a whole extent, or made some stable
        self.active: set[Unwritten] = set()
        self._memory = memory
        self._short = ParkingLot()

    async def reserve(self, count: int) -> None:
        """Wait until `count` bytes may be held. One write may exceed what there is if alone."""
        while self.held and self.held + count > self._memory:
            for writer in list(self.active):
                writer.relieve()
            await self._short.park()
        self.held += count

    def charge(self, count: int) -> None:
        """Count memory that is held already."""
        self.held += count

    def give_back(self, count: int) -> None:
        """Memory is free again."""
        self.held -= count
        self._short.unpark_all()

    def wants_commit(self, unstable: int) -> bool:
        """Whether a file with so much unstable data should be committed now."""
        return unstable >= self._memory // UNSTABLE_PART or (unstable > 0 and bool(self._short))

    async def run(self) -> None:
        """Send data that nobody waits for when it has become old. Runs as long as the mount."""
        while True:
            await trio.sleep(AGE_SECONDS)
            now = self.clock()
            for writer in list(self.active):
                writer.tidy(now, AGE_SECONDS)

    async def flush(self) -> None:
        """Make everything stable that can be, for the end of the mount."""
        async with trio.open_nursery() as nursery:
            for writer in list(self.active):
                nursery.start_soon(writer.flush)
