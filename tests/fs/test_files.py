"""Opening, creating and closing files: permission, close-to-open consistency, what is left."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import Any

import pytest
from trio.testing import MockClock

from tests.conftest import needs_root
from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Somebody, World, fails
from umktls.nfs.types import ACCESS3resok, createmode3, nfsstat3
from umktls.rpc.message import OpaqueAuth


async def kept(world: World, name: str = "file") -> bool:
    """Whether the kernel may keep its pages over an open and close of the file."""
    info = await world.ops.open(await world.number(name), os.O_RDONLY, world.ctx)
    await world.close(info.fh)
    return info.keep_cache


# ---- close-to-open


async def test_pages_are_kept_only_if_nothing_has_changed(made: World) -> None:
    assert not await kept(made)
    assert await kept(made)
    (made.export / "file").write_bytes(b"abcdefghij")  # same size
    assert not await kept(made)
    assert await kept(made)


async def test_every_open_asks_the_server(made: World) -> None:
    number = await made.number("file")
    for _ in range(2):
        with made.caller.watch() as seen:
            fh = (await made.ops.open(number, os.O_RDONLY, made.ctx)).fh
            assert [call.name for call in seen] == ["ACCESS"]
        await made.close(fh)


async def test_an_open_sees_what_another_closed(made: World) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"longer than it was")
    assert await fails(made.ops.open(number, os.O_RDONLY, made.ctx)) == errno.ESTALE
    fh = await made.open("file")  # looks up again, as the VFS does
    assert (await made.ops.getattr(number, made.ctx)).st_size == 18
    assert bytes(await made.ops.read(fh, 0, 100)) == b"longer than it was"
    await made.close(fh)


async def test_pages_of_our_own_writes_are_not_trusted_after_close(made: World) -> None:
    await kept(made)
    fh = await made.open("file", os.O_WRONLY)
    await made.ops.write(fh, 0, b"new")
    await made.close(fh)
    assert not await kept(made)


async def test_noac_keeps_no_pages(make_world: MakeWorld) -> None:
    world = make_world("noac")
    (world.export / "file").touch()
    assert not await kept(world)
    assert not await kept(world)


async def test_a_server_that_leaves_out_attributes_is_asked_for_them(made: World) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: ACCESS3resok = await proceed(args)
        return dataclasses.replace(result, obj_attributes=None)

    number = await made.number("file")
    made.caller.between["ACCESS"] = terse
    with made.caller.watch():
        fh = (await made.ops.open(number, os.O_RDONLY, made.ctx)).fh
        assert made.caller.names() == ["ACCESS", "GETATTR"]
    await made.close(fh)


async def test_truncation_at_open(made: World) -> None:
    fh = await made.open("file", os.O_WRONLY | os.O_TRUNC)
    assert (made.export / "file").read_bytes() == b""
    assert (await made.lookup("file")).st_size == 0
    await made.close(fh)


async def test_truncation_at_open_comes_after_what_was_written_before(made: World) -> None:
    first = await made.open("file", os.O_WRONLY)
    await made.ops.write(first, 0, b"before")
    second = await made.open("file", os.O_WRONLY | os.O_TRUNC)
    await made.close(first)
    await made.close(second)
    assert (made.export / "file").read_bytes() == b""


# ---- permission


@needs_root
@pytest.mark.parametrize(
    ("mode", "flags", "number"),
    [
        (0o644, os.O_RDONLY, 0),
        (0o644, os.O_WRONLY, errno.EACCES),
        (0o644, os.O_RDWR, errno.EACCES),
        (0o600, os.O_RDONLY, errno.EACCES),
        (0o622, os.O_WRONLY, 0),
        (0o666, os.O_RDWR, 0),
        (0o711, 0o40, 0),  # execve(2)
        (0o744, 0o40, errno.EACCES),
    ],
)
async def test_open_is_refused_as_the_server_would(
    made: World, mode: int, flags: int, number: int
) -> None:
    (made.export / "file").chmod(mode)
    inode = await made.number("file")
    made.me = Somebody(uid=12345, gid=12345)
    if number:
        assert await fails(made.ops.open(inode, flags, made.ctx)) == number
        assert len(made.ops.files) == 0
        assert made.ops.inodes[inode].opens == 0
    else:
        await made.close((await made.ops.open(inode, flags, made.ctx)).fh)


@needs_root
async def test_supplementary_groups_count(made: World) -> None:
    path = made.export / "file"
    os.chown(path, 0, 777)
    path.chmod(0o640)
    inode = await made.number("file")
    made.me = Somebody(uid=12345, gid=12345, pid=50)
    assert await fails(made.ops.open(inode, os.O_RDONLY, made.ctx)) == errno.EACCES
    made.groups[51] = (777,)
    made.me = Somebody(uid=12345, gid=12345, pid=51)
    await made.close((await made.ops.open(inode, os.O_RDONLY, made.ctx)).fh)


@needs_root
async def test_an_open_file_keeps_the_credential_of_its_opener(made: World) -> None:
    (made.export / "file").chmod(0o666)
    inode = await made.number("file")
    made.me = Somebody(uid=12345, gid=12345)
    fh = (await made.ops.open(inode, os.O_RDWR, made.ctx)).fh
    made.me = Somebody()
    with made.caller.watch() as seen:
        await made.ops.read(fh, 0, 10)
        await made.ops.write(fh, 0, b"x")
        await made.close(fh)
        assert {call.credential for call in seen} == {
            made.ops._credentials.of(Somebody(uid=12345, gid=12345))
        }


# ---- creating


async def test_create_opens_without_further_calls(world: World) -> None:
    with world.caller.watch() as seen:
        fh = await world.create("new")
        assert [call.name for call in seen] == ["CREATE"]
        assert seen[0].args.how.mode == createmode3.UNCHECKED
    assert (world.export / "new").stat().st_mode & 0o7777 == 0o644
    await world.close(fh)


async def exclusively(world: World, name: str) -> None:
    flags = os.O_RDWR | os.O_EXCL
    await world.ops.create(ROOT, os.fsencode(name), 0o644, flags, world.ctx)


async def test_exclusive_create_sets_mode_and_times_afterwards(world: World) -> None:
    with world.caller.watch() as seen:
        fh = await world.create("new", os.O_RDWR | os.O_EXCL)
        assert [call.name for call in seen] == ["CREATE", "SETATTR"]
        assert seen[0].args.how.mode == createmode3.EXCLUSIVE
    status = (world.export / "new").stat()
    assert status.st_mode & 0o7777 == 0o644
    assert abs(status.st_mtime - status.st_ctime) < 1
    await world.close(fh)


async def test_exclusive_creations_after_the_first_are_one_call(world: World) -> None:
    await world.close(await world.create("first", os.O_RDWR | os.O_EXCL))
    for number in range(3):
        with world.caller.watch() as seen:
            fh = await world.create(f"new{number}", os.O_RDWR | os.O_EXCL)
            assert [call.name for call in seen] == ["CREATE"]
            assert seen[0].args.how.mode == createmode3.GUARDED
        status = (world.export / f"new{number}").stat()
        assert status.st_mode & 0o7777 == 0o644
        assert 0 <= status.st_mtime - status.st_atime < 1
        await world.close(fh)
        assert await fails(exclusively(world, f"new{number}")) == errno.EEXIST


async def test_exclusive_create_of_what_exists_fails(made: World) -> None:
    request = made.ops.create(ROOT, b"file", 0o644, os.O_RDWR | os.O_EXCL, made.ctx)
    assert await fails(request) == errno.EEXIST
    assert (made.export / "file").read_bytes() == b"0123456789"


async def test_without_exclusive_create_on_the_server_guarded_will_do(world: World) -> None:
    async def old(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        from umktls.nfs.types import CREATE3resfail

        if args.how.mode == createmode3.EXCLUSIVE:
            return CREATE3resfail(nfsstat3.NFS3ERR_NOTSUPP)
        return await proceed(args)

    world.caller.between["CREATE"] = old
    fh = await world.create("new", os.O_RDWR | os.O_EXCL)
    await world.close(fh)
    request = world.ops.create(ROOT, b"new", 0o644, os.O_RDWR | os.O_EXCL, world.ctx)
    assert await fails(request) == errno.EEXIST


async def test_create_of_an_existing_name_opens_it(made: World) -> None:
    fh = await made.create("file", os.O_RDWR)
    assert bytes(await made.ops.read(fh, 0, 100)) == b"0123456789"
    await made.close(fh)


# ---- bookkeeping


async def test_nothing_is_left_of_closed_and_forgotten_files(
    made: World, autojump_clock: MockClock
) -> None:
    number = await made.number("file")
    fh = (await made.ops.open(number, os.O_RDWR, made.ctx)).fh
    await made.ops.write(fh, 0, b"x")
    await made.ops.flush(fh)
    await made.ops.forget([(number, 1)])
    assert len(made.ops.inodes) == 2
    await made.ops.release(fh)
    assert len(made.ops.inodes) == 1
    assert len(made.ops.files) == 0
    assert made.ops.behind.held == 0
    assert not made.ops.behind.active


async def test_a_file_that_is_not_open_cannot_be_used(world: World) -> None:
    assert await fails(world.ops.read(99, 0, 1)) == errno.EBADF
    assert await fails(world.ops.write(99, 0, b"x")) == errno.EBADF


async def test_the_end_of_the_mount_writes_and_removes_what_is_left(made: World) -> None:
    fh = await made.open("file", os.O_RDWR)
    await made.ops.unlink(ROOT, b"file", made.ctx)
    other = await made.create("other")
    await made.ops.write(fh, 0, b"x")
    await made.ops.write(other, 0, b"data")
    await made.ops.finish()
    assert os.listdir(made.export) == ["other"]
    assert (made.export / "other").read_bytes() == b"data"
    assert len(made.ops.files) == 0
