"""A local file, written to a server by many calls at a time, and seen there when all is there.

Until then it has a name of its own beside its target, made from what the source is, so that only
the same source is gone on with. It is written chunk by chunk, and each chunk is committed (RFC 1813
section 4.8) before the next: what lies in front of the last chunk is good, whatever happens.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.kernel.ground.refusals import in_thread
from umktls.nfs.types import (
    createhow3,
    createmode3,
    diropargs3,
    nfstime3,
    sattr3,
    stable_how,
)
from umktls.rpc.message import AuthSys

from .calls import transfer_size
from .download import BLOCKS_AHEAD, MOST_BLOCK, Advance, local_errors, part_name, umask
from .together import together
from .tree import KINDS, Node, Tree, joined, naming, nanoseconds

__all__ = ["put"]

CHUNK = 32 << 20
SENDS = 3  # of a chunk, where the server was restarted meanwhile (its verifier is another one)
LATEST = 1 << 32  # seconds since 1970 that an nfstime3 has no room for
PART_MODE = 0o600


async def put(
    tree: Tree, source: str, directory: Node, name: bytes, advance: Advance, *, resume: bool = True
) -> tuple[Node, bool]:
    """A local file into a server's directory, where it replaces one of that name; its time of
    change goes with it. Raises `UmktlsError`.

    resume: go on with what an interrupted copy has left, and leave alone a file of the same size
    and time. Returns the file there, and False if it was left alone.
    """
    with local_errors(source), opened(source) as file:
        before = os.fstat(file)
        known = await known_file(tree, directory, name)
        if resume and known is not None and is_same(known, before):
            advance(before.st_size)
            return known, False
        part = part_of(source, before, name)
        node, start = await open_part(tree, directory, part, resume)
        await fill(tree, node, file, start, before.st_size, advance)
        after = os.fstat(file)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        await remove(tree, directory, part)
        raise WorldError(f"{source} changed while it was copied: try again")
    with naming(tree.named(joined(directory.path, name))):
        await tree.calls.setattr(node.handle, finished(before), tree.credential)
        places = (diropargs3(directory.handle, part), diropargs3(directory.handle, name))
        await tree.calls.rename(*places, tree.credential)
        attributes = await tree.calls.getattr(node.handle, tree.credential)
    return Node(joined(directory.path, name), node.handle, attributes), True


@contextmanager
def opened(source: str) -> Iterator[int]:
    """The descriptor of a local file. Raises `OSError`."""
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


def part_of(source: str, facts: os.stat_result, name: bytes) -> bytes:
    where = os.path.abspath(source)
    return part_name(where, facts.st_size, facts.st_mtime_ns, os.fsdecode(name)).encode()


async def known_file(tree: Tree, directory: Node, name: bytes) -> Node | None:
    """The file that is there already. Raises `CallerError` for what no file can replace."""
    known = await tree.child_if_there(directory, name)
    if known is None:
        return None
    if not (known.is_file or known.is_link):
        raise CallerError(f"{tree.named(known.path)} is there, and a {KINDS[known.kind]}")
    return known


def is_same(known: Node, source: os.stat_result) -> bool:
    """Whether a server's file looks like the copy of a local one."""
    of = known.attributes
    same = (of.size, nanoseconds(of.mtime)) == (source.st_size, source.st_mtime_ns)
    return known.is_file and same


def finished(source: os.stat_result) -> sattr3:
    """What a copy that is complete gets: the source's mode (less the umask), and its times."""
    mode = source.st_mode & 0o777 & ~umask()
    return sattr3(mode=mode, atime=moment(source.st_atime_ns), mtime=moment(source.st_mtime_ns))


def moment(ns: int) -> nfstime3 | None:
    """A time as SETATTR sends it; None where it cannot be sent (before 1970, after 2106)."""
    seconds, rest = divmod(ns, 10**9)
    return nfstime3(seconds, rest) if 0 <= seconds < LATEST else None


async def remove(tree: Tree, directory: Node, name: bytes) -> None:
    with naming(tree.named(joined(directory.path, name))):
        await tree.calls.remove(directory.handle, name, tree.credential)


# ---- what is not complete


