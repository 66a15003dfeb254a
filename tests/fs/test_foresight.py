"""Names that are fetched before they are asked for, and others who change them meanwhile."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import MockClock, wait_all_tasks_blocked
from umktls_fs.foresight import CREDIT, MISSES, MOST_CREDIT, WAIT_SECONDS

from tests.fs.conftest import MakeWorld
from tests.fs.peer import Proceed
from tests.fs.world import ROOT, Answering, Somebody, World, fails
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.nfs.types import READDIRPLUS3resfail, nfsstat3
from umktls.rpc.message import OpaqueAuth

SECONDS = 3.0  # acregmin, acdirmin
LAST = "f39"


@pytest.fixture
async def foreseeing(world: World) -> World:
    """40 files f0 to f39, of which the first have been looked up, and the rest are fetched."""
    await foresee(world)
    return world


async def foresee(world: World) -> None:
    for number in range(40):
        (world.export / f"f{number}").write_bytes(b"x" * number)
    for number in range(MISSES):
        await world.lookup(f"f{number}")
    await wait_all_tasks_blocked()


async def called(world: World, name: str, parent: int = ROOT) -> list[str]:
    with world.caller.watch() as seen:
        await world.lookup(name, parent)
        return [call.name for call in seen]


async def test_the_rest_is_there_when_it_is_asked_for(
    foreseeing: World, autojump_clock: MockClock
) -> None:
    await elapse(1.0)
    with foreseeing.caller.watch() as seen:
        for number in range(MISSES, 40):
            entry = await foreseeing.lookup(f"f{number}")
            assert entry.st_size == number
            assert entry.st_ino == (foreseeing.export / f"f{number}").stat().st_ino
            assert 0 < entry.entry_timeout <= SECONDS - 1.0
            assert 0 < entry.attr_timeout <= SECONDS - 1.0
            assert foreseeing.ops.inodes[entry.st_ino].lookups == 1
        assert seen == []
    assert await called(foreseeing, LAST) == ["LOOKUP"]  # FUSE has forgotten: ask


@pytest.mark.parametrize("order", [list, lambda names: names[::-1], None])
async def test_whatever_the_order(
    world: World, order: Callable[[list[str]], list[str]] | None, autojump_clock: MockClock
) -> None:
    names = [f"file{number}" for number in range(400)]
    for name in names:
        (world.export / name).touch()
    wanted = random.Random(1).sample(names, len(names)) if order is None else order(names)
    with world.caller.watch() as seen:
        for name in wanted:
            await world.lookup(name)
        assert len(seen) < len(names) / 8


async def test_few_look_ups_in_a_large_directory_fetch_little(
    world: World, autojump_clock: MockClock
) -> None:
    names = [f"file{number}" for number in range(3000)]
    for name in names:
        (world.export / name).touch()
    for name in names[:: len(names) // 6]:
        await world.lookup(name)
    await wait_all_tasks_blocked()
    ahead = world.ops.inodes.root.ahead
    assert ahead is not None
    assert 0 < ahead.fetched < 300


async def directories(world: World, count: int) -> list[int]:
    """So many of 10 files each."""
    numbers = []
    for number in range(count):
        made = world.export / f"directory{number}"
        made.mkdir()
        for name in range(10):
            (made / f"f{name}").touch()
        numbers.append(await world.number(made.name))
    await elapse(2 * SECONDS)  # what was fetched of the root is forgotten
    return numbers


async def walk(world: World, directory: int, names: int) -> list[str]:
    """Look at so many of its files; the calls that this takes."""
    with world.caller.watch() as seen:
        for name in range(names):
            await world.lookup(f"f{name}", directory)
            await wait_all_tasks_blocked()
        return [call.name for call in seen]


async def test_who_walks_through_directories_waits_for_one_name_in_each(
    world: World, autojump_clock: MockClock
) -> None:
    first, *others = await directories(world, 6)
    world.ops._foresight._credit = 0
    assert await walk(world, first, 10) == [*["LOOKUP"] * MISSES, "READDIRPLUS"]
    for other in others:
        assert await walk(world, other, 10) == ["LOOKUP", "READDIRPLUS"]


async def test_who_looks_at_one_name_in_each_directory_has_little_fetched(
    world: World, autojump_clock: MockClock
) -> None:
    used, *others = await directories(world, 20)
    world.ops._foresight._credit = 0
    await walk(world, used, 10)
    calls = [name for other in others for name in await walk(world, other, 1)]
    assert calls.count("LOOKUP") == len(others)
    assert calls.count("READDIRPLUS") == CREDIT


async def test_credit_has_a_limit(world: World, autojump_clock: MockClock) -> None:
    for number in await directories(world, 8):
        await walk(world, number, 10)
    assert world.ops._foresight._credit == MOST_CREDIT


# ---- what others do


async def test_what_was_fetched_is_good_for_acregmin(
    foreseeing: World, autojump_clock: MockClock
) -> None:
    """And not for that long from when it was used."""
    (foreseeing.export / "f39").write_bytes(b"a local writer's")
    (foreseeing.export / "f38").write_bytes(b"a local writer's")
    await elapse(SECONDS - 0.5)
    entry = await foreseeing.lookup("f39")
    assert entry.st_size == 39
    assert entry.attr_timeout <= 0.5
    assert entry.entry_timeout <= 0.5
    await elapse(0.6)
    assert (await foreseeing.lookup("f38")).st_size == len(b"a local writer's")


async def test_it_is_forgotten_then(foreseeing: World, autojump_clock: MockClock) -> None:
    await elapse(2 * SECONDS + 0.1)
    assert foreseeing.ops.inodes.root.ahead is None


@pytest.mark.parametrize("options", ["noac", "actimeo=0", "nordirplus", "lookupcache=none"])
async def test_where_nothing_may_be_remembered_nothing_is_fetched(
    make_world: MakeWorld, options: str
) -> None:
    world = make_world(options)
    await foresee(world)
    assert world.caller.counts()["READDIRPLUS"] == 0
    assert await called(world, LAST) == ["LOOKUP"]


async def test_where_callers_cannot_be_seen_nothing_is_fetched(
    world: World, autojump_clock: MockClock
) -> None:
    world.foretold.seen = False
    await foresee(world)
    assert world.caller.counts()["READDIRPLUS"] == 0


async def test_a_name_that_is_to_be_made_is_asked_for(foreseeing: World) -> None:
    """O_EXCL is a lock: that of another client may be gone already."""
    (foreseeing.export / LAST).unlink()
    foreseeing.making.add(LAST.encode())
    assert await fails(foreseeing.lookup(LAST)) == errno.ENOENT
    await foreseeing.close(await foreseeing.create(LAST, os.O_RDWR | os.O_EXCL))


async def test_an_open_sees_what_was_closed_elsewhere(foreseeing: World) -> None:
    number = await foreseeing.number(LAST)
    (foreseeing.export / LAST).write_bytes(b"a local writer's")
    assert await fails(foreseeing.ops.open(number, os.O_RDONLY, foreseeing.ctx)) == errno.ESTALE
    assert (await foreseeing.lookup(LAST)).st_size == len(b"a local writer's")


async def test_after_estale_nothing_is_used(foreseeing: World) -> None:
    """What was replaced is looked up again because its handle is stale."""
    number = await foreseeing.number("f38")
    for name in ("f38", LAST):
        (foreseeing.export / name).unlink()
        (foreseeing.export / name).write_bytes(b"another file")
    assert await fails(foreseeing.ops.open(number, os.O_RDONLY, foreseeing.ctx)) == errno.ESTALE
    for name in ("f38", LAST):
        assert (await foreseeing.lookup(name)).st_size == len(b"another file")


async def test_another_user_is_asked_for(foreseeing: World) -> None:
    foreseeing.me = Somebody(uid=12345, gid=12345, pid=2)
    assert await called(foreseeing, LAST) == ["LOOKUP"]
    foreseeing.me = Somebody()
    (foreseeing.export / "f38").unlink()
    assert await fails(foreseeing.lookup("f38")) == errno.ENOENT


async def test_a_file_with_several_names_is_asked_for(
    world: World, autojump_clock: MockClock
) -> None:
    """By the other name it may have been changed, and forgotten."""
    (world.export / LAST).touch()
    os.link(world.export / LAST, world.export / "other")
    await foresee(world)
    assert await called(world, LAST) == ["LOOKUP"]


# ---- what we do ourselves


async def unlink(world: World) -> None:
    await world.ops.unlink(ROOT, LAST.encode(), world.ctx)


async def rename_away(world: World) -> None:
    await world.ops.rename(ROOT, LAST.encode(), ROOT, b"away", 0, world.ctx)


async def replace_it(world: World) -> None:
    await world.ops.rename(ROOT, b"f0", ROOT, LAST.encode(), 0, world.ctx)


async def change_and_forget(world: World) -> None:
    """FUSE forgets when memory is short."""
    number = await world.number(LAST)
    fh = (await world.ops.open(number, os.O_RDWR, world.ctx)).fh
    await world.ops.write(fh, 39, b"more")
    await world.close(fh)
    await world.ops.forget([(number, world.ops.inodes[number].lookups)])


OURS = {
    "unlink": (unlink, None),
    "rename away": (rename_away, None),
    "replace": (replace_it, 0),
    "write and forget": (change_and_forget, 43),
}


async def size(world: World) -> int | None:
    try:
        return (await world.lookup(LAST)).st_size
    except FUSEError:
        return None


@pytest.mark.parametrize(("act", "expected"), OURS.values(), ids=OURS)
async def test_our_own_changes_are_seen_at_once(
    foreseeing: World, act: Callable[[World], Any], expected: int | None
) -> None:
    await act(foreseeing)
    assert await size(foreseeing) == expected


@pytest.mark.parametrize(("act", "expected"), OURS.values(), ids=OURS)
async def test_our_own_changes_while_a_page_is_on_its_way(
    world: World, act: Callable[[World], Any], expected: int | None, autojump_clock: MockClock
) -> None:
    """The server has made the page before, and it arrives behind."""
    page = Answering(world, "READDIRPLUS")
    await foresee(world)
    await act(world)
    page.may.set()
    await wait_all_tasks_blocked()
    assert await size(world) == expected
    assert await called(world, "f38") == []
    ahead = world.ops.inodes.root.ahead
    assert ahead is None or not ahead.touched  # later pages are as new as they say


# ---- odd servers


async def test_who_looks_up_waits_for_a_page_for_a_moment(
    world: World, autojump_clock: MockClock
) -> None:
    async def slow(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await elapse(10.0)
        return await proceed(args)

    world.caller.between["READDIRPLUS"] = slow
    for number in range(40):
        (world.export / f"f{number}").touch()
    for number in range(MISSES):
        await world.lookup(f"f{number}")
    before = trio.current_time()
    assert (await called(world, LAST))[-1] == "LOOKUP"
    assert WAIT_SECONDS <= trio.current_time() - before < 10.0


@pytest.mark.parametrize(
    "status", [nfsstat3.NFS3ERR_NOTSUPP, nfsstat3.NFS3ERR_ACCES, nfsstat3.NFS3ERR_BAD_COOKIE]
)
async def test_a_server_that_refuses_is_not_asked_again_and_again(
    world: World, status: nfsstat3, autojump_clock: MockClock
) -> None:
    async def refuse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return READDIRPLUS3resfail(status, None)

    world.caller.between["READDIRPLUS"] = refuse
    await foresee(world)
    for number in range(MISSES, 40):
        assert await called(world, f"f{number}") == ["LOOKUP"]


@pytest.mark.parametrize("error", [WorldError("gone", errno.ETIMEDOUT), RuntimeError("a fault")])
async def test_a_call_that_breaks_breaks_nothing_else(
    world: World, error: Exception, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        raise error

    world.caller.between["READDIRPLUS"] = broken
    with caplog.at_level(logging.CRITICAL):
        await foresee(world)
    assert await called(world, LAST) == ["LOOKUP"]


@pytest.mark.parametrize("missing", ["name_handle", "name_attributes"])
async def test_entries_without_a_handle_or_attributes_are_asked_for(
    world: World, missing: str, autojump_clock: MockClock
) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        entries = [replace(entry, **{missing: None}) for entry in result.reply.entries]
        return replace(result, reply=replace(result.reply, entries=entries))

    world.caller.between["READDIRPLUS"] = terse
    await foresee(world)
    assert await called(world, LAST) == ["LOOKUP"]
