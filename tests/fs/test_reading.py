"""Reading and reading ahead."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked
from umktls_fs.blocks import Block
from umktls_fs.calls import Calls
from umktls_fs.options import parse_options
from umktls_fs.readahead import ReadAhead, Reader

from tests.fs.conftest import MakeWorld
from tests.fs.peer import ROOT, Proceed, bad_sector
from tests.fs.world import World, fails
from umktls.nfs.types import NO_WCC, READ3args, READ3resok
from umktls.rpc.message import OpaqueAuth

KIB, MIB = 1 << 10, 1 << 20
REQUEST = 128 * KIB  # what a kernel asks for


def reads(world: World) -> list[tuple[int, int]]:
    """Offset and count of each READ so far; those of one moment are in random order."""
    calls = [call.args for call in world.caller.seen if call.name == "READ"]
    return sorted((args.offset, args.count) for args in calls)


def content(world: World, size: int) -> bytes:
    data = os.urandom(size)
    (world.export / "file").write_bytes(data)
    return data


async def test_a_file_is_read(world: World) -> None:
    data = content(world, 10000)
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 0, 4096)) == data[:4096]
    assert bytes(await world.ops.read(fh, 8192, 4096)) == data[8192:]
    assert bytes(await world.ops.read(fh, 10000, 4096)) == b""
    assert bytes(await world.ops.read(fh, 99999, 4096)) == b""
    await world.close(fh)


async def test_random_reads_ask_for_exactly_what_is_wanted(world: World) -> None:
    data = content(world, 4 * MIB)
    fh = await world.open("file")
    wanted = [2 * MIB, 40960, 3 * MIB, 8192, 4096]
    for offset in wanted:
        assert bytes(await world.ops.read(fh, offset, 4096)) == data[offset : offset + 4096]
    await wait_all_tasks_blocked()
    assert reads(world) == sorted((offset, 4096) for offset in wanted)
    await world.close(fh)


async def test_sequential_reads_are_read_ahead_in_large_blocks(world: World) -> None:
    data = content(world, 5 * MIB)
    fh = await world.open("file")
    for start in range(0, len(data), REQUEST):
        part = await world.ops.read(fh, start, REQUEST)
        assert bytes(part) == data[start : start + REQUEST]
    await world.close(fh)
    direct = [(0, REQUEST), (REQUEST, REQUEST)]
    blocks = [(2 * REQUEST + number * MIB, MIB) for number in range(5)]
    assert reads(world) == direct + blocks


async def test_what_was_read_ahead_is_handed_on_without_a_copy(world: World) -> None:
    content(world, 3 * MIB)
    fh = await world.open("file")
    for start in range(0, MIB, REQUEST):
        last = await world.ops.read(fh, start, REQUEST)
    view = memoryview(last)
    assert view.obj is not None
    assert memoryview(view.obj).nbytes > REQUEST
    await world.close(fh)


async def test_the_window_grows_while_it_is_useful(world: World) -> None:
    content(world, 64 * MIB)
    fh = await world.open("file")
    ahead = []
    for start in range(0, 40 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
        await wait_all_tasks_blocked()
        ahead.append(max(offset for offset, _ in reads(world)) // MIB - start // MIB)
    assert ahead[:2] == [0, 2]
    assert ahead == sorted(ahead)
    assert ahead[-1] == 8
    await world.close(fh)


@pytest.mark.parametrize(("option", "most"), [("readahead=0", 0), ("readahead=2097152", 2)])
async def test_the_option_limits_reading_ahead(
    make_world: MakeWorld, option: str, most: int
) -> None:
    world = make_world(option)
    content(world, 16 * MIB)
    fh = await world.open("file")
    for start in range(0, 8 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await wait_all_tasks_blocked()
    assert max(offset for offset, _ in reads(world)) == (7 + most) * MIB
    await world.close(fh)


async def test_nothing_is_read_ahead_behind_the_end(world: World) -> None:
    content(world, 3 * REQUEST)
    fh = await world.open("file")
    for start in range(0, 4 * REQUEST, REQUEST):
        await world.ops.read(fh, start, REQUEST)
    assert max(offset for offset, _ in reads(world)) == 3 * REQUEST - REQUEST
    await world.close(fh)


@pytest.mark.parametrize("place", [0, 12 * MIB], ids=["back", "ahead"])
async def test_a_seek_drops_what_was_read_ahead(world: World, place: int) -> None:
    data = content(world, 16 * MIB)
    fh = await world.open("file")
    for start in range(0, 4 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await wait_all_tasks_blocked()
    with world.caller.watch():
        assert bytes(await world.ops.read(fh, place, 4096)) == data[place:][:4096]
        assert bytes(await world.ops.read(fh, 4 * MIB, 4096)) == data[4 * MIB :][:4096]
        assert reads(world) == sorted([(4 * MIB, 4096), (place, 4096)])
    await world.close(fh)


async def test_what_was_dropped_before_it_was_asked_for_is_not_asked_for(world: World) -> None:
    content(world, 16 * MIB)
    inode = world.ops.inodes[await world.number("file")]
    waiting: list[Callable[[], Awaitable[None]]] = []
    asked: list[Block] = []

    def wait(fetch: Callable[..., Awaitable[None]], *args: Any) -> None:
        waiting.append(partial(fetch, *args))
        asked.extend(arg for arg in args if isinstance(arg, Block))

    shared = ReadAhead(
        Calls(world.caller),
        world.ops.attributes,
        wait,
        rsize=MIB,
        window=8 * MIB,
    )
    reader = Reader(inode, ROOT, shared)
    for start in (0, MIB):
        await reader.read(start, MIB)
    assert len(waiting) == 2
    reader.drop()
    for fetch in waiting:
        await fetch()
    assert all(block.ready.is_set() for block in asked)
    assert reads(world) == [(0, MIB), (MIB, MIB)]


async def test_our_own_write_drops_what_was_read_ahead(world: World) -> None:
    content(world, 16 * MIB)
    fh = await world.open("file", os.O_RDWR)
    for start in range(0, 4 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await world.ops.write(fh, 4 * MIB, b"new")
    assert bytes(await world.ops.read(fh, 4 * MIB, 3)) == b"new"
    await world.ops.flush(fh)
    assert bytes(await world.ops.read(fh, 4 * MIB, 3)) == b"new"
    await world.close(fh)


async def test_blocks_read_between_a_write_and_its_sending_are_dropped(world: World) -> None:
    """They have the old bytes; neither size nor mtime need show it, or be told."""

    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return dataclasses.replace(await proceed(args), file_wcc=NO_WCC)

    async def silent(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return dataclasses.replace(await proceed(args), file_attributes=None)

    world.caller.between |= {"WRITE": terse, "READ": silent}
    content(world, 16 * MIB)
    fh = await world.open("file", os.O_RDWR)
    await world.ops.write(fh, 3 * MIB, b"new")
    for start in range(0, 2 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await wait_all_tasks_blocked()
    assert (3 * MIB, MIB) in reads(world)
    await world.ops.flush(fh)
    assert bytes(await world.ops.read(fh, 2 * MIB, 2 * MIB))[MIB : MIB + 3] == b"new"
    await world.close(fh)


async def test_a_change_by_another_drops_what_was_read_ahead(world: World) -> None:
    content(world, 16 * MIB)
    fh = await world.open("file")
    for start in range(0, 2 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await wait_all_tasks_blocked()
    (world.export / "file").write_bytes(b"y" * (16 * MIB - 1))
    await world.close(await world.open("file"))  # close-to-open: from here on it is seen
    assert bytes(await world.ops.read(fh, 2 * MIB, 100)) == b"y" * 100
    await world.close(fh)


async def test_who_writes_what_is_read_next_has_little_read_ahead_in_vain(world: World) -> None:
    """A mapping of a file, some of whose pages are written besides: for each page of 4 KiB there
    were two blocks of a mebibyte."""
    data = content(world, 4 * MIB)
    fh = await world.open("file", os.O_RDWR)
    for start in range(0, MIB, 4096):
        await world.ops.write(fh, start, b"x")
        assert bytes(await world.ops.read(fh, start, 4096)) == b"x" + data[start + 1 : start + 4096]
        await wait_all_tasks_blocked()
    assert sum(count for _, count in reads(world)) <= 5 * MIB
    await world.close(fh)


async def test_short_runs_here_and_there_are_not_read_ahead_for_ever(world: World) -> None:
    content(world, 64 * MIB)
    fh = await world.open("file")
    for start in range(60 * MIB, 0, -3 * MIB):
        await world.ops.read(fh, start, REQUEST)
        await world.ops.read(fh, start + REQUEST, REQUEST)
        await wait_all_tasks_blocked()
    blocks = [count for _, count in reads(world) if count > REQUEST]
    assert blocks == [MIB, MIB]
    await world.close(fh)


async def test_reading_ahead_begins_again_and_is_trusted_once_it_was_of_use(world: World) -> None:
    content(world, 64 * MIB)
    fh = await world.open("file")

    async def run(start: int, requests: int) -> int:
        """Sequential requests; how many blocks were asked for."""
        with world.caller.watch():
            for number in range(requests):
                await world.ops.read(fh, start + number * REQUEST, REQUEST)
            await wait_all_tasks_blocked()
            return sum(count > REQUEST for _, count in reads(world))

    assert [await run(start * MIB, 2) for start in (8, 4, 0)] == [2, 0, 0]
    assert [await run(start * MIB, 3) for start in (28, 24, 20)] == [2, 0, 0]
    assert await run(32 * MIB, 20) > 2
    assert await run(12 * MIB, 2) == 2
    await world.close(fh)


async def test_memory_is_shared_and_taken_from_the_idle(world: World) -> None:
    content(world, 64 * MIB)
    memory = world.ops.files._ahead.memory
    files = [await world.open("file") for _ in range(memory.size // (8 * MIB) + 1)]
    for fh in files:
        for start in range(0, 12 * MIB, MIB):
            await world.ops.read(fh, start, MIB)
        await wait_all_tasks_blocked()
    assert memory.free >= 0
    held = sum(len(world.ops.files[fh].reader.blocks) for fh in files)
    assert held * MIB + memory.free == memory.size
    assert len(world.ops.files[files[0]].reader.blocks) == 0
    assert len(world.ops.files[files[-1]].reader.blocks) == 8
    for fh in files:
        await world.close(fh)
    assert memory.free == memory.size
    assert not memory._holders


async def test_a_failure_ahead_is_told_to_who_reads_there(world: World) -> None:
    data = content(world, 16 * MIB)

    world.caller.between["READ"] = bad_sector(3 * MIB)
    fh = await world.open("file")
    for start in range(0, 3 * MIB, MIB):
        assert bytes(await world.ops.read(fh, start, MIB)) == data[start : start + MIB]
    assert await fails(world.ops.read(fh, 3 * MIB, MIB)) == errno.EIO
    assert bytes(await world.ops.read(fh, 4 * MIB, MIB)) == data[4 * MIB : 5 * MIB]
    await world.close(fh)


async def test_many_reads_are_in_flight(world: World) -> None:
    content(world, 30 * MIB)
    fh = await world.open("file")
    gate, inside = trio.Event(), 0

    async def held(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        nonlocal inside
        inside += 1
        await gate.wait()
        return await proceed(args)

    world.caller.between["READ"] = held
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(world.ops.read, fh, number * MIB, 4096)
        await wait_all_tasks_blocked()
        assert inside == 30
        gate.set()
    await world.close(fh)


@pytest.mark.parametrize("most", [1, 1000, 4095])
async def test_short_reads_are_continued(world: World, most: int) -> None:
    data = content(world, 5000)

    async def short(args: READ3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return await proceed(dataclasses.replace(args, count=min(args.count, most)))

    world.caller.between["READ"] = short
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 10, 4096)) == data[10:4106]
    await world.close(fh)


async def test_more_than_was_asked_for_is_cut_off(world: World) -> None:
    async def generous(args: READ3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: READ3resok = await proceed(args)
        data = bytes(result.data) + b"more"
        return dataclasses.replace(result, data=data, count=len(data), eof=False)

    data = content(world, 8192)
    world.caller.between["READ"] = generous
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 0, 4096)) == data[:4096]
    await world.close(fh)


async def test_requests_above_rsize_are_divided(make_world: MakeWorld) -> None:
    world = make_world("rsize=4096")
    data = content(world, 20000)
    fh = await world.open("file")
    assert bytes(await world.ops.read(fh, 100, 10000)) == data[100:10100]
    assert reads(world)[:3] == [(100, 4096), (4196, 4096), (8292, 1808)]
    await world.close(fh)


async def test_direct_io_keeps_nothing_back(world: World) -> None:
    content(world, 16 * MIB)
    fh = await world.open("file", os.O_RDWR | os.O_DIRECT)
    for start in range(0, 4 * MIB, MIB):
        await world.ops.read(fh, start, MIB)
    await wait_all_tasks_blocked()
    assert reads(world) == [(start, MIB) for start in range(0, 4 * MIB, MIB)]
    await world.ops.write(fh, 0, b"direct")
    assert (world.export / "file").read_bytes()[:6] == b"direct"
    await world.close(fh)


@given(
    st.lists(st.tuples(st.integers(0, 60000), st.integers(1, 9000)), max_size=20),
    st.integers(0, 50000),
    st.sampled_from([4096, 8192, 1 << 20]),
)
@example([(0, 8193)], 24580, 4096)  # blocks end before a request does, others begin behind it
@settings(max_examples=40)
async def test_any_sequence_of_reads_gives_the_files_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: list[tuple[int, int]],
    size: int,
    rsize: int,
) -> None:
    """Each read is followed by two sequential ones, so that blocks come and go."""
    async with trio.open_nursery() as nursery:
        top = tmp_path_factory.mktemp("world")
        world = World(top, nursery, parse_options([f"rsize={rsize}"]))
        data = content(world, size)
        fh = await world.open("file")
        for offset, count in wanted:
            for start in (offset, offset + count, offset + 2 * count):
                part = await world.ops.read(fh, start, count)
                assert bytes(part) == data[start : start + count]
        await world.close(fh)
        memory = world.ops.files._ahead.memory
        assert memory.free == memory.size
        world.caller.server.close()
        nursery.cancel_scope.cancel()
