"""Every number that a server can send, in every result, at its limits.

What may come of it is an answer or an errno; never a traceback, never the end of the mount.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError, SetattrFields
from trio.testing import MockClock
from umktls_fs.attributes import entry_attributes
from umktls_fs.download import get
from umktls_fs.upload import put

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.place import Place
from tests.fs.world import ROOT, World, fails
from tests.nfs.numbers import lies
from umktls.nfs.listed import facts_of
from umktls.nfs.program import NFS3
from umktls.nfs.types import (
    fattr3,
    ftype3,
    nfsstat3,
    nfstime3,
    specdata3,
)
from umktls.rpc import xdr
from umktls.rpc.message import OpaqueAuth

OPTIONS = "timeo=10,retrans=0,wsize=4096,rsize=4096"
DATA = bytes(range(256)) * 48
TIME = nfstime3(1, 2)
NO_DEVICE = specdata3(0, 0)
SIZES = (0, 1, 512, 2**31, 2**32 - 1)


class Truncate:
    """What FUSE says of an ftruncate(2)."""

    update_size = True
    update_mode = update_uid = update_gid = update_atime = update_mtime = False


async def truncate(world: World, name: str) -> None:
    entry = EntryAttributes()
    entry.st_size = 3
    number = await world.number("file")
    await world.ops.setattr(number, entry, cast(SetattrFields, Truncate()), None, world.ctx)


async def write(world: World, name: str) -> None:
    fh = await world.create(name)
    try:
        for offset in range(0, len(DATA), 4096):
            await world.ops.write(fh, offset, DATA[offset : offset + 4096])
        await world.ops.fsync(fh, False)
    finally:
        await close(world, fh)


async def read(world: World, name: str) -> None:
    fh = await world.open("file")
    try:
        for offset in (*range(0, len(DATA), 2048), 2**62):
            await world.ops.read(fh, offset, 2048)
    finally:
        await close(world, fh)


async def close(world: World, fh: int) -> None:
    try:
        await world.ops.flush(fh)
    finally:
        await world.ops.release(fh)


async def listdir(world: World, name: str) -> None:
    await world.listdir()
    await world.listdir(room=2)


async def node(world: World, name: str) -> None:
    await world.ops.mknod(ROOT, name.encode(), stat.S_IFIFO | 0o600, 0, world.ctx)


async def remove(world: World, name: str) -> None:
    (world.export / name).touch()
    await world.ops.unlink(ROOT, name.encode(), world.ctx)


async def remove_directory(world: World, name: str) -> None:
    (world.export / name).mkdir()
    await world.ops.rmdir(ROOT, name.encode(), world.ctx)


async def rename(world: World, name: str) -> None:
    (world.export / name).touch()
    await world.ops.rename(ROOT, name.encode(), ROOT, b"other", 0, world.ctx)


async def link(world: World, name: str) -> None:
    await world.ops.link(await world.number("file"), ROOT, name.encode(), world.ctx)


Operation = Callable[[World, str], Awaitable[Any]]
# By procedure: what has its result, given a name that is not there yet
OPERATIONS: dict[str, Operation] = {
    "GETATTR": lambda w, name: w.ops.getattr(ROOT, w.ctx),
    "SETATTR": truncate,
    "LOOKUP": lambda w, name: w.lookup("file"),
    "ACCESS": lambda w, name: w.ops.access(ROOT, os.R_OK, w.ctx),
    "READLINK": lambda w, name: readlink(w),
    "READ": read,
    "WRITE": write,
    "CREATE": lambda w, name: w.create(name),
    "MKDIR": lambda w, name: w.ops.mkdir(ROOT, name.encode(), 0o755, w.ctx),
    "SYMLINK": lambda w, name: w.ops.symlink(ROOT, name.encode(), b"target", w.ctx),
    "MKNOD": node,
    "REMOVE": remove,
    "RMDIR": remove_directory,
    "RENAME": rename,
    "LINK": link,
    "READDIR": listdir,
    "READDIRPLUS": listdir,
    "FSSTAT": lambda w, name: w.ops.statfs(w.ctx),
    "PATHCONF": lambda w, name: w.ops.statfs(w.ctx),
    "COMMIT": write,
}


async def readlink(world: World) -> None:
    await world.ops.readlink(await world.number("link"), world.ctx)


class Liar:
    """A server that tells one lie about a procedure's results, over and over.

    answer: the first true result. lie: what is told in place of one like that, by its place.
    """

    def __init__(self, name: str, clock: MockClock) -> None:
        self.procedure = NFS3[name]
        self.clock = clock
        self.answer: Any = None
        self.where: str | None = None
        self.status: int | None = None

    async def between(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        self.clock.jump(0.5)
        result = await proceed(args)
        if self.answer is None:
            self.answer = result
        codec = cast(xdr.ResultCodec[Any, Any], self.procedure.result)
        if self.status is not None:
            result = codec.fail(self.status)
        elif self.where is not None and type(result) is codec.ok:
            told = (lie for where, lie in lies(codec, result) if where == self.where)
            result = next(told, result)
        return self.procedure.decode_result_untrusted(
            memoryview(b"".join(self.procedure.encode_result(result)))
        )


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A traceback in the log is a mistake of ours."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.exc_info] == []


async def survive(operation: Awaitable[Any]) -> None:
    """It succeeds, or fails as a system call may."""
    with trio.fail_after(60):
        try:
            await operation
        except FUSEError as error:
            number = error.errno
        else:
            return
    assert 0 < number < 134


def furnish(world: World) -> None:
    (world.export / "file").write_bytes(DATA)
    (world.export / "link").symlink_to("file")


async def check_well(world: World, name: str) -> None:
    """With a server that is honest again a mount works as ever."""
    world.caller.between.clear()
    await write(world, name)
    assert (world.export / name).read_bytes() == DATA
    fh = await world.open(name)
    assert bytes(await world.ops.read(fh, 100, 300)) == DATA[100:400]
    await world.close(fh)


@pytest.mark.usefixtures("no_traceback")
@pytest.mark.parametrize("name", OPERATIONS)
async def test_every_number_in_every_result(
    make_world: MakeWorld, autojump_clock: MockClock, name: str
) -> None:
    options = OPTIONS + (",nordirplus" if name == "READDIR" else "")
    world = make_world(options)
    furnish(world)
    liar = Liar(name, autojump_clock)
    world.caller.between[name] = liar.between
    await OPERATIONS[name](world, "honest")
    assert liar.answer is not None
    count = 0
    for where, _ in list(lies(NFS3[name].result, liar.answer)):
        world.remake()
        liar.where, count = where, count + 1
        await survive(OPERATIONS[name](world, f"lie{count}"))
    liar.where = None
    for status in [*map(int, nfsstat3), -1, 3, 2**31 - 1][1:]:
        world.remake()
        liar.status, count = status, count + 1
        await survive(OPERATIONS[name](world, f"lie{count}"))
    assert count >= 40
    await check_well(world, "well")


@pytest.mark.usefixtures("no_traceback")
async def test_every_number_in_fsinfo(make_world: MakeWorld, autojump_clock: MockClock) -> None:
    """Linux's client heeds no maximum below 512 (fs/nfs/client.c, nfs_server_set_fsinfo)."""
    world = make_world()
    furnish(world)
    for count, (_, lie) in enumerate(lies(NFS3["FSINFO"].result, world.caller.fsinfo)):
        world.caller.fsinfo = lie
        world.remake()
        await check_well(world, f"lie{count}")
        await listdir(world, "")


