"""Reading around the places that a program reads here and there."""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs.around import COUNTED, CREDIT, SMALL, Around

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed, bad_sector
from tests.fs.world import World, fails
from umktls.nfs.types import READ3args
from umktls.rpc.message import OpaqueAuth

PAGE, MIB = 4096, 1 << 20
COST = 5  # requests in a region of 1 MiB before it is fetched
OLD = 1_000_000_000


def reads(world: World) -> list[tuple[int, int]]:
    """Offset and count of each READ so far."""
    calls = [call.args for call in world.caller.seen if call.name == "READ"]
    return [(args.offset, args.count) for args in calls]


def content(world: World, size: int) -> bytes:
    """An old file of so many bytes."""
    data = random.Random(size).randbytes(size)
    (world.export / "file").write_bytes(data)
    os.utime(world.export / "file", (OLD, OLD))
    return data


def sparse(world: World, size: int) -> None:
    """A file of so many bytes that takes no room."""
    (world.export / "file").touch()
    os.truncate(world.export / "file", size)


def scattered(count: int, region: int = 0) -> list[int]:
    """Places in a region of 1 MiB, none behind another."""
    return [region * MIB + (3 * number + 1) * PAGE for number in range(count)]


async def read(world: World, fh: int, places: list[int], size: int = PAGE) -> list[bytes]:
    """What is there, read one after the other, and what follows from each."""
    parts = []
    for place in places:
        parts.append(bytes(await world.ops.read(fh, place, size)))
        await wait_all_tasks_blocked()
    return parts


def around(world: World, fh: int) -> Around:
    """Of an open file in which places were read here and there."""
    found = world.ops.files[fh].reader._around
    assert found is not None
    return found


async def test_a_region_that_is_read_here_and_there_is_fetched_once(world: World) -> None:
    data = content(world, 4 * MIB)
    fh = await world.open("file")
    places = scattered(20, region=2)
    assert await read(world, fh, places) == [data[place : place + PAGE] for place in places]
    assert reads(world) == [(place, PAGE) for place in places[:COST]] + [(2 * MIB, MIB)]
    await world.close(fh)


