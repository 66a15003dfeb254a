"""Reading that is cancelled between being woken and going on, or that fails."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.sockets.takensocket import tcp_ends
from umktls.errors import WorldError
from umktls.kernel.sockets.stream import read_some, readable


class CancelWhenWoken(trio.abc.Instrument):
    """Cancels `scope` when the task in it, which waits, has been woken."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.task: trio.lowlevel.Task | None = None

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.scope.cancel()


async def test_nothing_is_taken_by_who_was_cancelled() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    instrument = CancelWhenWoken(trio.CancelScope())

    async def read() -> None:
        with instrument.scope:
            await read_some(near, memoryview(bytearray(9)))

    with near, far, trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            (instrument.task,) = nursery.child_tasks
            trio.lowlevel.add_instrument(instrument)
            far.send(b"ticket")
        trio.lowlevel.remove_instrument(instrument)
        assert instrument.scope.cancelled_caught
        assert near.recv(9) == b"ticket"


async def test_a_reset_is_told_as_that() -> None:
    near, far = tcp_ends()
    near.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with near, trio.fail_after(patience(10)), pytest.raises(WorldError) as caught:
        await read_some(near, memoryview(bytearray(10)))
    assert caught.value.errno == errno.ECONNRESET


async def test_what_cannot_be_waited_for_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """epoll_ctl(2) has ENOSPC where a user may not watch any more."""

    async def refuse(sock: socket.socket) -> None:
        raise OSError(errno.ENOSPC, "no more")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
    near, far = socket.socketpair()
    with near, far, pytest.raises(WorldError, match="cannot receive") as caught:
        await readable(near)
    assert caught.value.errno == errno.ENOSPC
