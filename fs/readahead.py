"""Reading, and reading ahead.

Theory of operation. The kernel reads ahead too, but at most a few requests, and 128 KiB each unless
root raises that. So a file that is read from front to back is read ahead here, in blocks of one
READ each, several in flight. A block begins where the kernel's next request is expected and is a
multiple of that request's size, so that a request lies in one block and is answered with a view of
it, without a copy; that is why reading ahead waits for two requests of the same size.

The number of blocks grows as they prove useful, up to what the mount option allows; a seek, or any
change of the file (`Inode.data_version`), drops them. Each time that happens before one block has
been read to its end, twice as many requests have to follow each other before it is tried again: who
reads a little here and there, or changes what he reads as he goes, would have the server send a
thousand times what he wants. Requests that are not sequential pass straight to the server with
exactly the bytes that were asked for; around.py has what is fetched beside them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.nfs.listed import facts_of
from umktls.nfs.types import READ3resfail, READ3resok
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.xdr import Buffer

from .around import Around
from .attributes import AttributeCache, state_of
from .blocks import Block, Memory
from .calls import Calls, Posted
from .inodes import Inode

__all__ = ["ReadAhead", "Reader"]

MEMORY = 64 << 20
FIRST_WINDOW = 2
MOST_VAIN = 6  # tries that were in vain, of which it is known

log = logging.getLogger(__name__)


class ReadAhead:
    """Shared by all readers of a mount: calls, and memory for blocks.

    start: starts a background task. rsize: bytes of a READ at most. window: bytes ahead per file.
    """

    def __init__(
        self,
        calls: Calls,
        attributes: AttributeCache,
        start: Callable[..., Any],
        rsize: int,
        window: int,
        memory: int = MEMORY,
    ) -> None:
        self._calls = calls
        self._attributes = attributes
        self.start = start
        self.rsize = rsize
        self.window = min(window, memory) // rsize
        self.memory = Memory(memory)

    async def read(self, inode: Inode, offset: int, count: int, credential: OpaqueAuth) -> Buffer:
        """`count` bytes, fewer only at the end of the file."""
        data, end = await self._read(inode, offset, count, credential)
        if end or len(data) == count:
            return data
        parts, got = [data], len(data)
        until = trio.current_time() + self._calls.patience
        while got < count and not end:
            if trio.current_time() >= until:
                text = f"READ: {got} of {count} bytes in {self._calls.patience:g} s"
                raise WorldError(text, self._calls.timeout_errno)
            data, end = await self._read(inode, offset + got, count - got, credential)
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    async def _read(
        self, inode: Inode, offset: int, count: int, credential: OpaqueAuth
    ) -> tuple[Buffer, bool]:
        """One READ: what came, and whether the file ends there."""
        count = min(count, self.rsize)
        started = self._attributes.stamp()
        result = await self._calls.read(inode.handle, offset, count, credential)
        self._attributes.update(inode, result.file_attributes, started)
        data = result.data if len(result.data) <= count else result.data[:count]
        return data, result.eof or not data

    def post(self, inode: Inode, length: int, credential: OpaqueAuth) -> First:
        """Ask for the beginning of a file without waiting for it."""
        started = self._attributes.stamp()
        return First(self._calls.post_read(inode.handle, 0, length, credential), started, length)

    async def take(self, inode: Inode, first: First) -> Block | None:
        """What came of that; None unless it is all that was asked for, up to the end of the file,
        and the file is known to be as it was then."""
        try:
            result = await first.posted.result()
        except UmktlsError:
            return None
        if not isinstance(result, READ3resok):
            return None
        attr = result.file_attributes
        self._attributes.update(inode, attr, first.started)
        if attr is None or state_of(facts_of(attr)) != inode.version:
            return None
        length = len(result.data)
        if length > first.length or (length < first.length and not result.eof):
            return None
        block = Block(0, first.length)
        block.data = result.data
        block.ready.set()
        return block

    def believed(self, inode: Inode) -> bool:
        """Whether the file is known to be as it was."""
        return self._attributes.fresh(inode)

    def fetch(self, inode: Inode, block: Block, credential: OpaqueAuth) -> None:
        """Have a block filled, in a task of its own."""
        self.start(self._fetch, inode, block, credential)

    async def _fetch(self, inode: Inode, block: Block, credential: OpaqueAuth) -> None:
        """Fill one block. Runs as a task, so nothing but Cancelled may leave it."""
        try:
            if block.wanted:
                block.data = await self.read(inode, block.offset, block.length, credential)
        except UmktlsError as error:
            # Whoever needs these bytes asks for them again and gets the error of that.
            log.debug("reading ahead: %s", error)
        except Exception:
            log.exception("reading ahead failed")
        finally:
            block.ready.set()


class First(NamedTuple):
    """A READ of so many bytes from the beginning of a file, that was `started` (a stamp of
    AttributeCache) and is not waited for."""

    posted: Posted[READ3resok | READ3resfail]
    started: int
    length: int


class Reader:
    """Reads one open file with the credential of who opened it. first: the READ that was made with
    the open."""

    def __init__(
        self, inode: Inode, credential: OpaqueAuth, shared: ReadAhead, first: First | None = None
    ) -> None:
        self._first = first
        self.blocks: deque[Block] = deque()  # contiguous
        self._inode = inode
        self._credential = credential
        self._shared = shared
        self._next = 0  # where a sequential reader reads next
        self._size = 0  # of the last request
        self._alike = 0  # requests of that size that have followed another one of it
        self._window = FIRST_WINDOW
        self._useful = False  # whether one of these blocks was read to its end
        self._vain = 0  # how often in a row none was
        self._version = inode.data_version
        self._around: Around | None = None  # once it is of use

    @property
    def holds(self) -> bool:
        """Whether there is anything to drop."""
        return bool(self.blocks)

    def read(self, offset: int, size: int) -> Coroutine[Any, Any, Buffer]:
        """`size` bytes, fewer only at the end of the file. Raises UmktlsError."""
        if self._first is not None:
            first, self._first = self._first, None
            return self._begin(first, offset, size)
        astray = self._follow(offset, size)
        if self.blocks:
            end = offset + size
            blocks = [block for block in self.blocks if block.offset < end and block.end > offset]
            self._pass(end)
            if blocks and blocks[0].offset <= offset:
                return self._collect(blocks, offset, size)
        if self._around is not None:
            block = self._around.find(offset, size)
            if block is not None:
                return self._collect([block], offset, size)
        if astray:
            self._stray(offset, size)
        return self._shared.read(self._inode, offset, size, self._credential)

    async def _begin(self, first: First, offset: int, size: int) -> Buffer:
        """The first read."""
        block = await self._shared.take(self._inode, first)
        if block is not None and self._shared.memory.reserve(self, block.length):
            self.blocks.append(block)
        return await self.read(offset, size)

    def drop(self) -> None:
        """Forget all blocks; what is on its way is thrown away when it comes."""
        freed = 0
        for block in self.blocks:
            block.wanted = False
            freed += block.length
        self.blocks.clear()
        self._window = FIRST_WINDOW
        self._shared.memory.give_back(self, freed)

    def close(self) -> None:
        """Nobody reads here any more."""
        if self._first is not None:
            self._first.posted.drop()
            self._first = None
        self.drop()
        if self._around is not None:
            self._around.drop()

    def _follow(self, offset: int, size: int) -> bool:
        """Notice what kind of reading this is, and read ahead if it is sequential. True: it is
        not."""
        astray, changed = offset != self._next, self._version != self._inode.data_version
        if changed:
            self._version = self._inode.data_version
        if astray or changed:
            self._give_up()
        if changed:
            self.close()
        if not astray:
            self._alike = self._alike + 1 if size == self._size else 0
            if self.blocks or self._alike >= 1 << self._vain:
                self._extend(offset + size, size)
        self._next = offset + size
        self._size = size
        return astray

    def _give_up(self) -> None:
        """What was read ahead is of no use."""
        if self.blocks:
            self._vain = 0 if self._useful else min(self._vain + 1, MOST_VAIN)
            self.drop()
        self._alike, self._useful, self._window = 0, False, FIRST_WINDOW

    def _stray(self, offset: int, size: int) -> None:
        """The server is asked for bytes here and there."""
        if self._around is None:
            if not self._shared.window:
                return
            self._around = Around(self._inode, self._credential, self._shared)
        self._around.asked(offset, size)

    def _extend(self, start: int, size: int) -> None:
        """Have blocks on their way from `start` on, as many as the window says."""
        shared, inode = self._shared, self._inode
        length = max(shared.rsize // size * size, size) if size <= shared.rsize else shared.rsize
        ahead = [block for block in self.blocks if block.end > start]
        window = min(self._window, shared.window)
        offset = ahead[-1].end if ahead else start
        file_size = inode.version[1] if inode.version is not None else 0
        for _ in range(window - len(ahead)):
            if offset >= file_size or not shared.memory.reserve(self, length):
                return
            block = Block(offset, length)
            self.blocks.append(block)
            shared.fetch(inode, block, self._credential)
            offset = block.end

    def _pass(self, end: int) -> None:
        """Let go of the blocks that end before `end`: they were useful, so the window grows."""
        while self.blocks and self.blocks[0].end <= end:
            block = self.blocks.popleft()
            self._useful = True
            self._window = min(self._window * 2, max(self._shared.window, FIRST_WINDOW))
            self._shared.memory.give_back(self, block.length)

    async def _collect(self, blocks: list[Block], offset: int, size: int) -> Buffer:
        """The bytes from `offset` on: out of blocks that cover it, and from the server."""
        parts: list[Buffer] = []
        position, end = offset, offset + size
        for block in blocks:
            if not block.ready.is_set():  # waiting for a set event would still be a checkpoint
                await block.ready.wait()
            if block.data is None:
                break
            start = position - block.offset
            parts.append(memoryview(block.data)[start : start + end - position])
            position += len(parts[-1])
            if len(block.data) < block.length:
                return _joined(parts)
        if position < end:
            args = (self._inode, position, end - position, self._credential)
            parts.append(await self._shared.read(*args))
        return _joined(parts)


def _joined(parts: list[Buffer]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)
