"""The marks of files that are made exclusively by one call."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyfuse3 import EntryAttributes
from umktls_fs.exclusive import KEEP_NS, SECOND, Marks

from tests.fs.peer import Proceed
from tests.fs.world import World
from umktls.nfs.types import (
    FSF3_CANSETTIME,
    FSINFO3resok,
    createmode3,
    nfstime3,
)
from umktls.rpc.message import OpaqueAuth

NOW = 1_700_000_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


def marks(clock: Clock, properties: int = FSF3_CANSETTIME, step: int = 1) -> Marks:
    fsinfo = SimpleNamespace(properties=properties, time_delta=nfstime3(0, step))
    return Marks(cast(FSINFO3resok, fsinfo), clock)


def made(atime: int, ctime: int = NOW) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_atime_ns, entry.st_ctime_ns = atime, ctime
    return entry


def ns(mark: nfstime3 | None) -> int:
    assert mark is not None
    return mark.seconds * SECOND + mark.nseconds


def test_a_mark_is_a_little_before_now_by_the_servers_clock() -> None:
    clock = Clock()
    some = marks(clock)
    assert some.next() is None  # its clock is not known
    some.learn(NOW)
    clock.now += 7 * SECOND
    found = {ns(some.next()) for _ in range(1000)}
    assert len(found) > 990
    assert all(0 < NOW + 7 * SECOND - mark < SECOND // 20 for mark in found)


def test_the_clock_is_learned_anew() -> None:
    clock = Clock()
    some = marks(clock)
    some.learn(NOW)
    clock.now += KEEP_NS + 1
    assert some.next() is None


@pytest.mark.parametrize("server", [0, SECOND, (1 << 33) * SECOND])
def test_a_clock_that_is_no_time_gives_no_mark(server: int) -> None:
    some = marks(Clock())
    some.learn(server)
    assert some.next() is None


@pytest.mark.parametrize(
    ("properties", "step"), [(0, 1), (FSF3_CANSETTIME, 1001), (FSF3_CANSETTIME, SECOND - 1)]
)
def test_a_server_that_keeps_no_times_gets_none(properties: int, step: int) -> None:
    some = marks(Clock(), properties, step)
    some.learn(NOW)
    assert some.next() is None


def test_marks_are_as_coarse_as_the_servers_times() -> None:
    some = marks(Clock(), step=1000)
    some.learn(NOW)
    assert all(ns(some.next()) % 1000 == 0 for _ in range(100))


@pytest.mark.parametrize("off", [0, 1, -1, 1000])
def test_a_server_that_does_not_keep_a_mark_gets_no_other(off: int) -> None:
    some = marks(Clock())
    some.learn(NOW)
    mark = some.next()
    assert mark is not None
    some.see(mark, made(ns(mark) + off))
    assert (some.next() is None) is bool(off)


async def modes(world: World, count: int = 4) -> list[createmode3]:
    with world.caller.watch() as seen:
        for number in range(count):
            await world.close(await world.create(f"new{number}", os.O_RDWR | os.O_EXCL))
        return [call.args.how.mode for call in seen if call.name == "CREATE"]


async def test_two_files_never_have_the_same_mark(world: World) -> None:
    assert await modes(world, 20) == [createmode3.EXCLUSIVE, *[createmode3.GUARDED] * 19]
    times = {path.stat().st_atime_ns for path in world.export.iterdir()}
    assert len(times) == 20


async def test_a_server_whose_files_have_other_times(world: World) -> None:
    """It says that it keeps them, and does not: seen at the first mark."""

    async def forgets(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        attr = replace(result.obj_attributes, atime=result.obj_attributes.mtime)
        return replace(result, obj_attributes=attr)

    world.caller.between["CREATE"] = forgets
    assert await modes(world) == [
        createmode3.EXCLUSIVE,
        createmode3.GUARDED,
        createmode3.EXCLUSIVE,
        createmode3.EXCLUSIVE,
    ]


async def test_a_server_that_shows_no_attributes_is_asked_for_them(world: World) -> None:
    async def terse(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return replace(await proceed(args), obj_attributes=None)

    world.caller.between["CREATE"] = terse
    assert await modes(world, 3) == [createmode3.EXCLUSIVE, *[createmode3.GUARDED] * 2]
