"""Reading around: what lies beside the places that a program reads here and there in a file.

Theory of operation. A READ of a few KiB costs mostly what a call costs, and one of a whole region
only some calls more. A program that reads scattered pages of a file that is not much larger than
what it reads (an index, a data base, an archive) comes back to the neighbourhood. So a region is
fetched whole once so many small requests in it have each been a READ that the region would not have
cost more: whatever comes then, that is at most twice what would have been best.

A region that nobody comes back to is a loss. What may be lost is bounded per open file: each region
fetched takes from an account what it costs, each request answered out of one puts a READ's worth
back. A file too large to come back to anywhere in it costs nothing but that.

What is kept is as good as a page of a page cache (nfs(5)): it is used only while the file's
attributes may be believed, and any change of the file (`Inode.data_version`) drops it. Otherwise
the server is asked, and its reply says whether the file is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from umktls.rpc.message import OpaqueAuth

from .blocks import Block, Memory
from .inodes import Inode

__all__ = ["Around", "Store"]

REGION = 1 << 20
SMALL = 32 << 10  # bytes of a request that is counted
# So many bytes more in a READ take about as long as one READ of 4 KiB more (by `make bench` that is
# 0.4 ms, and 1 MiB takes 1.7 ms).
BYTES_A_READ = 1 << 18
CREDIT = 64  # READs' worth that may be lost, per open file
COUNTED = 4096  # regions whose requests are counted


class Store(Protocol):
    """Who fills blocks, and has the memory for them: readahead.ReadAhead."""

    rsize: int
    memory: Memory

    def believed(self, inode: Inode) -> bool:
        """Whether the file is known to be as it was."""

    def fetch(self, inode: Inode, block: Block, credential: OpaqueAuth) -> None:
        """Have a block filled."""


class Around:
    """The regions of one open file that are kept, least recently used first."""

    def __init__(self, inode: Inode, credential: OpaqueAuth, store: Store) -> None:
        self._inode = inode
        self._credential = credential
        self._store = store
        self._size = min(REGION, store.rsize)
        self._regions: OrderedDict[int, Block] = OrderedDict()
        self._asked: dict[int, int] = {}  # small requests that were READs, by region
        self._credit = CREDIT

    @property
    def holds(self) -> bool:
        """Whether there is anything to drop."""
        return bool(self._regions)

    def find(self, offset: int, size: int) -> Block | None:
        """What has these bytes, or will have; None if the server has to be asked for them."""
        number = offset // self._size
        block = self._regions.get(number)
        if block is None or offset + size > block.end or not self._store.believed(self._inode):
            return None
        if block.failed:
            self._forget(number)
            return None
        self._regions.move_to_end(number)
        self._store.memory.touch(self)
        self._credit = min(self._credit + 1, CREDIT)
        return block

    def asked(self, offset: int, size: int) -> None:
        """The server is asked for bytes that do not follow those asked for before."""
        number = offset // self._size
        if size > min(SMALL, self._size // 2) or number in self._regions:
            return
        length = self._length(number)
        cost = max(2, 1 + length // BYTES_A_READ)
        count = self._asked.pop(number, 0) + 1
        worth = count >= cost and self._credit >= cost and self._store.believed(self._inode)
        if worth and self._fetch(number, length):
            self._credit -= cost
            return
        if len(self._asked) >= COUNTED:
            self._asked.clear()
        self._asked[number] = count

    def _length(self, number: int) -> int:
        """Bytes of a region, as far as the file is known to go."""
        end = self._inode.version[1] if self._inode.version is not None else 0
        return max(0, min(self._size, end - number * self._size))

    def _fetch(self, number: int, length: int) -> bool:
        if not length:
            return False
        while not self._store.memory.reserve(self, length):
            if not self._regions:
                return False
            self._forget(next(iter(self._regions)))
        block = self._regions[number] = Block(number * self._size, length)
        self._store.fetch(self._inode, block, self._credential)
        return True

    def drop(self) -> None:
        """Forget all regions; what is on its way is thrown away when it comes."""
        for number in list(self._regions):
            self._forget(number)

    def _forget(self, number: int) -> None:
        block = self._regions.pop(number)
        block.wanted = False
        self._store.memory.give_back(self, block.length)
