"""What Linux lets happen at the same time (Documentation/filesystems/locking.rst): who changes a
directory has it alone, who looks names up or lists shares it, and who writes has the file alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio.lowlevel import ParkingLot

__all__ = ["InodeLock"]


class InodeLock:
    """The `i_rwsem` of an inode."""

    def __init__(self) -> None:
        self._sharing = 0
        self._alone = False
        self._waiting = ParkingLot()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        while self._alone:
            await self._waiting.park()
        self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            self._waiting.unpark_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        while self._alone or self._sharing:
            await self._waiting.park()
        self._alone = True
        try:
            yield
        finally:
            self._alone = False
            self._waiting.unpark_all()
