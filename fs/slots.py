"""A counting semaphore for the hot path: taking a free slot neither yields nor allocates."""

from __future__ import annotations

from types import TracebackType

from trio.lowlevel import ParkingLot

__all__ = ["Slots"]


class Slots:
    """At most `count` holders at a time; others wait in line."""

    def __init__(self, count: int) -> None:
        self._free = self._count = count
        self._waiting = ParkingLot()

    def unused(self) -> bool:
        """Whether nobody holds one."""
        return self._free == self._count

    def take(self) -> bool:
        """Take a slot if one is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self) -> None:
        """Take a slot, in turn. Unlike trio's own this is no checkpoint if one is free."""
        if not self.take():
            await self._waiting.park()

    def release(self) -> None:
        """Give a slot back, straight to the longest waiter if there is one."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self._free += 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
