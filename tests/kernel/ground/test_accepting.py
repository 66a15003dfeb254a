"""accept(2) fails: a listener neither spins nor ends, unless it is closed."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.conftest import patience
from tests.descriptors import descriptors
from umktls.errors import WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import NO_THREAD, NoThread, in_own_thread, in_thread
from umktls.kernel.host.accepting import (
    OF_THE_CONNECTION,
    PAUSES,
    ROOM_SECONDS,
    accept_loop,
    listen_unix,
)

Clock = trio.testing.MockClock


class Played:
    """A listener: errno numbers are what accept fails by, in turn; 0 is a connection."""

    def __init__(self, *outcomes: int) -> None:
        self.outcomes = list(outcomes)
        self.closed = False

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.closed = True

    async def accept(self) -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        number = self.outcomes.pop(0)
        if number:
            raise OSError(number, os.strerror(number))
        return "connection", "address"


async def serve(sock: trio.socket.SocketType) -> None:
    raise AssertionError("nobody starts the task")


async def accepted(*outcomes: int, room: bool = False) -> tuple[int, float, list[str]]:
    """How many connections came, in how many seconds, and what was said."""
    listener, served, trace = Played(*outcomes, errno.EBADF), [], Trace("h", "server")
    began = trio.current_time()
    await accept_loop(
        cast(trio.socket.SocketType, listener),
        lambda serve, sock: served.append(sock),
        serve,
        trace,
        lambda: room,
    )
    assert listener.closed
    return len(served), trio.current_time() - began, [event["text"] for event in trace.since()]


async def test_a_path_at_which_nothing_can_listen(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(WorldError, match=r"cannot listen on .*: No such file") as caught:
        await listen_unix(tmp_path / "missing" / "sock", socket.SOCK_STREAM)
    assert caught.value.errno == errno.ENOENT
    assert descriptors() <= before


@pytest.mark.parametrize("somewhere", [in_thread, in_own_thread])
async def test_a_thread_s_own_error_is_its_own(somewhere: Any) -> None:
    """Only of a lack of threads is it said that there are none, upon which others try again."""

    def fails() -> None:
        raise RuntimeError("what the function did")

    with pytest.raises(RuntimeError, match="what the function did") as caught:
        await somewhere(fails)
    assert not isinstance(caught.value, NoThread)
    here = threading.get_ident()
    assert await somewhere(threading.get_ident) != here


async def test_a_lack_of_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise RuntimeError(NO_THREAD)

    with pytest.raises(NoThread):
        await in_thread(lacks)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", lacks)
    with pytest.raises(NoThread):
        await in_own_thread(threading.get_ident)


async def test_whoever_waits_for_a_thread_of_his_own_waits_for_its_end() -> None:
    """Cancelled or not: what it does is done, and he has to know."""
    go_on, ended = threading.Event(), []

    async def wait() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            ended.append(await in_own_thread(lambda: go_on.wait(patience(20))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert ended == [True]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, 999])
async def test_what_is_lacking_is_waited_for(autojump_clock: Clock, number: int) -> None:
    count, seconds, (text,) = await accepted(*[number] * 7, 0, 0)
    assert count == 2
    assert seconds == pytest.approx(sum(PAUSES) + 2 * PAUSES[-1])
    assert "a connection cannot be accepted" in text
    assert "again and again" in text


async def test_each_time_it_is_said_once(autojump_clock: Clock) -> None:
    count, seconds, texts = await accepted(errno.EMFILE, errno.EMFILE, 0, errno.EMFILE, 0)
    assert (count, len(texts)) == (2, 2)
    assert seconds == pytest.approx(2 * PAUSES[0] + PAUSES[1])


async def test_a_connection_that_is_gone_costs_nothing(autojump_clock: Clock) -> None:
    assert await accepted(*OF_THE_CONNECTION, 0) == (1, 0.0, [])


async def test_room_is_made_at_once(autojump_clock: Clock) -> None:
    count, seconds, (text,) = await accepted(errno.EMFILE, 0, room=True)
    assert count == 1
    assert seconds == pytest.approx(ROOM_SECONDS)
    assert seconds < PAUSES[0]
    assert "the longest idle one ends for it" in text