async def open_part(tree: Tree, directory: Node, name: bytes, resume: bool) -> tuple[Node, int]:
    """The file to write to, and from where on: the last chunk that is there may have holes."""
    made = await create(tree, directory, name)
    if made is not None:
        return made, 0
    known = await tree.child(directory, name)
    if resume and await is_own(tree, directory, known):
        return known, max(0, known.attributes.size - 1) // CHUNK * CHUNK
    await remove(tree, directory, name)
    made = await create(tree, directory, name)
    if made is None:
        raise WorldError(f"{tree.named(known.path)}: another copy of the same is under way")
    return made, 0


async def create(tree: Tree, directory: Node, name: bytes) -> Node | None:
    """A new file; None where there is one of that name."""
    how = createhow3(createmode3.GUARDED, sattr3(mode=PART_MODE))
    try:
        with naming(tree.named(directory.path)):
            made = await tree.calls.create(directory.handle, name, how, tree.credential)
    except UmktlsError as error:
        if error.errno == errno.EEXIST:
            return None
        raise
    if made.obj is None or made.obj_attributes is None:
        return await tree.child(directory, name)
    return Node(joined(directory.path, name), made.obj, made.obj_attributes)


async def is_own(tree: Tree, directory: Node, known: Node) -> bool:
    """Whether this user has left it: others may write to the directory too, and could have put
    something there to be gone on with. The server may know the user by another number (squash),
    which a file shows that is made now."""
    of = known.attributes
    if not known.is_file or of.nlink != 1 or of.mode & 0o7777 != PART_MODE:
        return False
    if of.uid == AuthSys.from_opaque_untrusted(tree.credential).uid:
        return True
    name = known.name + b".owner"
    made = await create(tree, directory, name)
    if made is None:
        return False
    await remove(tree, directory, name)
    return made.attributes.uid == of.uid


# ---- its bytes


async def fill(tree: Tree, node: Node, file: int, start: int, size: int, advance: Advance) -> None:
    """Write what is not there yet."""
    advance(start)
    for begin in range(start, size, CHUNK):
        end = min(begin + CHUNK, size)
        await store(tree, node, file, begin, end)
        advance(end - begin)


async def store(tree: Tree, node: Node, file: int, begin: int, end: int) -> None:
    """Write a chunk, and commit it."""
    for _ in range(SENDS):
        verifiers = await send(tree, node, file, begin, end)
        with naming(tree.named(node.path)):
            done = await tree.calls.commit(node.handle, tree.credential)
        if verifiers == {bytes(done.verf)}:
            return
    name = tree.named(node.path)
    raise PeerError(f"{name}: the server forgot what was written, {SENDS} times")


async def send(tree: Tree, node: Node, file: int, begin: int, end: int) -> set[bytes]:
    """Make the WRITEs of a chunk. Returns the verifiers of all of them."""
    step = transfer_size(MOST_BLOCK, tree.calls.fsinfo.wtmax)
    places = trio.Semaphore(BLOCKS_AHEAD)
    verifiers: set[bytes] = set()

    async def write(offset: int, data: memoryview) -> None:
        while data:
            with naming(tree.named(node.path)):
                done = await tree.calls.write(
                    node.handle, offset, data, stable_how.UNSTABLE, tree.credential
                )
            if not 0 < done.count <= len(data):
                raise PeerError(f"{tree.named(node.path)}: {done.count} bytes of a WRITE are there")
            verifiers.add(bytes(done.verf))
            offset, data = offset + done.count, data[done.count :]
        places.release()

    async with together() as nursery:
        for offset in range(begin, end, step):
            await places.acquire()
            count = min(step, end - offset)
            data = await in_thread(read_all, file, offset, count)
            nursery.start_soon(write, offset, memoryview(data))
    return verifiers


def read_all(file: int, offset: int, count: int) -> bytes:
    """So many bytes of a local file. Raises `WorldError` where it ends before."""
    data = os.pread(file, count, offset)
    while len(data) < count:
        more = os.pread(file, count - len(data), offset + len(data))
        if not more:
            raise WorldError(f"what is copied became shorter, and ends at {offset + len(data)}")
        data += more
    return data
