"""Attributes, permissions, symbolic links, space."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from pyfuse3 import EntryAttributes
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fs.changing import change, fields
from tests.fs.conftest import OLD, MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Answering, Somebody, World, fails
from tests.passing import elapse
from umktls.nfs.types import (
    SERVER_TIME,
    SETATTR3args,
    SETATTR3resfail,
    SETATTR3resok,
    fattr3,
    nfsstat3,
    nfstime3,
)
from umktls.nfsd.tree import attributes
from umktls.rpc.message import OpaqueAuth

# ---- caching


async def test_a_reply_that_comes_behind_a_removal_does_not_bring_back_the_link(
    made: World,
) -> None:
    os.link(made.export / "file", made.export / "other")
    number = await made.number("file")
    await made.lookup("other")
    inode = made.ops.inodes[number]
    made.ops.attributes.expire(inode)
    answer = Answering(made, "GETATTR")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.ops.getattr, number, made.ctx)
        await wait_all_tasks_blocked()
        await made.ops.unlink(ROOT, b"other", made.ctx)
        answer.may.set()
    assert (await made.ops.getattr(number, made.ctx)).st_nlink == 1


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's clock does not tick: by times no change can be seen."""
    monkeypatch.setattr(attributes, "_time", lambda nanoseconds: bytes(8))


