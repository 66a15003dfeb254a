"""A server's file, read by many calls at a time: poured out in order, copied, or made a digest of.

A copy that is not complete has a name of its own beside its target, made from what the source is
(its number, size and time of change), so that only the same source is gone on with.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from umktls.errors import CallerError, PeerError, WorldError
from umktls.kernel.ground.refusals import in_thread
from umktls.nfs.types import fattr3

from .calls import transfer_size
from .together import together
from .tree import Node, Tree, naming, nanoseconds

__all__ = ["Advance", "digest", "digest_of_local", "get", "local_errors", "part_name", "pour"]

Advance = Callable[[int], None]  # told of each number of bytes that is there
Sink = Callable[[bytes], Awaitable[None]]

MOST_BLOCK = 1 << 20
BLOCKS_AHEAD = 8
PART = ".umktls-{}.part"


class Block:
    """Some bytes of a file, on their way."""

    def __init__(self, tree: Tree, node: Node, start: int, end: int) -> None:
        self._tree = tree
        self._node = node
        self._start = start
        self._end = end
        self._data = bytearray()
        self._there = trio.Event()

    async def fetch(self) -> None:
        """A server may give fewer bytes at a time than it was asked for (RFC 1813 section 3.3.6).
        Raises `UmktlsError`."""
        tree, node, data = self._tree, self._node, self._data
        while (at := self._start + len(data)) < self._end:
            with naming(tree.named(node.path)):
                got = await tree.calls.read(node.handle, at, self._end - at, tree.credential)
            if not got.data:
                name = tree.named(node.path)
                raise PeerError(f"{name} ends at {at}: it became shorter while it was read")
            data += got.data
        self._there.set()

    async def wait(self) -> bytes:
        await self._there.wait()
        return bytes(self._data)


async def pour(tree: Tree, node: Node, sink: Sink, start: int = 0) -> None:
    """A file's bytes from `start` on, in order. Raises `UmktlsError`, `PeerError` where it ends
    before its size."""
    size, step = node.attributes.size, transfer_size(MOST_BLOCK, tree.calls.fsinfo.rtmax)
    send, receive = trio.open_memory_channel[Block](BLOCKS_AHEAD)
    async with together() as nursery:

        async def ask() -> None:
            async with send:
                for begin in range(start, size, step):
                    block = Block(tree, node, begin, min(begin + step, size))
                    await send.send(block)
                    nursery.start_soon(block.fetch)

        nursery.start_soon(ask)
        async for block in receive:
            await sink(await block.wait())


async def digest(tree: Tree, node: Node) -> str:
    """SHA-256 of a server's file, as the server gives it now."""
    found = hashlib.sha256()

    async def add(data: bytes) -> None:
        found.update(data)

    await pour(tree, node, add)
    return found.hexdigest()


def digest_of_local(path: str) -> str:
    """SHA-256 of a local file. Raises `WorldError`."""
    with local_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def local_errors(path: str) -> Iterator[None]:
    """What the system refuses inside the block is raised as an error about this file."""
    try:
        yield
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror}", error.errno) from error


def part_name(*what: object) -> str:
    """The name, beside the target, of a copy that is not complete."""
    text = "\0".join(map(str, what))
    return PART.format(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24])


async def get(
    tree: Tree, node: Node, target: str, advance: Advance, *, resume: bool = True
) -> bool:
    """A server's file into a local one, which is replaced when all is there; its time of change is
    the server's. Raises `UmktlsError`.

    resume: go on with what an interrupted copy has left, and leave alone a target of the same size
    and time. False: so it was.
    """
    of = node.attributes
    check_target(target)
    if resume and is_there(target, of):
        advance(of.size)
        return False
    name = part_name(of.fsid, of.fileid, of.size, of.mtime, os.path.basename(target))
    part = os.path.join(os.path.dirname(target), name)
    with local_errors(target):
        file = open_part(part, resume)
        try:
            await fill(tree, node, file, advance)
            if await changed(tree, node):
                os.unlink(part)
                raise WorldError(f"{tree.named(node.path)} changed while it was copied: try again")
            os.fchmod(file, of.mode & 0o777 & ~umask())
            os.utime(file, ns=(nanoseconds(of.atime), nanoseconds(of.mtime)))
        finally:
            os.close(file)
        os.replace(part, target)
    return True


async def fill(tree: Tree, node: Node, file: int, advance: Advance) -> None:
    """Write what is not there yet. What is there is good: it was written in order."""
    start = min(os.fstat(file).st_size, node.attributes.size)
    os.ftruncate(file, start)
    os.lseek(file, start, os.SEEK_SET)
    advance(start)

    async def write(data: bytes) -> None:
        await in_thread(write_all, file, data)
        advance(len(data))

    await pour(tree, node, write, start)


def write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


async def changed(tree: Tree, node: Node) -> bool:
    """Whether a path leads to another file now, or the file has changed."""
    with naming(tree.named(node.path)):
        now = await tree.calls.getattr(node.handle, tree.credential)
    return (now.size, now.mtime) != (node.attributes.size, node.attributes.mtime)


def check_target(target: str) -> None:
    """Raises `CallerError` for a device, a FIFO or a directory: no file takes its place."""
    with local_errors(target):
        try:
            mode = os.lstat(target).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise CallerError(f"{target}: {os.strerror(errno.EISDIR)}", errno.EISDIR)
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            text = f"{target} is no file; `umktls cat` writes to what is none"
            raise CallerError(text, errno.EEXIST)


def is_there(target: str, of: fattr3) -> bool:
    """Whether a file looks like the copy of one with these attributes."""
    try:
        known = os.lstat(target)
    except OSError:
        return False
    same = (known.st_size, known.st_mtime_ns) == (of.size, nanoseconds(of.mtime))
    return stat.S_ISREG(known.st_mode) and same


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def open_part(part: str, resume: bool) -> int:
    """The file to write to. It belongs to this user, and nobody else writes to it. Raises
    `OSError`."""
    file = open_own(part) if resume else None
    if file is None:
        with suppress(FileNotFoundError):
            os.unlink(part)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(part, flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise WorldError("another copy of the same is under way", errno.EBUSY) from None
    except OSError:
        pass  # not every file system has locks
    return file


def open_own(part: str) -> int | None:
    """A file that this user has left. In a directory where others may write too (/tmp), somebody
    else could have put one there, for us to go on with."""
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(part, flags)
    except OSError:
        return None
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
        return file
    os.close(file)
    return None
