"""Calls of programs that wait: who is answered, who gives up, and who has gone."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.passing import elapse
from tests.run.test_answers import Played
from umktls.ktls.session.errors import WouldBlock
from umktls.run.call import Call
from umktls.run.seccomp import Notification
from umktls.run.waiting import Waiting


class Interrupted(Played):
    """Knows besides which calls wait no more."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[int] = set()

    def valid(self, id_: int) -> bool:
        return id_ not in self.gone


@pytest.fixture
def listener() -> Interrupted:
    return Interrupted()


def call_of(listener: Any, id_: int) -> Call:
    return Call(Notification(id_, 1, 0, (0,) * 6), listener, None)  # type: ignore[arg-type]


def blocks() -> int:
    raise WouldBlock("nothing")


async def test_who_waits_is_answered_when_there_is_something(listener: Interrupted) -> None:
    waiting, there = Waiting(), [False]
    waiting.add(call_of(listener, 1), lambda: 5 if there[0] else blocks(), float("inf"))
    waiting.tell()
    assert (len(waiting), listener.told) == (1, [])
    there[0] = True
    waiting.tell()
    assert (len(waiting), listener.told) == (0, [(1, 5, 0)])


async def test_a_call_that_signals_interrupt_waits_once(listener: Interrupted) -> None:
    """Nobody tells of it, and the program comes again after each."""
    waiting = Waiting()
    for id_ in range(1000):
        waiting.add(call_of(listener, id_), blocks, 1000)
        assert len(waiting) == 1
        listener.gone.add(id_)
    waiting.tell()
    assert (len(waiting), listener.told) == (0, [])


async def test_who_waits_for_too_long_gives_up(
    listener: Interrupted, autojump_clock: MockClock
) -> None:
    waiting, begin = Waiting(), trio.current_time()
    waiting.add(call_of(listener, 1), blocks, 3)
    waiting.add(call_of(listener, 2), blocks, float("inf"))
    await elapse(4.0)
    assert (len(waiting), listener.told) == (1, [(1, 0, errno.EAGAIN)])
    assert trio.current_time() - begin == pytest.approx(4)


async def test_who_was_answered_gives_up_no_more(
    listener: Interrupted, autojump_clock: MockClock
) -> None:
    waiting = Waiting()
    waiting.add(call_of(listener, 1), lambda: 5, 3)
    waiting.tell()
    await elapse(4.0)
    assert listener.told == [(1, 5, 0)]
