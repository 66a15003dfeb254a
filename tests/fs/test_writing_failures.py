"""Write-behind when something goes wrong: failures, odd answers, a server that restarts."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from umktls_fs.writer import MAX_SENDS

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.restarting import Restarting
from tests.fs.silence import unanswered
from tests.fs.world import World, fails
from umktls.nfs.types import (
    COMMIT3resfail,
    WRITE3args,
    WRITE3resfail,
    WRITE3resok,
    nfsstat3,
)
from umktls.rpc.message import OpaqueAuth

MIB = 1 << 20


def failing(world: World, status: nfsstat3, name: str = "WRITE") -> Callable[[], None]:
    """Let a procedure fail until the returned function is called."""
    resfail = {"WRITE": WRITE3resfail, "COMMIT": COMMIT3resfail}[name]

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return resfail(status)

    world.caller.between[name] = between
    return lambda: world.caller.between.clear()


# ---- failures


@pytest.mark.parametrize("report", ["flush", "fsync", "write"])
async def test_a_failure_is_told_once_by_the_next_write_fsync_or_close(
    world: World, report: str
) -> None:
    fh = await world.create("file")
    heal = failing(world, nfsstat3.NFS3ERR_NOSPC)
    await world.ops.write(fh, 0, bytes(MIB))
    await wait_all_tasks_blocked()
    heal()
    if report == "flush":
        assert await fails(world.ops.flush(fh)) == errno.ENOSPC
    elif report == "fsync":
        assert await fails(world.ops.fsync(fh, False)) == errno.ENOSPC
    else:
        assert await fails(world.ops.write(fh, 0, b"x")) == errno.ENOSPC
    await world.ops.flush(fh)
    await world.ops.release(fh)
    assert world.ops.behind.held == 0


async def test_each_open_file_is_told_and_one_opened_later_is_not(world: World) -> None:
    first = await world.create("file")
    second = await world.open("file", os.O_WRONLY)
    heal = failing(world, nfsstat3.NFS3ERR_DQUOT)
    await world.ops.write(first, 0, b"data")
    assert await fails(world.ops.flush(first)) == errno.EDQUOT
    heal()
    third = await world.open("file", os.O_WRONLY)
    assert await fails(world.ops.flush(second)) == errno.EDQUOT
    await world.ops.flush(third)
    for fh in (first, second, third):
        await world.close(fh)


async def pages_kept(world: World) -> bool:
    info = await world.ops.open(await world.number("file"), os.O_RDONLY, world.ctx)
    await world.close(info.fh)
    return info.keep_cache


@pytest.mark.parametrize("procedure", ["WRITE", "COMMIT"])
@pytest.mark.parametrize("name", ["ROFS", "STALE", "NOSPC", "DQUOT", "IO"])
async def test_pages_of_what_was_not_written_are_dropped(
    world: World, name: str, procedure: str
) -> None:
    (world.export / "file").write_bytes(b"as it was")
    assert not await pages_kept(world)
    assert await pages_kept(world)
    fh = await world.open("file", os.O_RDWR)
    failing(world, nfsstat3[f"NFS3ERR_{name}"], procedure)
    await world.ops.write(fh, 0, b"unwritten")
    await world.ops.write(fh, 4096, b"unwritten")
    assert await fails(world.ops.fsync(fh, False)) == getattr(errno, f"E{name}")
    assert (await world.number("file"), False) in world.dropped
    assert not await pages_kept(world)
    await world.close(fh)
    world.caller.between.clear()
    assert await pages_kept(world)


async def test_pages_are_dropped_again_for_what_fails_while_they_are_dropped(
    world: World,
) -> None:
    """It may have been read into new pages since."""
    fh = await world.create("file")
    number = await world.number("file")
    inode = world.ops.inodes[number]
    failing(world, nfsstat3.NFS3ERR_IO)
    go_on = threading.Event()
    world.dropping = go_on.wait
    world.ops.kernel.drop_pages(inode)
    await wait_all_tasks_blocked()
    await world.ops.write(fh, 0, b"data")
    world.nursery.start_soon(world.ops.behind.flush)
    await wait_all_tasks_blocked()
    go_on.set()
    assert await fails(world.ops.flush(fh)) == errno.EIO
    await world.ops.kernel.dropped(inode)
    assert world.dropped == [(number, False)] * 2
    await world.close(fh)


async def test_a_write_that_is_made_at_once_does_not_wait_for_its_own_pages(
    make_world: MakeWorld,
) -> None:
    """The kernel keeps them locked until WRITE is answered, so dropping waits for the answer."""
    world = make_world("sync")
    fh = await world.create("file")
    failing(world, nfsstat3.NFS3ERR_IO)
    answered = threading.Event()
    world.dropping = answered.wait
    failed: list[int] = []

    async def write() -> None:
        failed.append(await fails(world.ops.write(fh, 0, b"data")))

    world.nursery.start_soon(write)
    await wait_all_tasks_blocked()
    assert failed == [errno.EIO]
    answered.set()
    await world.ops.kernel.dropped(world.ops.files[fh].inode)
    await world.close(fh)


async def test_a_reader_is_not_told(world: World) -> None:
    writer = await world.create("file")
    reader = await world.open("file")
    failing(world, nfsstat3.NFS3ERR_IO)
    await world.ops.write(writer, 0, b"data")
    assert await fails(world.ops.flush(writer)) == errno.EIO
    await world.close(reader)
    await world.close(writer)


async def test_a_reader_that_calls_fsync_is_told(world: World) -> None:
    writer, reader = await world.create("file"), await world.open("file")
    failing(world, nfsstat3.NFS3ERR_IO)
    await world.ops.write(writer, 0, b"data")
    assert await fails(world.ops.fsync(reader, False)) == errno.EIO
    assert await fails(world.ops.flush(writer)) == errno.EIO
    await world.ops.fsync(reader, False)


async def test_a_failed_commit_is_a_failure_of_the_data(world: World) -> None:
    fh = await world.create("file")
    failing(world, nfsstat3.NFS3ERR_IO, "COMMIT")
    await world.ops.write(fh, 0, bytes(2 * MIB))
    await world.ops.write(fh, 0, b"again")
    assert await fails(world.ops.flush(fh)) == errno.EIO
    assert world.ops.behind.held == 0
    await world.close(fh)


async def test_lost_data_no_longer_counts_for_the_size(world: World) -> None:
    fh = await world.create("file")
    failing(world, nfsstat3.NFS3ERR_NOSPC)
    await world.ops.write(fh, 0, b"data")
    number = await world.number("file")
    assert await fails(world.ops.flush(fh)) == errno.ENOSPC
    assert (await world.ops.getattr(number, world.ctx)).st_size == 0
    await world.close(fh)


async def test_no_answer_is_a_failure_too(world: World) -> None:
    fh = await world.create("file")
    unanswered(world.caller, "WRITE")
    await world.ops.write(fh, 0, b"data")
    assert await fails(world.ops.flush(fh)) == errno.ETIMEDOUT
    await world.close(fh)


@pytest.mark.parametrize("name", ["WRITE", "COMMIT"])
async def test_a_mistake_of_ours_is_eio_and_the_mount_goes_on(world: World, name: str) -> None:
    async def broken(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        raise KeyError("a mistake")

    fh = await world.create("file")
    world.caller.between[name] = broken
    await world.ops.write(fh, 0, bytes(MIB))
    await world.ops.write(fh, MIB, bytes(MIB))
    assert await fails(world.ops.flush(fh)) == errno.EIO
    world.caller.between.clear()
    await world.ops.write(fh, 0, b"data")
    await world.close(fh)
    assert world.ops.behind.held == 0


async def test_a_short_write_is_continued(world: World) -> None:
    async def short(args: WRITE3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        count = max(1, args.count // 2)
        data = memoryview(args.data)[:count]
        return await proceed(WRITE3args(args.file, args.offset, count, args.stable, data))

    fh = await world.create("file")
    world.caller.between["WRITE"] = short
    data = os.urandom(1000)
    await world.ops.write(fh, 0, data)
    await world.close(fh)
    assert (world.export / "file").read_bytes() == data
    assert world.ops.behind.held == 0


@pytest.mark.parametrize("count", [0, 5])
async def test_a_server_that_counts_wrongly_is_not_believed(world: World, count: int) -> None:
    async def wrong(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: WRITE3resok = await proceed(args)
        return WRITE3resok(result.file_wcc, count, result.committed, result.verf)

    fh = await world.create("file")
    world.caller.between["WRITE"] = wrong
    await world.ops.write(fh, 0, b"data")
    assert await fails(world.ops.flush(fh)) == errno.EIO
    await world.close(fh)


# ---- a server that restarts


@pytest.mark.parametrize("restarts", [1, 3])
async def test_data_lost_by_a_restart_is_written_again(world: World, restarts: int) -> None:
    fh = await world.create("file")
    Restarting(world).restarts_at_commit = restarts
    data = os.urandom(3 * MIB)
    for start in range(0, len(data), MIB):
        await world.ops.write(fh, start, data[start : start + MIB])
    await world.close(fh)
    assert (world.export / "file").read_bytes() == data
    assert world.caller.counts()["WRITE"] == 3 * (restarts + 1)
    assert world.ops.behind.held == 0


async def test_writing_again_keeps_the_order_of_overlapping_writes(world: World) -> None:
    fh = await world.create("file")
    server = Restarting(world)
    await world.ops.write(fh, 0, b"old old old")
    await world.ops.write(fh, 100, b"x")  # pushes it out
    await wait_all_tasks_blocked()
    server.restart()  # what was "old" is gone and must be written again, but not over "new"
    await world.ops.write(fh, 4, b"new")
    await world.close(fh)
    assert (world.export / "file").read_bytes()[:11] == b"old new old"


async def test_what_is_written_while_data_is_written_again_comes_after_it(world: World) -> None:
    """COMMIT shows the loss while a WRITE is under way, which puts off everything else."""
    fh = await world.create("file")
    server = Restarting(world)
    commit, write = trio.Event(), trio.Event()

    async def slow_commit(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await commit.wait()
        return await server.commit(args, credential, proceed)

    async def slow_write(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await write.wait()
        return await server.write(args, credential, proceed)

    await world.ops.write(fh, 0, b"old")
    await world.ops.write(fh, 50, b"x")  # pushes it out
    await wait_all_tasks_blocked()
    server.restart()
    world.caller.between["COMMIT"] = slow_commit
    world.nursery.start_soon(world.ops.fsync, fh, False)
    await wait_all_tasks_blocked()
    world.caller.between["WRITE"] = slow_write
    await world.ops.write(fh, 100, b"y")
    await world.ops.write(fh, 200, b"z")  # pushes y out, which is held up
    await wait_all_tasks_blocked()
    commit.set()
    await wait_all_tasks_blocked()
    await world.ops.write(fh, 0, b"new")
    await world.ops.write(fh, 300, b"end")
    await wait_all_tasks_blocked()
    commits = world.caller.counts()["COMMIT"]
    write.set()
    await world.close(fh)
    assert (world.export / "file").read_bytes()[:3] == b"new"
    assert commits == 1
    assert world.ops.behind.held == 0


async def test_a_server_that_always_loses_data_is_given_up(world: World) -> None:
    fh = await world.create("file")
    Restarting(world).restarts_at_commit = 1000
    for number in range(2):
        await world.ops.write(fh, number * MIB, bytes(MIB))
    assert await fails(world.ops.flush(fh)) == errno.EIO
    assert world.caller.counts()["WRITE"] == 2 * MAX_SENDS
    assert world.ops.behind.held == 0
    await world.close(fh)