def asked_before(world: World, procedure: str) -> None:
    """Somebody looks the file up while that call is on its way to the server."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await world.lookup("file")
        return await proceed(args)

    world.caller.between[procedure] = between


@pytest.mark.usefixtures("standing")
async def test_a_change_counts_that_was_overtaken_by_what_was_before_it(made: World) -> None:
    number = await made.number("file")
    asked_before(made, "SETATTR")
    assert (await change(made, "file", mode=0o600)).st_mode == stat.S_IFREG | 0o600
    assert (await change(made, "file", size=2)).st_size == 2
    assert (await made.ops.getattr(number, made.ctx)).st_size == 2


@pytest.mark.usefixtures("standing")
async def test_a_truncation_by_opening_counts_that_was_overtaken(made: World) -> None:
    number = await made.number("file")
    asked_before(made, "SETATTR")
    fh = await made.open("file", os.O_RDWR | os.O_TRUNC)
    assert (await made.ops.getattr(number, made.ctx)).st_size == 0
    await made.close(fh)


@pytest.mark.usefixtures("standing")
async def test_a_link_counts_that_was_overtaken(made: World) -> None:
    number = await made.number("file")
    asked_before(made, "LINK")
    await made.ops.link(number, ROOT, b"other", made.ctx)
    assert (await made.ops.getattr(number, made.ctx)).st_nlink == 2


@pytest.mark.parametrize("procedure", ["SETATTR", "LINK"])
async def test_a_change_whose_reply_nobody_waited_for_may_have_been_made(
    made: World, procedure: str
) -> None:
    """As the kernel asks again behind EINTR (fs/fuse/dir.c)."""
    number = await made.number("file")
    answer = Answering(made, procedure)
    requests: dict[str, Callable[[], Awaitable[object]]] = {
        "SETATTR": lambda: change(made, "file", mode=0o600),
        "LINK": lambda: made.ops.link(number, ROOT, b"other", made.ctx),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests[procedure])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    answer.may.set()
    seen, there = await made.ops.getattr(number, made.ctx), (made.export / "file").stat()
    assert (seen.st_mode, seen.st_nlink) == (there.st_mode, there.st_nlink)


async def test_attributes_are_asked_for_when_their_time_is_over(
    made: World, autojump_clock: MockClock
) -> None:
    number = await made.number("file")
    with made.caller.watch() as seen:
        await made.ops.getattr(number, made.ctx)
        autojump_clock.jump(2.9)
        await made.ops.getattr(number, made.ctx)
        assert seen == []
        autojump_clock.jump(0.2)
        await made.ops.getattr(number, made.ctx)
        assert made.caller.names() == ["GETATTR"]


async def test_a_change_on_the_server_is_seen_then(made: World, autojump_clock: MockClock) -> None:
    number = await made.number("file")
    (made.export / "file").write_bytes(b"longer than before")
    assert (await made.ops.getattr(number, made.ctx)).st_size == 10
    autojump_clock.jump(3.1)
    assert (await made.ops.getattr(number, made.ctx)).st_size == 18


async def test_noac_always_asks(make_world: MakeWorld) -> None:
    world = make_world("noac")
    (world.export / "file").touch()
    number = await world.number("file")
    with world.caller.watch() as seen:
        for _ in range(3):
            await world.ops.getattr(number, world.ctx)
        assert [call.name for call in seen] == ["GETATTR"] * 3


# ---- changing


async def test_mode_and_size_are_changed(made: World) -> None:
    assert (await change(made, "file", mode=0o100600)).st_mode == 0o100600
    assert (await change(made, "file", size=4)).st_size == 4
    assert (made.export / "file").read_bytes() == b"0123"
    assert (made.export / "file").stat().st_mode == 0o100600


async def test_times_are_changed_to_the_nanosecond(made: World) -> None:
    entry = await change(made, "file", atime_ns=1_000_000_001, mtime_ns=2_000_000_002)
    assert (entry.st_atime_ns, entry.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    status = (made.export / "file").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)


@pytest.mark.parametrize(
    ("asked", "got"),
    [(-1, 0), (1 << 62, 4294967295_999999999), (4294967295_000000007, 4294967295_000000007)],
)
async def test_times_that_nfs_cannot_say_become_the_nearest(
    made: World, asked: int, got: int
) -> None:
    assert (await change(made, "file", mtime_ns=asked)).st_mtime_ns == got


async def test_owner_and_group_are_changed(made: World) -> None:
    if os.geteuid() != 0:
        await change(made, "file", gid=os.getegid())
        return
    entry = await change(made, "file", uid=12345, gid=54321)
    assert (entry.st_uid, entry.st_gid) == (12345, 54321)


async def test_who_may_only_write_can_set_times_to_now(made: World) -> None:
    """As touch(1) does; the server permits that without being told which time."""
    sent: list[SETATTR3args] = []

    async def strict(args: SETATTR3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        sent.append(args)
        if args.new_attributes.mtime != SERVER_TIME:
            return SETATTR3resfail(nfsstat3.NFS3ERR_PERM)
        return await proceed(args)

    made.caller.between["SETATTR"] = strict
    now = time.time_ns()
    await change(made, "file", atime_ns=now, mtime_ns=now)
    assert [args.new_attributes.mtime == SERVER_TIME for args in sent] == [False, True]
    assert await fails(change(made, "file", atime_ns=5, mtime_ns=5)) == errno.EPERM
    assert await fails(change(made, "file", mtime_ns=now)) == errno.EPERM


async def test_what_was_written_before_does_not_change_the_time_after(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    await change(world, "file", fh, mtime_ns=5_000_000_000, atime_ns=5_000_000_000)
    await world.close(fh)
    assert (world.export / "file").stat().st_mtime_ns == 5_000_000_000
    names = world.caller.names()
    assert names.index("WRITE") < names.index("SETATTR")
    assert "COMMIT" not in names


async def test_truncating_an_open_file_is_its_openers_right(made: World) -> None:
    """ftruncate(2) works on a file that has become read-only since it was opened."""
    fh = await made.open("file", os.O_RDWR)
    opener = made.ops.files[fh].credential
    made.me = Somebody(uid=1, gid=1)
    with made.caller.watch() as seen:
        await change(made, "file", fh, size=3)
    assert next(call.credential for call in seen if call.name == "SETATTR") is opener
    made.me = Somebody()
    await made.close(fh)


# ---- permissions


@pytest.mark.parametrize(
    ("mode", "asked", "allowed"),
    [
        (0o644, os.R_OK, True),
        (0o644, os.W_OK, False),
        (0o644, os.X_OK, False),
        (0o755, os.R_OK | os.X_OK, True),
        (0o666, os.R_OK | os.W_OK, True),
        (0o600, os.R_OK, False),
    ],
)
async def test_access_asks_the_server(made: World, mode: int, asked: int, allowed: bool) -> None:
    (made.export / "file").chmod(mode)
    number = await made.number("file")
    made.me = Somebody(uid=12345, gid=12345)
    if os.geteuid() != 0:
        pytest.skip("only root can act for another user")
    assert await made.ops.access(number, asked, made.ctx) is allowed


async def test_access_to_a_directory_means_searching_and_changing(world: World) -> None:
    (world.export / "dir").mkdir(mode=0o755)
    number = await world.number("dir")
    assert await world.ops.access(number, os.R_OK | os.W_OK | os.X_OK, world.ctx)
    if os.geteuid() == 0:
        world.me = Somebody(uid=12345, gid=12345)
        assert await world.ops.access(number, os.X_OK, world.ctx)
        assert not await world.ops.access(number, os.W_OK, world.ctx)


# ---- the rest


async def test_readlink(world: World) -> None:
    (world.export / "link").symlink_to("some/where")
    assert await world.ops.readlink(await world.number("link"), world.ctx) == b"some/where"


async def test_readlink_of_a_file_is_einval(made: World) -> None:
    number = await made.number("file")
    assert await fails(made.ops.readlink(number, made.ctx)) == errno.EINVAL


async def test_statfs_is_the_servers(world: World) -> None:
    space = os.statvfs(world.export)
    stats = await world.ops.statfs(world.ctx)
    assert stats.f_blocks * stats.f_frsize == pytest.approx(
        space.f_blocks * space.f_frsize, abs=stats.f_frsize
    )
    assert stats.f_namemax == 255


async def test_an_inode_that_was_never_told_is_stale(world: World) -> None:
    assert await fails(world.ops.getattr(4711, world.ctx)) == errno.ESTALE


async def test_a_file_that_is_gone_is_stale(made: World, autojump_clock: MockClock) -> None:
    number = await made.number("file")
    (made.export / "file").unlink()
    autojump_clock.jump(5)
    assert await fails(made.ops.getattr(number, made.ctx)) == errno.ESTALE


async def test_the_check_of_a_mount_is_a_call(world: World) -> None:
    with world.caller.watch():
        await world.ops.check(world.ops._credentials.of_user(0, 0))
        assert world.caller.names() == ["GETATTR"]
    assert world.ops.inodes[ROOT].attributes is not None


async def access_calls(world: World, number: int, mode: int = os.R_OK) -> int:
    with world.caller.watch() as seen:
        await world.ops.access(number, mode, world.ctx)
        return len(seen)


async def test_what_the_server_permits_is_not_asked_again(
    made: World, autojump_clock: MockClock
) -> None:
    number = await made.number("file")
    assert await access_calls(made, number) == 1
    assert await access_calls(made, number) == 0
    assert await access_calls(made, number, os.R_OK | os.W_OK) == 1
    assert await access_calls(made, number, os.W_OK) == 0
    made.me = Somebody(uid=12345, gid=12345, pid=2)
    assert await access_calls(made, number) == 1


async def test_what_the_server_permits_is_asked_after_acregmin(
    made: World, autojump_clock: MockClock
) -> None:
    """Also where the attributes have been found unchanged meanwhile: on a server whose clock ticks
    slowly that proves nothing."""
    number = await made.number("file")
    await made.ops.access(number, os.R_OK, made.ctx)
    await elapse(2.0)
    made.ops.inodes[number].expires = 0.0
    await made.ops.getattr(number, made.ctx)
    assert await access_calls(made, number) == 0
    await elapse(1.1)
    assert await access_calls(made, number) == 1


async def test_a_change_of_the_file_has_the_server_asked(made: World) -> None:
    number = await made.number("file")
    await made.ops.access(number, os.R_OK, made.ctx)
    entry = EntryAttributes()
    entry.st_mode = 0o100600
    await made.ops.setattr(number, entry, fields("mode"), None, made.ctx)
    assert await access_calls(made, number) == 1


async def test_a_change_of_our_own_has_the_server_asked_whatever_its_clock_shows(
    made: World,
) -> None:
    """One that ticks slowly has the same time for a file that was made, looked at and closed to
    others meanwhile."""

    async def then(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        if isinstance(result, SETATTR3resok):
            after = at_one_time(result.obj_wcc.after)
            return replace(result, obj_wcc=replace(result.obj_wcc, after=after))
        return replace(result, obj_attributes=at_one_time(result.obj_attributes))

    made.caller.between |= {"LOOKUP": then, "ACCESS": then, "SETATTR": then}
    number = await made.number("file")
    stranger = Somebody(4711, 4711, 2).ctx
    assert await made.ops.access(number, os.R_OK, stranger)
    await change(made, "file", mode=0o100600)
    assert not await made.ops.access(number, os.R_OK, stranger)


@pytest.mark.parametrize("by", ["access", "open"])
async def test_what_was_permitted_before_a_change_of_our_own_is_not_permitted_behind_it(
    make_world: MakeWorld, by: str
) -> None:
    """The reply to ACCESS is seen behind that to SETATTR, which the server has done later."""
    world = make_world("nocto")
    (world.export / "file").touch()
    number = await world.number("file")
    stranger = Somebody(4711, 4711, 2).ctx
    answer = Answering(world, "ACCESS")
    async with trio.open_nursery() as nursery:
        if by == "open":
            nursery.start_soon(world.ops.open, number, os.O_RDONLY, stranger)
        else:
            nursery.start_soon(world.ops.access, number, os.R_OK, stranger)
        await wait_all_tasks_blocked()
        await change(world, "file", mode=0o100600)
        answer.may.set()
    assert not await world.ops.access(number, os.R_OK, stranger)


def at_one_time(attr: fattr3 | None) -> fattr3 | None:
    return attr and replace(attr, ctime=nfstime3(OLD, 0))


async def test_what_the_server_refuses_is_asked_each_time(made: World) -> None:
    made.me = Somebody(uid=12345, gid=12345, pid=2)
    (made.export / "file").chmod(0o600)
    number = await made.number("file")
    for _ in range(2):
        assert await access_calls(made, number) == 1


@pytest.mark.parametrize("option", ["noac", "actimeo=0"])
async def test_without_cached_attributes_access_is_always_asked(
    make_world: MakeWorld, option: str
) -> None:
    world = make_world(option)
    (world.export / "file").touch()
    number = await world.number("file")
    for _ in range(2):
        assert await access_calls(world, number) == 1
