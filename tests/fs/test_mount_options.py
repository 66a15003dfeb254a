"""Mount options of habit, honoured: whose files are shown, what an open and a listing ask."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from pyfuse3 import EntryAttributes
from trio.testing import MockClock

from tests.fs.changing import fields
from tests.fs.conftest import MakeWorld
from tests.fs.world import ROOT, World, fails
from umktls.rpc.message import AuthSys

THEIRS, OURS = (54321, 54322), (1000, 1001)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def fill(world: World) -> None:
    (world.export / "file").write_text("1")
    (world.export / "file").chmod(0o4751)
    (world.export / "directory").mkdir()


async def owners(world: World, name: str) -> tuple[int, int]:
    entry = await world.lookup(name)
    return entry.st_uid, entry.st_gid


async def test_uid_and_gid_are_shown_for_all_files(make_world: MakeWorld) -> None:
    world = make_world("uid=54321,gid=54322")
    fill(world)
    for name in ("file", "directory"):
        assert await owners(world, name) == THEIRS
    root = await world.ops.getattr(ROOT, world.ctx)
    assert (root.st_uid, root.st_gid) == THEIRS
    assert (world.export / "file").stat().st_uid == os.geteuid()
    # Shown, and no more: what is sent is as before.
    assert AuthSys.from_opaque_untrusted(world.caller.seen[-1].credential).uid == 0


async def test_umask_is_shown_as_modes(make_world: MakeWorld) -> None:
    world = make_world("umask=027")
    fill(world)
    file, directory = await world.lookup("file"), await world.lookup("directory")
    assert stat.S_IMODE(file.st_mode) == stat.S_IMODE(directory.st_mode) == 0o750
    assert stat.S_ISREG(file.st_mode)
    assert stat.S_ISDIR(directory.st_mode)


async def test_without_these_options_all_is_the_servers(world: World) -> None:
    fill(world)
    entry = await world.lookup("file")
    assert stat.S_IMODE(entry.st_mode) == 0o4751
    assert await owners(world, "file") == (os.geteuid(), os.getegid())


def sent(world: World) -> tuple[int, int, tuple[int, ...]]:
    """The ids in the credential of the last call."""
    auth = AuthSys.from_opaque_untrusted(world.caller.seen[-1].credential)
    return auth.uid, auth.gid, tuple(auth.gids)


@needs_root
async def test_idmap_user_translates_in_both_directions(make_world: MakeWorld) -> None:
    """The export's owner is who mounts, here and there; all others are who they are."""
    world = make_world("idmap=user")
    fill(world)
    os.chown(world.export, *THEIRS)
    os.chown(world.export / "file", *THEIRS)
    os.chown(world.export / "directory", 7, 8)
    me = os.geteuid(), os.getegid()
    await world.ops.getattr(ROOT, world.ctx)
    assert await owners(world, "file") == me
    assert await owners(world, "directory") == (7, 8)
    world.me = type(world.me)(*me, pid=77)
    world.groups[77] = (me[1], 8)
    await world.lookup("file")
    assert sent(world) == (*THEIRS, (8,))
    world.me = type(world.me)(7, 8, pid=78)
    await world.lookup("file")
    assert sent(world) == (7, 8, ())


@needs_root
async def test_idmap_user_has_chown_give_files_to_the_same_user(make_world: MakeWorld) -> None:
    world = make_world("idmap=user")
    fill(world)
    os.chown(world.export, *THEIRS)
    await world.ops.getattr(ROOT, world.ctx)
    wanted = EntryAttributes()
    wanted.st_uid, wanted.st_gid = os.geteuid(), os.getegid()
    number = await world.number("file")
    owner = fields("uid", "gid")
    # Sent in the name of the export's owner, who may not do that.
    assert await fails(world.ops.setattr(number, wanted, owner, None, world.ctx)) == errno.EPERM
    (call,) = [call for call in world.caller.seen if call.name == "SETATTR"]
    assert (call.args.new_attributes.uid, call.args.new_attributes.gid) == THEIRS


@needs_root
async def test_idmap_user_with_uid_is_for_that_user(make_world: MakeWorld) -> None:
    """As sshfs, which root may mount for somebody else; all files are shown as his then."""
    world = make_world(f"idmap=user,uid={OURS[0]},gid={OURS[1]}")
    fill(world)
    os.chown(world.export, *THEIRS)
    await world.ops.getattr(ROOT, world.ctx)
    assert await owners(world, "directory") == OURS
    world.me = type(world.me)(*OURS, pid=80)
    await world.lookup("file")
    assert sent(world)[:2] == THEIRS


async def test_nordirplus_lists_names_alone(make_world: MakeWorld) -> None:
    world = make_world("nordirplus")
    names = [f"name-{number:04d}".encode() for number in range(3000)]
    for name in names:
        (world.export / name.decode()).touch()
    with world.caller.watch():
        assert await world.listdir(room=50) == names
        asked = set(world.caller.names())
    assert asked == {"GETATTR", "READDIR"}
    assert (await world.lookup("name-0001")).st_size == 0


async def open_again(world: World, name: str) -> list[str]:
    """Open and close a file; the calls that it took."""
    number = await world.number(name)
    with world.caller.watch():
        await world.close((await world.ops.open(number, os.O_RDONLY, world.ctx)).fh)
        return world.caller.names()


@pytest.mark.parametrize("option", ["nocto", "kernel_cache", "noauto_cache"])
async def test_nocto_opens_what_is_cached_without_a_call(
    make_world: MakeWorld, option: str
) -> None:
    world = make_world(option)
    fill(world)
    assert await open_again(world, "file") == ["ACCESS"]  # may this user?
    assert await open_again(world, "file") == []


async def test_cto_asks_each_time(make_world: MakeWorld) -> None:
    world = make_world("cto")
    fill(world)
    for _ in range(2):
        assert await open_again(world, "file") == ["ACCESS"]


async def test_nocto_permits_nobody_else_and_nothing_else(make_world: MakeWorld) -> None:
    world = make_world("nocto")
    fill(world)
    (world.export / "file").chmod(0o600)
    await open_again(world, "file")
    number = await world.number("file")
    with world.caller.watch():
        await world.close((await world.ops.open(number, os.O_RDWR, world.ctx)).fh)
        assert world.caller.names() == ["ACCESS"]
    world.me = type(world.me)(uid=12345, gid=12345, pid=3)
    assert await fails(world.ops.open(number, os.O_RDONLY, world.ctx)) == errno.EACCES


async def test_nocto_asks_again_when_the_attributes_are_old(
    make_world: MakeWorld, mock_clock: MockClock
) -> None:
    world = make_world("nocto,actimeo=30")
    fill(world)
    number = await world.number("file")
    for seconds, calls in ((0, ["ACCESS"]), (10, []), (100, ["ACCESS"])):
        mock_clock.jump(seconds)
        with world.caller.watch():
            await world.close((await world.ops.open(number, os.O_RDONLY, world.ctx)).fh)
            assert world.caller.names() == calls