@pytest.mark.parametrize("size", SIZES)
async def test_transfer_sizes_below_512_are_not_heeded(make_world: MakeWorld, size: int) -> None:
    world = make_world()
    world.caller.fsinfo = replace(world.caller.fsinfo, rtmax=size, wtmax=size)
    world.remake()
    expected = min(1 << 20, size) if size >= 512 else 1 << 20
    assert world.ops.behind.wsize == expected


async def test_copies_heed_none_below_512_either(place: Place) -> None:
    """What is copied without a mount."""
    place.caller.fsinfo = replace(place.caller.fsinfo, rtmax=1, wtmax=1)
    source, target = place.local / "source", place.local / "target"
    source.write_bytes(bytes(100))
    root = await place.tree.root()
    with place.caller.watch() as seen:
        node, _ = await put(place.tree, str(source), root, b"file", place.advance)
        await get(place.tree, node, str(target), place.advance)
    assert [call.name for call in seen if call.name in ("READ", "WRITE")] == ["WRITE", "READ"]
    assert target.read_bytes() == bytes(100)


def attributes(size: int = 5, rdev: specdata3 = NO_DEVICE) -> fattr3:
    return fattr3(ftype3.NF3CHR, 0o600, 1, 0, 0, size, size, rdev, 1, 2, TIME, TIME, TIME)


@pytest.mark.parametrize(
    ("sent", "shown"), [(2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1), (2**64 - 1, 2**63 - 1)]
)
def test_a_size_is_as_much_as_this_machine_can_say(sent: int, shown: int) -> None:
    """As Linux does (include/linux/nfs_fs.h, nfs_size_to_loff_t)."""
    assert entry_attributes(facts_of(attributes(sent)), 7, 4096).st_size == shown


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (specdata3(8, 1), os.makedev(8, 1)),
        (specdata3(0xFFF, 0xFFFFF), os.makedev(0xFFF, 0xFFFFF)),
        (specdata3(0x1000, 1), 0),
        (specdata3(1, 0x100000), 0),
        (specdata3(2**32 - 1, 2**32 - 1), 0),
    ],
)
def test_a_device_that_this_machine_cannot_have_is_none(sent: specdata3, shown: int) -> None:
    """As Linux does (fs/nfs/nfs3xdr.c, decode_fattr3)."""
    assert entry_attributes(facts_of(attributes(rdev=sent)), 7, 4096).st_rdev == shown


@pytest.mark.parametrize("options", ["rdirplus", "nordirplus"])
async def test_a_listing_that_goes_round_ends(make_world: MakeWorld, options: str) -> None:
    """ELOOP, as Linux has it (fs/nfs/dir.c, nfs_readdir_search_array)."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: Any = await proceed(replace(args, cookie=0))
        kind = type(result.reply)
        entries = result.reply.entries
        first = args.cookie % 2 * 2
        some: list[Any] = list(entries[first : first + 2])
        some[-1] = replace(some[-1], cookie=1 if first == 0 else 2)
        return replace(result, reply=kind(some, False))

    world = make_world(options)
    for number in range(4):
        (world.export / f"f{number}").touch()
    world.caller.between = {"READDIR": between, "READDIRPLUS": between}
    with trio.fail_after(20):
        assert await fails(world.listdir()) == errno.ELOOP
