"""Names: looking up, making, removing, renaming."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
from trio.testing import MockClock

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, World, fails
from umktls.nfs.types import (
    LINK3resfail,
    LOOKUP3resfail,
    SETATTR3resfail,
    createmode3,
    nfsstat3,
    wcc_data,
)
from umktls.rpc.message import OpaqueAuth


async def test_a_name_leads_to_its_file(world: World) -> None:
    (world.export / "file").write_bytes(b"12345")
    entry = await world.lookup("file")
    assert (entry.st_size, stat.S_IFMT(entry.st_mode)) == (5, stat.S_IFREG)
    assert entry.st_ino == (world.export / "file").stat().st_ino
    assert world.ops.inodes[entry.st_ino].lookups == 1
    await world.lookup("file")
    assert world.ops.inodes[entry.st_ino].lookups == 2


async def test_names_are_bytes(world: World) -> None:
    name = b"\xff\xfe \n\\"
    os.mknod(os.path.join(os.fsencode(world.export), name))
    assert (await world.ops.lookup(ROOT, name, world.ctx)).st_size == 0


async def test_a_missing_name_is_enoent_and_not_remembered(world: World) -> None:
    assert await fails(world.lookup("later")) == errno.ENOENT
    (world.export / "later").touch()
    await world.lookup("later")


async def test_a_missing_name_is_remembered_if_the_options_say_so(make_world: MakeWorld) -> None:
    entry = await make_world("lookupcache=all,acdirmin=7").lookup("missing")
    assert (entry.st_ino, entry.entry_timeout) == (0, 7.0)


async def test_a_name_that_is_refused_is_not_missing(make_world: MakeWorld) -> None:
    """Nor is it remembered: the next who asks may be let in."""
    world, refusing = make_world("lookupcache=all,acdirmin=7"), True

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return LOOKUP3resfail(nfsstat3.NFS3ERR_ACCES, None) if refusing else await proceed(args)

    world.caller.between["LOOKUP"] = between
    (world.export / "file").touch()
    assert await fails(world.lookup("file")) == errno.EACCES
    refusing = False
    assert (await world.lookup("file")).st_ino


async def test_a_name_too_long_is_refused(world: World) -> None:
    assert await fails(world.lookup("x" * 300)) == errno.ENAMETOOLONG


async def test_a_name_below_a_file_is_refused(world: World) -> None:
    (world.export / "file").touch()
    assert await fails(world.lookup("x", await world.number("file"))) == errno.ENOTDIR


async def test_hard_links_share_an_inode(world: World) -> None:
    (world.export / "one").touch()
    number = await world.number("one")
    entry = await world.ops.link(number, ROOT, b"two", world.ctx)
    assert (entry.st_ino, entry.st_nlink) == (number, 2)
    assert await world.number("two") == number
    await world.ops.unlink(ROOT, b"one", world.ctx)
    assert (await world.ops.getattr(number, world.ctx)).st_nlink == 1


async def test_mkdir_and_rmdir(world: World) -> None:
    entry = await world.ops.mkdir(ROOT, b"dir", 0o40750, world.ctx)
    assert entry.st_mode == stat.S_IFDIR | 0o750
    assert await fails(world.ops.mkdir(ROOT, b"dir", 0o750, world.ctx)) == errno.EEXIST
    (world.export / "dir" / "file").touch()
    assert await fails(world.ops.rmdir(ROOT, b"dir", world.ctx)) == errno.ENOTEMPTY
    (world.export / "dir" / "file").unlink()
    await world.ops.rmdir(ROOT, b"dir", world.ctx)
    assert await fails(world.lookup("dir")) == errno.ENOENT


async def test_symlink(world: World) -> None:
    entry = await world.ops.symlink(ROOT, b"link", b"to/there", world.ctx)
    assert stat.S_IFMT(entry.st_mode) == stat.S_IFLNK
    assert os.readlink(world.export / "link") == "to/there"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
async def test_mknod(world: World, kind: int) -> None:
    entry = await world.ops.mknod(ROOT, b"node", kind | 0o640, 0, world.ctx)
    assert entry.st_mode == kind | 0o640
    assert (world.export / "node").lstat().st_mode == kind | 0o640
    request = world.ops.mknod(ROOT, b"node", kind | 0o640, 0, world.ctx)
    assert await fails(request) == errno.EEXIST


async def test_mknod_of_a_regular_file_may_be_repeated(world: World) -> None:
    """Its verifier says whose the file is, when a server has forgotten the call."""
    with world.caller.watch() as seen:
        await world.ops.mknod(ROOT, b"file", stat.S_IFREG | 0o640, 0, world.ctx)
    modes = [call.args.how.mode for call in seen if call.name == "CREATE"]
    assert modes == [createmode3.EXCLUSIVE]


async def test_a_file_whose_attributes_are_refused_is_none_to_the_kernel(world: World) -> None:
    """It was not told of it, and forgets it never."""
    known = len(list(world.ops.inodes))

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return SETATTR3resfail(nfsstat3.NFS3ERR_DQUOT, wcc_data(None, None))

    world.caller.between["SETATTR"] = between
    request = world.ops.mknod(ROOT, b"file", stat.S_IFREG | 0o640, 0, world.ctx)
    assert await fails(request) == errno.EDQUOT
    assert len(list(world.ops.inodes)) == known


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
async def test_mknod_of_a_device(world: World, kind: int) -> None:
    number = os.makedev(8, 300)
    try:
        os.mknod(world.export / "probe", kind | 0o600, number)
    except PermissionError:
        pytest.skip("kernel lacks the right to make devices here")
    entry = await world.ops.mknod(ROOT, b"node", kind | 0o600, number, world.ctx)
    assert (entry.st_mode, entry.st_rdev) == (kind | 0o600, number)
    assert (world.export / "node").stat().st_rdev == number


async def test_unlink(world: World) -> None:
    (world.export / "file").touch()
    await world.ops.unlink(ROOT, b"file", world.ctx)
    assert os.listdir(world.export) == []
    assert await fails(world.ops.unlink(ROOT, b"file", world.ctx)) == errno.ENOENT


async def test_rename_moves_and_replaces(world: World) -> None:
    for name in ("one", "two"):
        (world.export / name).write_text(name)
    (world.export / "dir").mkdir()
    number, parent = await world.number("one"), await world.number("dir")
    await world.ops.rename(ROOT, b"one", ROOT, b"two", 0, world.ctx)
    assert await world.number("two") == number
    await world.ops.rename(ROOT, b"two", parent, b"three", 0, world.ctx)
    assert (world.export / "dir" / "three").read_text() == "one"
    assert (await world.lookup("three", parent)).st_ino == number
    assert world.ops.inodes[number].names == [(parent, b"three")]


async def test_rename_to_another_name_of_the_same_file_changes_nothing(world: World) -> None:
    (world.export / "one").touch()
    os.link(world.export / "one", world.export / "two")
    fh = await world.open("one")
    await world.lookup("two")
    with world.caller.watch() as seen:
        await world.ops.rename(ROOT, b"one", ROOT, b"two", 0, world.ctx)
        assert [call.name for call in seen] == ["RENAME"]
    await world.close(fh)
    assert sorted(os.listdir(world.export)) == ["one", "two"]


@pytest.mark.parametrize("flags", [pyfuse3.RENAME_NOREPLACE, pyfuse3.RENAME_EXCHANGE])
async def test_rename_with_flags_is_refused(world: World, flags: int) -> None:
    (world.export / "one").touch()
    request = world.ops.rename(ROOT, b"one", ROOT, b"two", flags, world.ctx)
    assert await fails(request) == errno.EINVAL
    assert os.listdir(world.export) == ["one"]


async def test_a_directory_replaces_an_empty_one_even_if_that_is_open(world: World) -> None:
    for name in ("one", "two"):
        (world.export / name).mkdir()
    number = await world.number("two")
    fh = await world.ops.opendir(number, world.ctx)
    with world.caller.watch() as seen:
        await world.ops.rename(ROOT, b"one", ROOT, b"two", 0, world.ctx)
        assert [call.name for call in seen] == ["RENAME"]
    await world.ops.releasedir(fh)
    assert os.listdir(world.export) == ["two"]


async def test_the_directorys_attributes_follow_our_own_changes(
    world: World, autojump_clock: MockClock
) -> None:
    before = await world.ops.getattr(ROOT, world.ctx)
    links = before.st_nlink
    await world.ops.mkdir(ROOT, b"dir", 0o755, world.ctx)
    with world.caller.watch() as seen:
        assert (await world.ops.getattr(ROOT, world.ctx)).st_nlink == links + 1
        assert seen == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("to", path)])
async def test_what_is_no_regular_file_is_looked_up_and_not_opened_by_making_it(
    world: World, make: Callable[[Path], object]
) -> None:
    """Others have made it since it was looked up, and servers answer CREATE with what is there.
    FUSE would tell the program EIO, and never say that it has forgotten or closed it."""
    make(world.export / "file")
    for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        assert await fails(world.create("file", flags)) == errno.ESTALE
    assert len(world.ops.inodes) == 1
    assert len(world.ops.files) == 0
    assert not stat.S_ISREG((await world.lookup("file")).st_mode)


@pytest.mark.parametrize("left_out", ["obj", "obj_attributes"])
async def test_servers_may_leave_out_what_they_made(world: World, left_out: str) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return dataclasses.replace(await proceed(args), **{left_out: None})

    for name in ("CREATE", "MKDIR", "SYMLINK", "MKNOD"):
        world.caller.between[name] = terse
    await world.close(await world.create("file"))
    assert stat.S_ISDIR((await world.ops.mkdir(ROOT, b"dir", 0o755, world.ctx)).st_mode)
    assert stat.S_ISLNK((await world.ops.symlink(ROOT, b"link", b"x", world.ctx)).st_mode)
    entry = await world.ops.mknod(ROOT, b"fifo", stat.S_IFIFO | 0o600, 0, world.ctx)
    assert entry.st_ino == (world.export / "fifo").stat().st_ino


async def test_servers_may_leave_out_attributes_of_what_was_found(world: World) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        return dataclasses.replace(result, obj_attributes=None, dir_attributes=None)

    (world.export / "file").write_bytes(b"123")
    world.caller.between["LOOKUP"] = terse
    assert (await world.lookup("file")).st_size == 3


async def test_forgotten_inodes_are_gone(world: World) -> None:
    (world.export / "file").touch()
    number = await world.number("file")
    await world.lookup("file")
    await world.ops.forget([(number, 1)])
    await world.ops.getattr(number, world.ctx)
    await world.ops.forget([(number, 1), (4711, 1)])
    assert await fails(world.ops.getattr(number, world.ctx)) == errno.ESTALE


async def test_a_directory_that_was_made_anew_is_found_by_the_next_opendir(world: World) -> None:
    """ESTALE has the machine's kernel look the name up again."""
    (world.export / "d").mkdir()
    number = await world.number("d")
    (world.export / "d").rmdir()
    (world.export / "d").mkdir()
    (world.export / "d" / "new").touch()
    assert await fails(world.ops.opendir(number, world.ctx)) == errno.ESTALE
    again = await world.number("d")
    assert again != number
    assert await world.listdir(again) == [b"new"]


