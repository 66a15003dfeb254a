"""Workers that take turns in reading requests, as those of pyfuse3 do."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pyfuse3
import pytest
import trio
import trio.testing

from fs import readturn
from fs.readturn import LOOK_SECONDS, QUIET_STREAK, STREAK, ReadTurn, begin
from umktls.kernel.ground.dwelling import Dwell


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


class Looking:
    """The same with a pipe as the session: each byte is a request, and w waits."""

    def __init__(self, turn: ReadTurn, session: int, requests: int) -> None:
        os.set_blocking(session, False)  # reading what is not there is an error
        self.turn, self.session, self.requests = turn, session, requests
        self.go_on = trio.Event()
        self.comes: bytes = b""  # meanwhile
        self.read: list[str] = []

    async def worker(self, name: str, times: int) -> None:
        for _ in range(times):
            async with self.turn:
                await pyfuse3.trio.lowlevel.wait_readable(self.session)  # type: ignore[attr-defined]
            request = os.read(self.session, 1).decode()
            self.read.append(name + request)
            if request == "w":
                self.turn.pass_on()
                await self.go_on.wait()
                os.write(self.requests, self.comes)


@pytest.fixture
def looking() -> Iterator[Looking]:
    turn, (session, requests) = ReadTurn(), os.pipe()
    try:
        yield Looking(turn, session, requests)
    finally:
        os.close(session)
        os.close(requests)


async def test_what_is_there_is_read_without_a_turn_of_the_loop(looking: Looking) -> None:
    with looking.turn.installed():
        os.write(looking.requests, b"x" * (STREAK - 1))
        assert begin(looking.worker("a", STREAK - 1)) == (None, None)
        assert len(looking.read) == STREAK - 1


@pytest.mark.parametrize(("quiet", "streak"), [(False, STREAK), (True, QUIET_STREAK)])
async def test_after_a_streak_all_others_have_a_turn(
    looking: Looking, quiet: bool, streak: int
) -> None:
    with looking.turn.installed(lambda: quiet):
        os.write(looking.requests, b"x" * (2 * streak + 1))
        _, rest = begin(looking.worker("a", 2 * streak + 1))
        assert rest is not None
        assert len(looking.read) == streak
        await rest
        assert len(looking.read) == 2 * streak + 1


async def test_replies_are_waited_for_while_there_is_no_request(looking: Looking) -> None:
    waits = []

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        waits.append(reading)
        return reading, [], []

    dwell = Dwell(wait)
    with looking.turn.installed(dwell=dwell):
        assert not dwell.reply(0)
        os.write(looking.requests, b"x")
        await looking.worker("a", 1)
        assert dwell.reply(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            assert not dwell.reply(0)  # somebody can go on
        assert dwell.reply(0)
    assert not dwell.reply(0)
    assert waits == 2 * [[0, looking.session]]


async def test_who_has_answered_reads_on_while_another_one_waits_for_requests(
    looking: Looking,
) -> None:
    with looking.turn.installed():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(looking.worker, "a", 3)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(looking.worker, "b", 1)
            await trio.testing.wait_all_tasks_blocked()
            os.write(looking.requests, b"w")
            await trio.testing.wait_all_tasks_blocked()
            looking.comes = b"12"
            looking.go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            assert looking.read == ["aw", "a1", "a2"]
            os.write(looking.requests, b"3")
    assert looking.read[-1] == "b3"


async def test_who_is_woken_for_what_has_been_taken_waits_on(looking: Looking) -> None:
    """In which order the two run is trio's choice, so it is tried many times."""
    for _ in range(20):
        looking.read.clear()
        looking.go_on = trio.Event()
        with looking.turn.installed():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(looking.worker, "a", 2)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(looking.worker, "b", 1)
                await trio.testing.wait_all_tasks_blocked()
                os.write(looking.requests, b"w")
                await trio.testing.wait_all_tasks_blocked()
                os.write(looking.requests, b"1")
                looking.go_on.set()
                await trio.testing.wait_all_tasks_blocked()
                assert len(looking.read) == 2
                os.write(looking.requests, b"2")
        assert sorted(looking.read) in (["a1", "aw", "b2"], ["a2", "aw", "b1"])


class Selecting:
    """In place of select(2): a request comes while it waits."""

    def __init__(self, looking: Looking) -> None:
        self.looking = looking
        self.asked: list[tuple[tuple[int, ...], float]] = []

    def __call__(
        self, fds: tuple[int, ...], _: object, __: object, seconds: float
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        self.asked.append((fds, seconds))
        os.write(self.looking.requests, b"x")
        return fds, (), ()


@pytest.fixture
def selecting(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> Selecting:
    selecting = Selecting(looking)
    monkeypatch.setattr(readturn, "look", selecting)
    return selecting


async def test_where_nothing_else_can_be_done_a_request_is_waited_for(
    looking: Looking, selecting: Selecting
) -> None:
    with looking.turn.installed(lambda: True):
        assert begin(looking.worker("a", 3)) == (None, None)
    assert selecting.asked == [((looking.session,), LOOK_SECONDS)] * 3


async def test_where_a_call_is_under_way_it_is_not(looking: Looking, selecting: Selecting) -> None:
    with looking.turn.installed(lambda: False):
        _, rest = begin(looking.worker("a", 1))
        assert rest is not None
        rest.close()
    assert not selecting.asked


async def test_where_another_task_is_ready_it_is_not_but_behind_that(
    looking: Looking, selecting: Selecting
) -> None:
    with looking.turn.installed(lambda: True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            _, rest = begin(looking.worker("a", 1))
            assert rest is not None
            rest.close()
            assert not selecting.asked
        assert begin(looking.worker("a", 1)) == (None, None)
    assert len(selecting.asked) == 1


async def test_a_session_that_select_cannot_have_is_looked_at_all_the_same(
    looking: Looking, selecting: Selecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readturn, "FD_SETSIZE", looking.session)
    os.write(looking.requests, b"x")
    with looking.turn.installed(lambda: True):
        assert begin(looking.worker("a", 1)) == (None, None)
    assert not selecting.asked


async def test_a_mount_that_ends_while_a_request_is_taken_from_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(pyfuse3, "terminate", lambda: ended.append(True))

    async def loop(number: int) -> None:
        raise OSError(number, "fuse_session_receive_buf failed")

    async with readturn.workers() as some:
        some.start_soon(loop, errno.ECONNABORTED, name="aborted")
    assert ended == [True]
    with pytest.raises(ExceptionGroup):
        async with readturn.workers() as some:
            some.start_soon(loop, errno.EIO, name="failed")
    assert ended == [True]


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
