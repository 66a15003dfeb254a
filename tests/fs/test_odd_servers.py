"""What real servers answer that is odd, and has to be borne."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.fs.conftest import OLD, MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Somebody, World, fails
from umktls.nfs.types import (
    NO_WCC,
    ACCESS3args,
    ACCESS3resok,
    PATHCONF3resfail,
    READDIRPLUS3resfail,
    READDIRPLUS3resok,
    dirlistplus3,
    nfsstat3,
)
from umktls.rpc.client import ProcedureUnavailable, SystemFailure
from umktls.rpc.message import OpaqueAuth

Answer = Callable[[], Any]


def refuses(fail: Any) -> dict[str, Answer]:
    """A server that has no such procedure, as its authors understood it."""

    def unavailable() -> Any:
        raise ProcedureUnavailable("the server does not offer this procedure")

    return {"NOTSUPP": lambda: fail, "PROC_UNAVAIL": unavailable}


LISTINGS = refuses(READDIRPLUS3resfail(nfsstat3.NFS3ERR_NOTSUPP, None))
LIMITS = refuses(PATHCONF3resfail(nfsstat3.NFS3ERR_NOTSUPP, None))


def answer_with(world: World, procedure: str, answer: Answer) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return answer()

    world.caller.between[procedure] = between


def called(world: World, procedure: str) -> int:
    return sum(seen.name == procedure for seen in world.caller.seen)


@pytest.mark.parametrize("answer", LISTINGS.values(), ids=LISTINGS.keys())
async def test_no_readdirplus(world: World, answer: Answer) -> None:
    """READDIR lists then, from that call on."""
    answer_with(world, "READDIRPLUS", answer)
    names = [f"file{number}" for number in range(500)]
    for name in names:
        (world.export / name).touch()
    for _ in range(2):
        assert await world.listdir() == sorted(map(os.fsencode, names))
    assert called(world, "READDIRPLUS") == 1
    assert (await world.lookup("file7")).st_size == 0


async def test_another_failure_of_readdirplus_is_none_of_these(world: World) -> None:
    answer_with(world, "READDIRPLUS", lambda: READDIRPLUS3resfail(nfsstat3.NFS3ERR_ACCES, None))
    assert await fails(world.listdir()) == errno.EACCES
    assert called(world, "READDIR") == 0


@pytest.mark.parametrize("eof", [True, False])
async def test_a_listing_without_an_entry(world: World, eof: bool) -> None:
    """Not even of the directory itself."""
    reply = dirlistplus3([], eof)
    answer_with(world, "READDIRPLUS", lambda: READDIRPLUS3resok(None, bytes(8), reply))
    assert await world.listdir() == []
    assert called(world, "READDIRPLUS") == 1


@pytest.mark.parametrize("answer", LIMITS.values(), ids=LIMITS.keys())
async def test_no_pathconf(world: World, answer: Answer) -> None:
    answer_with(world, "PATHCONF", answer)
    for _ in range(2):
        stats = await world.ops.statfs(world.ctx)
        assert stats.f_namemax == 255
        assert stats.f_blocks > 0
    assert called(world, "PATHCONF") == 1


async def test_a_pathconf_that_breaks(world: World) -> None:
    """That says nothing of the limits, and may not be so next time."""

    def broken() -> Any:
        raise SystemFailure("the server failed while it executed the call")

    answer_with(world, "PATHCONF", broken)
    assert await fails(world.ops.statfs(world.ctx)) == errno.EIO


async def test_no_preferences(world: World) -> None:
    """FSINFO with zeros, which mean that the server does not say."""
    world.caller.fsinfo = replace(
        world.caller.fsinfo,
        rtmax=0,
        rtpref=0,
        rtmult=0,
        wtmax=0,
        wtpref=0,
        wtmult=0,
        dtpref=0,
        maxfilesize=0,
    )
    world.remake()
    data = os.urandom(300_000)
    fh = await world.create("file")
    assert await world.ops.write(fh, 0, data) == len(data)
    await world.close(fh)
    assert (world.export / "file").read_bytes() == data
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 0, len(data))) == data
    await world.close(fh)
    assert await world.listdir() == [b"file"]


@pytest.mark.parametrize("attributes", [True, False])
async def test_access_that_says_more_and_less(world: World, attributes: bool) -> None:
    """More than was asked for, and without attributes."""
    (world.export / "file").write_bytes(b"data")

    async def generous(args: ACCESS3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        kept = result.obj_attributes if attributes else None
        return ACCESS3resok(kept, result.access | 0xFFFFFFFF)

    world.caller.between["ACCESS"] = generous
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 0, 10)) == b"data"
    await world.close(fh)
    assert await world.ops.access(await world.number("file"), os.R_OK | os.X_OK, world.ctx)


# ---- a server to which upper and lower case are the same


def lowered(args: Any) -> Any:
    """The arguments with names in lower case."""
    changes = {
        name: replace(value, name=value.name.lower())
        for name in args.__dataclass_fields__
        if hasattr(value := getattr(args, name), "name") and isinstance(value.name, bytes)
    }
    return replace(args, **changes)


@pytest.fixture
def folding(make_world: MakeWorld) -> World:
    world = make_world()

    async def fold(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return await proceed(lowered(args))

    for name in ("LOOKUP", "CREATE", "MKDIR", "REMOVE", "RMDIR", "RENAME", "LINK"):
        world.caller.between[name] = fold
    return world


async def test_one_file_by_all_its_names(folding: World) -> None:
    fh = await folding.create("File")
    await folding.ops.write(fh, 0, b"data")
    await folding.close(fh)
    numbers = {await folding.number(name) for name in ("file", "File", "FILE")}
    assert len(numbers) == 1
    assert await folding.listdir() == [b"file"]
    exclusive = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    assert await fails(folding.ops.create(ROOT, b"fILE", 0o644, exclusive, folding.ctx)) == (
        errno.EEXIST
    )


async def test_removed_by_another_name(folding: World) -> None:
    (folding.export / "file").touch()
    await folding.number("File")
    await folding.number("FILE")
    await folding.ops.unlink(ROOT, b"FILE", folding.ctx)
    for name in ("file", "File", "FILE"):
        assert await fails(folding.lookup(name)) == errno.ENOENT
    assert await fails(folding.ops.unlink(ROOT, b"File", folding.ctx)) == errno.ENOENT


async def test_open_while_removed_by_another_name(folding: World) -> None:
    (folding.export / "file").write_bytes(b"kept")
    fh = await folding.open("File")
    await folding.number("FILE")
    await folding.ops.unlink(ROOT, b"FILE", folding.ctx)
    assert await fails(folding.lookup("file")) == errno.ENOENT
    assert bytes(await folding.ops.read(fh, 0, 10)) == b"kept"
    await folding.close(fh)
    assert await folding.listdir() == []


async def test_renamed_to_another_case(folding: World) -> None:
    (folding.export / "file").write_bytes(b"data")
    await folding.number("file")
    await folding.ops.rename(ROOT, b"file", ROOT, b"FILE", 0, folding.ctx)
    assert (folding.export / "file").read_bytes() == b"data"
    fh = await folding.open("FILE")
    assert bytes(await folding.ops.read(fh, 0, 10)) == b"data"
    await folding.close(fh)


# ---- no attributes in replies (RFC 1813 section 2.6: a server may always leave them out)


def without_wcc(world: World) -> None:
    """Nothing that changes something says what has become of it."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        left_out = {name: NO_WCC for name in vars_of(result) if name.endswith("wcc")}
        return replace(result, **left_out)

    for name in CHANGES:
        world.caller.between[name] = between


