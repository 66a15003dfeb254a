"""When a server's loop begins to wait without sleeping."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

import trio
import trio.testing

from tests.conftest import patience
from umktls.kernel.ground.expecting import SHORT_SECONDS, Expecting

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
