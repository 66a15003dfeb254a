"""fsync and close where the server answers so soon that no task is worth while."""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from typing import Any

import pytest
import trio

from tests.fs.world import World, fails
from umktls.errors import WorldError
from umktls.nfs.types import WRITE3resfail, nfsstat3, stable_how


@pytest.fixture
def near(world: World) -> World:
    world.caller.soon = True
    return world


def at_once(request: Awaitable[Any]) -> None:
    """Have it answered without waiting for anything."""
    with pytest.raises(StopIteration):
        request.__await__().send(None)


async def answer(world: World, what: Any) -> None:
    """Have each WRITE answered so; it is raised if it is an error."""

    async def between(*_: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what

    world.caller.between["WRITE"] = between


@pytest.mark.parametrize("how", ["flush", "fsync"])
async def test_who_waits_for_one_write_does_not_wait(near: World, how: str) -> None:
    fh = await near.create("file")
    await near.ops.write(fh, 0, b"data")
    near.caller.seen.clear()
    at_once(near.ops.flush(fh) if how == "flush" else near.ops.fsync(fh, False))
    (write,) = near.caller.seen
    assert (write.name, write.args.stable) == ("WRITE", stable_how.FILE_SYNC)
    assert (near.export / "file").read_bytes() == b"data"
    assert near.ops.behind.held == 0
    assert near.ops.behind.slots.unused()
    assert (await near.ops.getattr(await near.number("file"), near.ctx)).st_size == 4
    await near.close(fh)


async def test_a_failure_is_told(near: World) -> None:
    fh = await near.create("file")
    await near.ops.write(fh, 0, b"data")
    await answer(near, WRITE3resfail(nfsstat3.NFS3ERR_NOSPC))
    assert await fails(near.ops.fsync(fh, False)) == errno.ENOSPC
    near.caller.between.clear()
    await near.ops.fsync(fh, False)
    assert near.ops.behind.held == 0
    assert near.ops.behind.slots.unused()
    await near.close(fh)


async def test_a_connection_that_is_lost_is_told_as_silence(near: World) -> None:
    fh = await near.create("file")
    await near.ops.write(fh, 0, b"data")
    await answer(near, WorldError("gone", errno.ECONNRESET))
    assert await fails(near.ops.fsync(fh, False)) == near.ops.calls.timeout_errno
    near.caller.between.clear()
    assert near.ops.behind.slots.unused()
    await near.close(fh)


@pytest.mark.parametrize("soon", [False, True])
async def test_a_busy_server_is_asked_again(
    world: World, soon: bool, autojump_clock: trio.testing.MockClock
) -> None:
    world.caller.soon = soon
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    refused = 0

    async def busy_at_first(args: Any, _: Any, proceed: Any) -> Any:
        nonlocal refused
        refused += 1
        return WRITE3resfail(nfsstat3.NFS3ERR_JUKEBOX) if refused < 3 else await proceed(args)

    world.caller.between["WRITE"] = busy_at_first
    await world.ops.fsync(fh, False)
    assert refused == 3
    assert (world.export / "file").read_bytes() == b"data"
    assert world.ops.behind.slots.unused()
    await world.close(fh)


async def test_who_is_killed_while_it_waits_takes_no_data_along(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    waits = trio.Event()
    go_on = trio.Event()

    async def slow(args: Any, _: Any, proceed: Any) -> Any:
        waits.set()
        await go_on.wait()
        return await proceed(args)

    world.caller.between["WRITE"] = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ops.fsync, fh, False)
        await waits.wait()
        nursery.cancel_scope.cancel()
    assert (world.export / "file").read_bytes() == b""
    go_on.set()
    await world.ops.fsync(fh, False)
    assert (world.export / "file").read_bytes() == b"data"
    assert world.ops.behind.slots.unused()
    await world.close(fh)
