"""Workers that take turns in reading requests, as those of pyfuse3 do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pyfuse3
import pytest
import trio
import trio.testing

from fs.readturn import ReadTurn, begin


class Reading:
    """A queue of requests, each a name and what it waits for, and workers that answer them."""

    def __init__(self) -> None:
        self.turn = ReadTurn()
        self.send, self.requests = trio.open_memory_channel[tuple[str, trio.Event | None]](9)
        self.read: list[tuple[str, str]] = []
        self.answered: list[str] = []
        self.reading = 0

    async def worker(self, name: str) -> None:
        while True:
            async with self.turn:
                assert not self.reading, "two read at once"
                self.reading += 1
                try:
                    request, event = await self.requests.receive()
                finally:
                    self.reading -= 1
            self.read.append((name, request))
            if request == "end":
                return
            _, rest = begin(self.answer(request, event))
            if rest is not None:
                self.turn.pass_on()
                await rest

    async def answer(self, name: str, event: trio.Event | None) -> None:
        if event is not None:
            await event.wait()
        self.answered.append(name)

    async def come(self, name: str, event: trio.Event | None = None) -> None:
        self.send.send_nowait((name, event))
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def reading(*names: str) -> AsyncIterator[tuple[Reading, trio.Nursery]]:
    world = Reading()
    with world.turn.installed():
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(world.worker, name)
                await trio.testing.wait_all_tasks_blocked()
            yield world, nursery
            nursery.cancel_scope.cancel()


async def test_who_does_not_wait_reads_on() -> None:
    async with reading("a", "b", "c") as (world, _):
        for request in ("one", "two", "three"):
            await world.come(request)
        assert world.read == [("a", "one"), ("a", "two"), ("a", "three")]


async def test_who_waits_has_another_one_read() -> None:
    async with reading("a", "b", "c") as (world, _):
        slow, slower = trio.Event(), trio.Event()
        await world.come("one", slow)
        await world.come("two", slower)
        await world.come("three")
        assert world.read == [("a", "one"), ("c", "two"), ("b", "three")]  # last in, first out
        slow.set()
        slower.set()
        await world.come("four")
        assert world.read[-1] == ("b", "four")
        assert sorted(world.answered) == ["four", "one", "three", "two"]


async def test_when_all_wait_the_first_that_is_done_reads() -> None:
    async with reading("a", "b") as (world, _):
        first, second = trio.Event(), trio.Event()
        await world.come("one", first)
        await world.come("two", second)
        await world.come("three")
        assert len(world.read) == 2
        second.set()
        await trio.testing.wait_all_tasks_blocked()
        assert world.read[-1] == ("b", "three")


async def test_who_ends_leaves_the_turn() -> None:
    async with reading("a", "b", "c") as (world, _):
        await world.come("end")
        await world.come("one")
        assert world.read == [("a", "end"), ("c", "one")]


@pytest.mark.parametrize("which", ["has the turn", "waits for it"])
async def test_who_is_cancelled_leaves_the_turn(which: str) -> None:
    async with reading("a", "b") as (world, nursery):
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await world.worker("x")

        if which == "has the turn":
            await world.come("end")
            await world.come("end")
        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(world.worker, "z")
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await world.come("end" if which == "waits for it" else "one")
        await world.come("two")
        assert world.read[-1] == ("z", "two")


async def test_pyfuse3_has_its_own_again() -> None:
    before = pyfuse3.trio  # type: ignore[attr-defined]
    turn = ReadTurn()
    with turn.installed():
        assert pyfuse3.trio.Lock() is turn  # type: ignore[attr-defined]
    assert pyfuse3.trio is before  # type: ignore[attr-defined]


async def _returns(events: list[str], *waits: Callable[[], object]) -> str:
    try:
        for wait in waits:
            await wait()  # type: ignore[misc]
            events.append("waited")
    except trio.Cancelled:
        events.append("cancelled")
        raise
    return "done"


async def test_what_does_not_wait_is_there_at_once() -> None:
    assert begin(_returns([])) == ("done", None)


async def test_what_waits_goes_on_where_it_was() -> None:
    events: list[str] = []
    value, rest = begin(_returns(events, trio.lowlevel.checkpoint, trio.lowlevel.checkpoint))
    assert (value, events) == (None, [])
    assert rest is not None
    assert await rest == "done"
    assert events == ["waited", "waited"]


async def test_what_waits_is_cancelled_by_who_awaits_the_rest() -> None:
    events: list[str] = []
    _, rest = begin(_returns(events, trio.lowlevel.checkpoint, trio.sleep_forever))
    assert rest is not None
    with trio.move_on_after(0):
        await rest
    assert events[-1] == "cancelled"


async def test_what_nobody_awaits_is_closed() -> None:
    closed = []

    async def steps() -> None:
        try:
            await trio.sleep_forever()
        finally:
            closed.append(True)

    _, rest = begin(steps())
    del rest
    assert closed == [True]