@pytest.mark.parametrize(
    ("status", "number"), [(nfsstat3.NFS3ERR_IO, errno.EIO), (nfsstat3.NFS3ERR_NOTSUPP, 0)]
)
async def test_an_open_file_that_is_replaced(world: World, status: nfsstat3, number: int) -> None:
    """It is kept by a second name, or where there are no links by another one; what else LINK is
    refused by ends the rename, and nothing has changed."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return LINK3resfail(status, None, wcc_data(None, None))

    world.caller.between["LINK"] = between
    (world.export / "new").write_text("new")
    fh = await world.create("file")
    assert await world.ops.write(fh, 0, b"old") == 3
    rename = world.ops.rename(ROOT, b"new", ROOT, b"file", 0, world.ctx)
    if number:
        assert await fails(rename) == number
        assert (world.export / "new").exists()
        assert len(list(world.export.iterdir())) == 2
    else:
        await rename
        assert (world.export / "file").read_text() == "new"
        assert len(list(world.export.iterdir())) == 2
    assert await world.ops.read(fh, 0, 10) == b"old"
    await world.close(fh)


async def test_after_a_silly_rename_the_kernel_asks_for_the_links(world: World) -> None:
    """It has taken one off by itself, and the file has as many as before."""
    fh = await world.create("file")
    number = world.ops.files[fh].inode.number
    await world.ops.unlink(ROOT, b"file", world.ctx)
    assert (number, True) in world.dropped
    assert (await world.ops.getattr(number, world.ctx)).st_nlink == 1
    await world.close(fh)