async def test_who_asks_while_a_region_is_on_its_way_waits_for_it(world: World) -> None:
    gate = trio.Event()

    async def slow(args: READ3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if args.count == MIB:
            await gate.wait()
        return await proceed(args)

    world.caller.between["READ"] = slow
    data = content(world, MIB)
    fh = await world.open("file")
    places, got = scattered(COST + 1), b""

    async def ask() -> None:
        nonlocal got
        got = bytes(await world.ops.read(fh, places[COST], PAGE))

    await read(world, fh, places[:COST])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert got == b""
        gate.set()
    assert got == data[places[COST] :][:PAGE]
    assert reads(world) == [(place, PAGE) for place in places[:COST]] + [(0, MIB)]
    await world.close(fh)


@pytest.mark.parametrize("size", [10 * PAGE, 700_001])
async def test_a_small_file_is_fetched_sooner_and_to_its_end(world: World, size: int) -> None:
    data = content(world, size)
    fh = await world.open("file")
    few = max(2, 1 + size // (MIB // 4))
    places = [*scattered(few), size - 10, size + 10]
    assert await read(world, fh, places) == [data[place : place + PAGE] for place in places]
    # What lies at or behind the end is asked for: the file may have grown.
    wanted = [(place, PAGE) for place in places[:few]] + [(0, size)]
    assert reads(world) == wanted + [(place, PAGE) for place in places[few:]]
    await world.close(fh)


async def test_requests_that_follow_each_other_do_not_count(world: World) -> None:
    content(world, 4 * MIB)
    fh = await world.open("file")
    await read(world, fh, [number * PAGE for number in range(2 * COST)])
    assert world.ops.files[fh].reader._around is None
    await world.close(fh)


@pytest.mark.parametrize("size", [SMALL, SMALL + PAGE])
async def test_large_requests_do_not_count(world: World, size: int) -> None:
    content(world, 4 * MIB)
    fh = await world.open("file")
    places = [(5 * number + 1) * (64 << 10) for number in range(3)] * 4
    await read(world, fh, places, size)
    wanted = [(place, size) for place in places]
    assert reads(world) == (wanted if size > SMALL else [*wanted[:COST], (0, MIB)])
    await world.close(fh)


@pytest.mark.parametrize("option", ["readahead=0", "noac", "actimeo=0"])
async def test_nothing_is_fetched_around_or_used_where_nothing_is_kept(
    make_world: MakeWorld, option: str
) -> None:
    world = make_world(option)
    content(world, MIB)
    fh = await world.open("file")
    places = scattered(3 * COST)
    await read(world, fh, places)
    assert reads(world) == [(place, PAGE) for place in places]
    await world.close(fh)


async def test_direct_io_fetches_nothing_around(world: World) -> None:
    content(world, MIB)
    fh = await world.open("file", os.O_RDONLY | os.O_DIRECT)
    places = scattered(3 * COST)
    await read(world, fh, places)
    assert reads(world) == [(place, PAGE) for place in places]
    await world.close(fh)


async def test_a_change_by_another_is_seen_when_the_attributes_are_old(
    make_world: MakeWorld, mock_clock: MockClock
) -> None:
    """As a page cache would show it (nfs(5), "Using attribute caching"): `acregmin` seconds."""
    world = make_world("acregmin=3", "acregmax=3")
    data = content(world, MIB)
    fh = await world.open("file")
    places = scattered(COST + 8)
    await read(world, fh, places[: COST + 1])
    (world.export / "file").write_bytes(b"y" * MIB)
    assert await read(world, fh, [places[COST]]) == [data[places[COST] :][:PAGE]]
    mock_clock.jump(3)
    assert await read(world, fh, places) == [b"y" * PAGE] * len(places)
    await world.close(fh)


async def test_the_same_region_is_believed_again_when_a_reply_says_so(
    make_world: MakeWorld, mock_clock: MockClock
) -> None:
    world = make_world("acregmin=3", "acregmax=3")
    content(world, MIB)
    fh = await world.open("file")
    places = scattered(COST + 8)
    await read(world, fh, places[: COST + 1])
    mock_clock.jump(3)
    with world.caller.watch():
        await read(world, fh, places[COST:])
        assert reads(world) == [(places[COST], PAGE)]
    await world.close(fh)


async def test_close_to_open_drops_what_another_has_changed(world: World) -> None:
    content(world, MIB)
    fh = await world.open("file")
    places = scattered(COST + 1)
    await read(world, fh, places)
    (world.export / "file").write_bytes(b"y" * MIB)
    await world.close(await world.open("file"))
    assert await read(world, fh, places) == [b"y" * PAGE] * len(places)
    await world.close(fh)


async def test_our_own_write_is_read(world: World) -> None:
    content(world, MIB)
    fh = await world.open("file", os.O_RDWR)
    places = scattered(COST + 1)
    await read(world, fh, places)
    await world.ops.write(fh, places[2], b"new")
    assert (await read(world, fh, [places[2]], 3)) == [b"new"]
    await world.ops.flush(fh)
    assert (await read(world, fh, [places[2]], 3)) == [b"new"]
    await world.close(fh)


async def test_what_is_lost_by_regions_of_no_use_is_bounded(world: World) -> None:
    """Each is left as soon as it has come, as in a file too large to come back to."""
    content(world, 64 * MIB)
    fh = await world.open("file")
    for region in range(64):
        await read(world, fh, scattered(COST, region))
    whole = [read for read in reads(world) if read[1] == MIB]
    assert len(whole) == CREDIT // COST
    await world.close(fh)


async def test_what_is_of_use_goes_on(world: World) -> None:
    content(world, 64 * MIB)
    fh = await world.open("file")
    for region in range(2 * CREDIT // COST):
        await read(world, fh, scattered(2 * COST, region))
    whole = [read for read in reads(world) if read[1] == MIB]
    assert len(whole) == 2 * CREDIT // COST
    await world.close(fh)


async def test_who_never_comes_back_is_not_counted_for_ever(make_world: MakeWorld) -> None:
    world = make_world("rsize=4096")
    content(world, MIB)
    fh = await world.open("file")
    shown = world.ops.files[fh].reader
    await read(world, fh, [8192])
    counted = around(world, fh)
    for number in range(COUNTED + 10):
        counted.asked(number * 4096, 512)
    assert len(counted._asked) <= COUNTED
    assert not shown.holds
    await world.close(fh)


async def test_memory_is_bounded_and_the_least_recently_used_region_goes(world: World) -> None:
    memory = world.ops.files._ahead.memory
    count = memory.size // MIB + 2
    sparse(world, count * MIB)
    fh = await world.open("file")
    for region in range(count):
        await read(world, fh, scattered(2 * COST, region))
    assert memory.free == 0
    with world.caller.watch():
        await read(world, fh, [scattered(1, count - 1)[0], scattered(1, 0)[0]])
        assert reads(world) == [(scattered(1, 0)[0], PAGE)]
    await world.close(fh)
    assert memory.free == memory.size


async def test_another_file_takes_the_memory_of_the_idle(world: World) -> None:
    memory = world.ops.files._ahead.memory
    sparse(world, memory.size)
    files = [await world.open("file") for _ in range(2)]
    for fh in files:
        for region in range(memory.size // MIB):
            await read(world, fh, scattered(2 * COST, region))
    assert not around(world, files[0]).holds
    assert around(world, files[1]).holds
    for fh in files:
        await world.close(fh)
    assert memory.free == memory.size
    assert not memory._holders


async def test_a_region_that_cannot_be_read_keeps_nobody_from_the_rest(world: World) -> None:
    data = content(world, MIB)

    world.caller.between["READ"] = bad_sector(40 * PAGE)
    fh = await world.open("file")
    places = scattered(12)
    assert await read(world, fh, places) == [data[place : place + PAGE] for place in places]
    assert await fails(world.ops.read(fh, 40 * PAGE, PAGE)) == errno.EIO
    await world.close(fh)
