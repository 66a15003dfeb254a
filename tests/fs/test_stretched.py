"""Servers that stretch what they do: each operation has a bound as a whole."""

from __future__ import annotations

import errno
import os
from typing import Any

import trio
from trio.testing import MockClock

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import fails
from umktls.nfs.types import LOOKUP3resfail, READ3resok, WRITE3args, WRITE3resok, nfsstat3
from umktls.rpc.message import OpaqueAuth


async def byte_by_byte(args: WRITE3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
    result: WRITE3resok = await proceed(args)
    return WRITE3resok(result.file_wcc, 1, result.committed, result.verf)


def slowly(between: Any, clock: MockClock) -> Any:
    """The same, a second later each time."""

    async def wait(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        clock.jump(1)
        return await between(args, credential, proceed)

    return wait


async def test_one_byte_per_write_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    world = make_world("timeo=50,retrans=0")
    fh = await world.create("file")
    await world.ops.write(fh, 0, bytes(10_000))
    world.caller.between["WRITE"] = slowly(byte_by_byte, autojump_clock)
    assert await fails(world.ops.flush(fh)) == errno.ETIMEDOUT
    assert 5 <= world.caller.counts()["WRITE"] <= 7
    assert world.ops.behind.held == 0
    world.caller.between.clear()
    await world.close(fh)


async def test_one_byte_per_read_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: READ3resok = await proceed(args)
        return READ3resok(result.file_attributes, 1, False, bytes(result.data)[:1])

    world = make_world("soft,timeo=50,retrans=0")
    (world.export / "file").write_bytes(bytes(10_000))
    fh = await world.open("file")
    world.caller.between["READ"] = slowly(between, autojump_clock)
    assert await fails(world.ops.read(fh, 0, 10_000)) == errno.EIO
    assert world.caller.counts()["READ"] <= 7
    await world.close(fh)


async def test_each_call_just_in_time_stretches_no_deadline(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    """A CREATE that is exclusive takes several calls."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(4):
            await trio.sleep_forever()
        return await proceed(args)

    world = make_world("timeo=50,retrans=0")
    world.nursery.start_soon(world.ops.run)
    for name in ("CREATE", "LOOKUP", "GETATTR", "SETATTR"):
        world.caller.between[name] = between
    started = trio.current_time()
    assert await fails(world.create("file", os.O_EXCL)) == errno.ETIMEDOUT
    assert 5 <= trio.current_time() - started < 6


async def test_a_stream_that_makes_progress_may_take_longer(
    make_world: MakeWorld, autojump_clock: MockClock
) -> None:
    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(3 + args.offset / 16384):
            await trio.sleep_forever()
        return await proceed(args)

    world = make_world("timeo=50,retrans=0,wsize=4096")
    world.nursery.start_soon(world.ops.run)
    fh = await world.create("file")
    world.caller.between["WRITE"] = between
    started = trio.current_time()
    for number in range(64):
        await world.ops.write(fh, number * 512, bytes(512))
    world.caller.between["COMMIT"] = lambda args, credential, proceed: proceed(args)
    await world.ops.flush(fh)
    assert trio.current_time() - started > 4
    await world.close(fh)


async def test_hard_waits_for_ever(make_world: MakeWorld, autojump_clock: MockClock) -> None:
    world = make_world("hard")
    (world.export / "file").touch()
    world.nursery.start_soon(world.ops.run)

    async def after_an_hour(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        with trio.move_on_after(3600):
            await trio.sleep_forever()
        del world.caller.between["LOOKUP"]
        return LOOKUP3resfail(nfsstat3.NFS3ERR_JUKEBOX)

    world.caller.between["LOOKUP"] = after_an_hour
    assert (await world.lookup("file")).st_size == 0
    assert trio.current_time() >= 3600
