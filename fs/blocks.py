"""Blocks of files that were fetched before somebody asked for them, and the memory for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import trio

from umktls.rpc.xdr import Buffer

__all__ = ["Block", "Holder", "Memory"]


class Block:
    """One READ's worth of data, perhaps still on its way. Shorter than `length`: the file ended.

    data: None when `ready` if the READ failed or was not made, because it was not `wanted` by then.
    """

    __slots__ = ("data", "length", "offset", "ready", "wanted")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.data: Buffer | None = None
        self.wanted = True
        self.ready = trio.Event()

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def failed(self) -> bool:
        """Whether it will never have data."""
        return self.data is None and self.ready.is_set()


class Holder(Protocol):
    """Who has blocks."""

    @property
    def holds(self) -> bool:
        """Whether there is anything to drop."""

    def drop(self) -> None:
        """Give back the memory of all blocks."""


class Memory:
    """What all blocks of a mount may take, in bytes: `size`, of which `free` is left."""

    def __init__(self, size: int) -> None:
        self.free = self.size = size
        self._holders: OrderedDict[Holder, None] = OrderedDict()

    def reserve(self, holder: Holder, count: int) -> bool:
        """Memory for a block, if need be taken from the holder that has been idle longest. False:
        there is none but this holder's own."""
        self.touch(holder)
        while self.free < count:
            idlest = next(iter(self._holders))
            if idlest is holder:
                return False
            idlest.drop()
        self.free -= count
        return True

    def touch(self, holder: Holder) -> None:
        """This holder is in use."""
        self._holders[holder] = None
        self._holders.move_to_end(holder)

    def give_back(self, holder: Holder, count: int) -> None:
        """Memory of a block is free again."""
        self.free += count
        if not holder.holds:
            self._holders.pop(holder, None)
