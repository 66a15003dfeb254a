"""Write-behind: what reaches the server when, and what becomes of failures."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs import writer
from umktls_fs.extents import OVERHEAD
from umktls_fs.writeback import AGE_SECONDS, MEMORY, WRITES_IN_FLIGHT
from umktls_fs.writer import MOST_UNSTABLE

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import Somebody, World
from umktls.nfs.types import stable_how
from umktls.rpc.message import OpaqueAuth

MIB = 1 << 20


def writes(world: World) -> list[tuple[int, int, stable_how]]:
    """Offset, length and stability of each WRITE so far; their order is trio's and random."""
    calls = [call.args for call in world.caller.seen if call.name == "WRITE"]
    return sorted((args.offset, args.count, args.stable) for args in calls)


class Gate:
    """Holds WRITEs (or another procedure) back until it is opened."""

    def __init__(self, world: World, name: str = "WRITE") -> None:
        self.opened = trio.Event()
        self.inside = 0
        world.caller.between[name] = self.between

    async def between(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        self.inside += 1
        await self.opened.wait()
        self.inside -= 1
        return await proceed(args)


# ---- what reaches the server when


async def test_a_small_file_is_one_stable_write(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"small")
    assert writes(world) == []
    await world.ops.flush(fh)
    assert writes(world) == [(0, 5, stable_how.FILE_SYNC)]
    assert world.caller.counts()["COMMIT"] == 0
    await world.ops.release(fh)
    assert (world.export / "file").read_bytes() == b"small"


async def test_contiguous_writes_become_writes_of_wsize(world: World) -> None:
    fh = await world.create("file")
    data = os.urandom(MIB + MIB // 2)
    for start in range(0, len(data), 128 << 10):
        await world.ops.write(fh, start, data[start : start + (128 << 10)])
    await world.close(fh)
    unstable = stable_how.UNSTABLE
    assert writes(world) == [(0, MIB, unstable), (MIB, MIB // 2, unstable)]
    assert world.caller.counts()["COMMIT"] == 1
    assert (world.export / "file").read_bytes() == data


async def test_a_write_longer_than_wsize_is_divided(make_world: MakeWorld) -> None:
    world = make_world("wsize=4096")
    fh = await world.create("file")
    data = os.urandom(10000)
    await world.ops.write(fh, 7, data)
    await world.close(fh)
    assert [write[:2] for write in writes(world)] == [(7, 4096), (4103, 4096), (8199, 1808)]
    assert (world.export / "file").read_bytes() == bytes(7) + data


async def test_writes_that_are_not_contiguous_are_not_joined(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"aaaa")
    await world.ops.write(fh, 8, b"bbbb")
    await world.close(fh)
    assert [write[:2] for write in writes(world)] == [(0, 4), (8, 4)]
    assert (world.export / "file").read_bytes() == b"aaaa\0\0\0\0bbbb"


async def test_a_closed_file_without_writes_costs_no_call(world: World) -> None:
    fh = await world.create("file")
    with world.caller.watch() as seen:
        await world.close(fh)
    assert seen == []


async def test_fsync_leaves_nothing_for_close(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    await world.ops.fsync(fh, True)
    with world.caller.watch() as seen:
        await world.close(fh)
    assert seen == []


async def test_fsync_of_who_only_reads_waits_for_what_others_have_written(world: World) -> None:
    """As sync(1) does it; a close of theirs waits for nothing."""
    writer, reader = await world.create("file"), await world.open("file")
    await world.ops.write(writer, 0, b"data")
    await world.ops.flush(reader)
    assert writes(world) == []
    await world.ops.fsync(reader, False)
    assert writes(world) == [(0, 4, stable_how.FILE_SYNC)]


async def test_fsync_makes_stable_what_is_answered_after_something_newer(world: World) -> None:
    fh = await world.create("file")
    gate = Gate(world)
    await world.ops.write(fh, 0, bytes(MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ops.fsync, fh, False)
        await wait_all_tasks_blocked()
        del world.caller.between["WRITE"]
        await world.ops.write(fh, 2 * MIB, bytes(MIB))
        await wait_all_tasks_blocked()
        assert world.caller.names()[-2:] == ["WRITE", "WRITE"]
        gate.opened.set()
    assert world.caller.names()[-1] == "COMMIT"


async def test_old_data_is_sent_and_idle_data_committed_without_a_close(
    world: World, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    nursery.start_soon(world.ops.run)
    await wait_all_tasks_blocked()
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    mock_clock.jump(AGE_SECONDS * 2 + 0.1)
    await wait_all_tasks_blocked()
    assert writes(world) == [(0, 4, stable_how.UNSTABLE)]
    assert world.caller.counts()["COMMIT"] == 0
    mock_clock.jump(AGE_SECONDS * 6)
    await wait_all_tasks_blocked()
    assert world.caller.counts()["COMMIT"] == 1
    with world.caller.watch() as seen:
        await world.close(fh)
    assert seen == []


@pytest.mark.parametrize("option", ["sync", "noac"])
async def test_sync_and_noac_write_at_once(make_world: MakeWorld, option: str) -> None:
    world = make_world(option)
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    assert writes(world) == [(0, 4, stable_how.FILE_SYNC)]
    await world.close(fh)


async def test_each_users_data_goes_under_its_own_credential(world: World) -> None:
    first = await world.create("file")
    world.me = Somebody(uid=0, gid=7)
    second = await world.open("file", os.O_WRONLY)
    await world.ops.write(first, 0, b"root")
    await world.ops.write(second, 4, b"other")
    await world.ops.flush(first)
    credentials = [call.credential for call in world.caller.seen if call.name == "WRITE"]
    assert len(credentials) == 2
    assert credentials[0] != credentials[1]
    await world.close(first)
    await world.close(second)


# ---- order and limits


async def test_overlapping_writes_are_sent_one_after_the_other(world: World) -> None:
    fh = await world.create("file")
    gate = Gate(world)
    await world.ops.write(fh, 0, b"aaaa")
    await world.ops.write(fh, 2, b"bbbb")  # pushes the first one out
    world.nursery.start_soon(world.ops.flush, fh)
    await wait_all_tasks_blocked()
    assert gate.inside == 1
    gate.opened.set()
    await world.close(fh)
    assert (world.export / "file").read_bytes() == b"aabbbb"


async def test_writes_in_flight_are_limited(world: World) -> None:
    fh = await world.create("file")
    gate = Gate(world)
    for number in range(WRITES_IN_FLIGHT + 4):
        await world.ops.write(fh, number * MIB, bytes(MIB))
    await wait_all_tasks_blocked()
    assert gate.inside == WRITES_IN_FLIGHT
    gate.opened.set()
    await world.close(fh)


async def test_writes_in_flight_of_one_file_are_limited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_FLYING", 3)
    fh = await world.create("file")
    gate = Gate(world)
    for number in range(6):
        await world.ops.write(fh, number * MIB, bytes(MIB))
    await wait_all_tasks_blocked()
    assert gate.inside == 3
    gate.opened.set()
    await world.close(fh)


async def test_memory_is_bounded_and_writers_wait_for_it(world: World) -> None:
    fh = await world.create("file")
    gate = Gate(world)
    done = 0

    async def writer() -> None:
        nonlocal done
        for number in range(40):
            await world.ops.write(fh, number * MIB, bytes(MIB))
            done += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer)
        await wait_all_tasks_blocked()
        assert done == MEMORY // MIB - 1  # each extent is counted a little more than its bytes
        assert world.ops.behind.held <= MEMORY
        gate.opened.set()
    assert world.ops.behind.held <= MEMORY
    await world.close(fh)
    assert world.ops.behind.held == 0
    assert world.caller.counts()["COMMIT"] >= 2
    assert (world.export / "file").stat().st_size == 40 * MIB


async def test_memory_held_by_an_idle_file_is_freed_for_another(world: World) -> None:
    idle, busy = await world.create("idle"), await world.create("busy")
    for number in range(7):
        await world.ops.write(idle, number * 2 * MIB, bytes(MIB))  # never contiguous
    for number in range(40):
        await world.ops.write(busy, number * MIB, bytes(MIB))
    await world.close(busy)
    await world.close(idle)
    assert world.ops.behind.held == 0


async def test_unstable_data_of_several_files_is_freed_when_memory_is_short(world: World) -> None:
    """No file has enough of it to be committed for its own sake."""
    gate = Gate(world)
    files = [await world.create(f"file-{number}") for number in range(MEMORY // MIB // 4 + 1)]
    for fh in files[:-1]:
        for number in range(4):
            await world.ops.write(fh, number * 2 * MIB, bytes(MIB - OVERHEAD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ops.write, files[-1], 0, bytes(MIB))
        await wait_all_tasks_blocked()
        assert world.ops.behind.held == MEMORY
        gate.opened.set()
        await wait_all_tasks_blocked()
    assert world.caller.counts()["COMMIT"] >= 1
    for fh in files:
        await world.close(fh)
    assert world.ops.behind.held == 0


# ---- reading what has not been sent


async def test_a_read_sees_what_was_written_before(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"hello")
    assert bytes(await world.ops.read(fh, 0, 100)) == b"hello"
    await world.ops.write(fh, 3, b"p!")
    assert bytes(await world.ops.read(fh, 1, 100)) == b"elp!"
    await world.close(fh)


async def test_a_read_of_a_hole_sees_that_there_is_data_behind_it(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 8192, b"end")
    assert bytes(await world.ops.read(fh, 0, 4096)) == bytes(4096)
    await world.close(fh)


async def test_a_read_does_not_wait_for_writes(world: World) -> None:
    (world.export / "file").write_bytes(b"x" * 8192)
    fh = await world.open("file", os.O_RDWR)
    await world.ops.write(fh, 4096, b"later")
    assert bytes(await world.ops.read(fh, 4090, 20)) == b"xxxxxxlaterxxxxxxxxx"
    assert writes(world) == []
    await world.close(fh)


async def test_a_read_sees_data_that_was_being_sent_meanwhile(world: World) -> None:
    """The READ comes before the WRITE on the server, but its answer after it."""
    (world.export / "file").write_bytes(b"x" * 8192)
    fh = await world.open("file", os.O_RDWR)
    await world.ops.write(fh, 0, b"new")

    async def overtaken(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        await world.ops.flush(fh)
        return result

    world.caller.between["READ"] = overtaken
    assert bytes(await world.ops.read(fh, 0, 5)) == b"newxx"
    world.caller.between.clear()
    assert bytes(await world.ops.read(fh, 0, 5)) == b"newxx"
    await world.close(fh)


async def test_many_small_pieces_are_committed_before_they_are_too_many(world: World) -> None:
    """Each read goes through all that is not stable: of a data base it were thousands."""
    fh = await world.create("file")
    most = 0
    for number in range(3 * MOST_UNSTABLE):
        await world.ops.write(fh, number * 7919 % 4096 * 4096, b"piece")
        await wait_all_tasks_blocked()
        most = max(most, len(world.ops.files[fh].inode.writer.behind(0)))  # type: ignore[union-attr]
    assert MOST_UNSTABLE <= most <= MOST_UNSTABLE + 2
    assert world.caller.counts()["COMMIT"] == 2
    await world.close(fh)
    assert world.ops.behind.held == 0


async def test_getattr_sends_a_little_data_so_that_times_are_right(world: World) -> None:
    fh = await world.create("file")
    await world.ops.write(fh, 0, b"data")
    number = await world.number("file")
    entry = await world.ops.getattr(number, world.ctx)
    assert entry.st_size == 4
    assert entry.st_mtime_ns == (world.export / "file").stat().st_mtime_ns
    await world.close(fh)
    assert (await world.ops.getattr(number, world.ctx)).st_mtime_ns == entry.st_mtime_ns


async def test_getattr_of_who_reads_sends_nothing(world: World) -> None:
    """The machine's kernel asks in front of each read behind a write: each was a WRITE."""
    fh = await world.create("file")
    number = await world.number("file")
    before = await world.ops.getattr(number, world.ctx)
    old = before.st_mtime_ns
    await world.ops.write(fh, 0, b"data")
    world.foretold.reading = True
    entry = await world.ops.getattr(number, world.ctx)
    assert (entry.st_size, entry.attr_timeout) == (4, 0.0)
    assert "WRITE" not in world.caller.names()
    assert bytes(await world.ops.read(fh, 0, 100)) == b"data"
    world.foretold.reading = False
    assert (await world.ops.getattr(number, world.ctx)).st_mtime_ns > old
    assert world.caller.names().count("WRITE") == 1
    await world.close(fh)


async def test_getattr_of_a_streaming_writer_does_not_wait(world: World) -> None:
    fh = await world.create("file")
    number = await world.number("file")
    gate = Gate(world)
    for index in range(3):
        await world.ops.write(fh, index * MIB, bytes(MIB))
    entry = await world.ops.getattr(number, world.ctx)
    assert (entry.st_size, entry.attr_timeout) == (3 * MIB, 0.0)
    gate.opened.set()
    await world.close(fh)
    assert (await world.ops.getattr(number, world.ctx)).st_size == 3 * MIB


async def test_a_loop_of_write_and_stat_is_not_a_loop_of_disk_flushes(world: World) -> None:
    fh = await world.create("file")
    number = await world.number("file")
    for index in range(3):
        await world.ops.write(fh, index, b"x")
        await world.ops.getattr(number, world.ctx)
    assert [write[2] for write in writes(world)] == [
        stable_how.FILE_SYNC,
        stable_how.UNSTABLE,
        stable_how.UNSTABLE,
    ]
    await world.close(fh)