def vars_of(result: Any) -> list[str]:
    return [field.name for field in fields(result)]


CHANGES = [
    *("SETATTR", "WRITE", "COMMIT", "CREATE", "MKDIR", "SYMLINK", "MKNOD"),
    *("REMOVE", "RMDIR", "RENAME", "LINK"),
]
MAKE_OR_REMOVE: dict[str, Callable[[World], Awaitable[Any]]] = {
    "CREATE": lambda world: world.create("new"),
    "MKDIR": lambda world: world.ops.mkdir(ROOT, b"new", 0o755, world.ctx),
    "SYMLINK": lambda world: world.ops.symlink(ROOT, b"new", b"file", world.ctx),
    "MKNOD": lambda world: world.ops.mknod(ROOT, b"new", 0o010644, 0, world.ctx),
    "REMOVE": lambda world: world.ops.unlink(ROOT, b"file", world.ctx),
    "RMDIR": lambda world: world.ops.rmdir(ROOT, b"dir", world.ctx),
    "RENAME": lambda world: world.ops.rename(ROOT, b"file", ROOT, b"new", 0, world.ctx),
}


@pytest.mark.parametrize("request_of", MAKE_OR_REMOVE.values(), ids=MAKE_OR_REMOVE)
async def test_a_directory_is_asked_for_when_no_reply_tells_what_has_become_of_it(
    made: World, request_of: Callable[[World], Awaitable[Any]]
) -> None:
    (made.export / "dir").mkdir()
    os.utime(made.export, (OLD, OLD))
    without_wcc(made)
    await made.ops.getattr(ROOT, made.ctx)
    await request_of(made)
    found, there = await made.ops.getattr(ROOT, made.ctx), os.stat(made.export)
    assert (found.st_mtime_ns, found.st_nlink) == (there.st_mtime_ns, there.st_nlink)


@pytest.mark.parametrize("length", [5, 2 << 20])
async def test_a_file_is_asked_for_when_no_reply_tells_what_was_written(
    made: World, length: int
) -> None:
    without_wcc(made)
    number = await made.number("file")
    fh = await made.open("file", os.O_RDWR)
    await made.ops.write(fh, 8, bytes(length))
    await made.ops.flush(fh)
    found, there = await made.ops.getattr(number, made.ctx), os.stat(made.export / "file")
    assert (found.st_size, found.st_mtime_ns) == (8 + length, there.st_mtime_ns)
    await made.close(fh)


async def test_an_append_whose_end_no_reply_tells(made: World) -> None:
    """FUSE has another end, and lets each write go past its pages."""
    made.me = Somebody(pid=0)
    without_wcc(made)
    await made.number("file")
    with (made.export / "file").open("ab") as file:
        file.write(b"theirs")
    number = made.ops.inodes.named(made.ops.inodes.root, b"file")
    assert number is not None
    opened = await made.ops.open(number.number, os.O_WRONLY | os.O_APPEND, made.ctx)
    for data in (b"one", b"two"):
        await made.ops.write(opened.fh, 10, data)
        await made.ops.flush(opened.fh)
    await made.close(opened.fh)
    assert (made.export / "file").read_bytes() == b"0123456789theirsonetwo"


async def test_a_file_that_was_truncated_when_it_was_opened(made: World) -> None:
    without_wcc(made)
    number = await made.number("file")
    fh = await made.open("file", os.O_RDWR | os.O_TRUNC)
    assert (await made.ops.getattr(number, made.ctx)).st_size == 0
    await made.close(fh)


async def test_the_mode_of_a_file_that_was_made_exclusively(world: World) -> None:
    without_wcc(world)
    fh = await world.create("file", os.O_RDWR | os.O_EXCL)
    number = world.ops.files[fh].inode.number
    assert (await world.ops.getattr(number, world.ctx)).st_mode & 0o777 == 0o644
    await world.close(fh)
