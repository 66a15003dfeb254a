"""When a server's loop begins to wait without sleeping."""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio
import trio.testing

from tests.conftest import patience
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.expecting import NEAR_SECONDS, SHORT_SECONDS, Expecting

LONG, SHORT = SHORT_SECONDS * 2, SHORT_SECONDS / 2


class Played:
    """A loop and its clock. `looks`: how often it was awake first."""

    def __init__(self) -> None:
        self.looks, self.now = 0, 0.0
        self.expecting = Expecting(self.look, lambda: self.now)

    def look(self, reading: Sequence[int]) -> None:
        self.looks += 1

    def waits(self, seconds: float, timeout: float = 60.0) -> int:
        """How often it has been awake by the end of a wait."""
        self.now += 1.0
        self.expecting.before_io_wait(timeout)
        self.now += seconds
        self.expecting.after_io_wait(timeout)
        return self.looks


def test_it_is_awake_where_the_last_wait_was_short() -> None:
    played = Played()
    assert played.waits(SHORT) == 0
    assert played.waits(SHORT) == 1
    assert played.waits(LONG) == 2
    assert played.waits(SHORT) == 2
    assert played.waits(LONG) == 3
    assert played.waits(LONG) == 3


def test_it_does_not_wait_while_there_is_something_to_do() -> None:
    played = Played()
    played.waits(SHORT)
    assert played.waits(0.0, timeout=0) == 0
    assert played.waits(LONG) == 1
    assert played.waits(0.0, timeout=0) == 1
    assert played.waits(LONG) == 1  # what was no wait was no short one


def test_what_comes_on_any_socket_of_the_loop_is_seen() -> None:
    seen: list[list[int]] = []

    def look(reading: Sequence[int]) -> None:
        seen.append(select.select(reading, (), (), 0)[0])

    expecting = Expecting(look, lambda: 0.0)  # every wait is short

    async def main() -> None:
        near, far = socket.socketpair()
        with near, far, trio.fail_after(patience(20)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, near)
                await trio.testing.wait_all_tasks_blocked()
                seen.clear()
                far.send(b".")

    trio.run(main, instruments=[expecting])
    assert seen
    assert all(seen)


class Waiting:
    """A task in a loop that has two sockets, with the other ends of both. `waits` with what the
    short waits ended."""

    def __init__(self) -> None:
        self.waits: list[list[int]] = []
        self.expecting = Expecting(lambda reading: None, dwell=Dwell(self.select))
        self.mine, self.peer = socket.socketpair()
        self.other, self.others_peer = socket.socketpair()

    def select(self, reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        self.waits.append(select.select(reading, (), (), 0)[0])
        return self.waits[-1], [], []

    def comes(self) -> bool:
        return self.expecting.dwell.reply(self.mine.fileno())

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """`main`, beside a task that waits for the other socket."""

        async def all_of_it() -> None:
            with trio.fail_after(patience(20)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.lowlevel.wait_readable, self.other)
                    await trio.testing.wait_all_tasks_blocked()
                    await main()
                    nursery.cancel_scope.cancel()

        with self.mine, self.peer, self.other, self.others_peer:
            trio.run(all_of_it, instruments=[self.expecting])


def test_a_call_is_waited_for_without_the_loop() -> None:
    waiting = Waiting()

    async def main() -> None:
        assert not waiting.comes()
        waiting.peer.send(b".")
        assert waiting.comes()
        assert waiting.waits == [[], [waiting.mine.fileno()]]

    waiting.run(main)
    assert not waiting.comes()  # nobody says any more what else there is
    assert len(waiting.waits) == 2


def test_who_waits_for_a_call_is_awake_where_the_last_one_came_soon() -> None:
    """The waits take no time, and the clock says otherwise."""
    soon, late = NEAR_SECONDS / 2, NEAR_SECONDS * 2
    took = [soon, soon, late, soon, soon]
    clock = iter([0.0, *(at for seconds in took for at in (seconds, 0.0))])
    awake = 0

    def stays_awake(*_: object) -> tuple[list[int], list[int], list[int]]:
        nonlocal awake
        awake += 1
        return [], [], []

    waiting = Expecting(lambda reading: None, lambda: next(clock), awake=stays_awake)
    waiting.dwell.begin(0, lambda: True)
    ends = []
    near, far = socket.socketpair()
    with near, far:
        far.send(b".")
        for _ in took:
            waiting.dwell.reply(near.fileno())
            ends.append(awake)
    assert ends == [0, 1, 2, 2, 3]


def test_what_the_loop_has_ends_the_wait_for_a_call() -> None:
    waiting = Waiting()

    async def main() -> None:
        waiting.others_peer.send(b".")
        assert not waiting.comes()
        (ready,) = waiting.waits
        assert len(ready) == 1

    waiting.run(main)


def test_nobody_waits_for_a_call_while_another_task_can_go_on() -> None:
    """Neither in front of its step nor in the same turn of the loop."""
    waiting = Waiting()
    waiting.peer.send(b".")
    came: list[bool] = []

    async def look() -> None:
        came.append(waiting.comes())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            assert not waiting.comes()
            nursery.start_soon(look)
        assert waiting.comes()

    waiting.run(main)
    assert came == [False, True]
