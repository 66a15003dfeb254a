"""Receiving: no system call that finds nothing, and none the fewer that find something."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.errors import WorldError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.lanes import receive
from umktls.ktls.socket.rx import Receiver
from umktls.rpc.record import RecordReader, mark


class CountedSocket(socket.socket):
    """Counts what is read."""

    reads = 0

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self.reads += 1
        return super().recv(*args, **kwargs)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.reads += 1
        return super().recv_into(*args, **kwargs)


@pytest.fixture
def pair() -> Iterator[tuple[CountedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    counted = CountedSocket(fileno=ours.detach())
    with counted, theirs:
        counted.setblocking(False)
        yield counted, theirs


async def test_who_has_read_all_waits_without_reading_again(
    pair: tuple[CountedSocket, socket.socket],
) -> None:
    ours, theirs = pair
    rx, reader, turn = Receiver(), RecordReader(1000), Turn()
    theirs.sendall(mark(3) + b"one")
    counts: list[int] = []

    async def read(times: int) -> None:
        for _ in range(times):
            counts.append(await receive(ours, rx, reader, turn))
            rx.pull(reader)

    with trio.fail_after(patience(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 3)
            await trio.testing.wait_all_tasks_blocked()
            assert (counts, ours.reads) == ([7], 1)
            theirs.sendall(mark(5) + b"three")
            theirs.shutdown(socket.SHUT_WR)
    assert (counts, ours.reads) == ([7, 9, 0], 3)
    assert [bytes(message) for message in reader.messages()] == [b"one", b"three"]


async def test_a_full_buffer_is_followed_by_a_read_at_once(
    pair: tuple[CountedSocket, socket.socket],
) -> None:
    """More is to be expected then: nobody waits in between."""
    ours, theirs = pair
    rx, reader = Receiver(), RecordReader(100_000)
    theirs.sendall(mark(20_000) + bytes(20_000))
    first = await receive(ours, rx, reader, Turn())
    assert not rx.drained
    with trio.CancelScope() as scope:
        scope.cancel()
        rx.pull(reader)
        assert await receive(ours, rx, reader, Turn()) > 0
    assert first < 20_004
    assert not scope.cancelled_caught


async def test_a_socket_that_was_closed_meanwhile(
    pair: tuple[CountedSocket, socket.socket],
) -> None:
    """By a task beside, between two turns: epoll knows no closed socket, and a host must go on."""
    ours, theirs = pair
    rx, reader = Receiver(), RecordReader(1000)
    theirs.sendall(mark(3) + b"one")
    await receive(ours, rx, reader, Turn())
    rx.pull(reader)
    assert rx.drained
    ours.close()
    dwell = Dwell(lambda *_: pytest.fail("select has a ValueError for it"))
    dwell.begin(theirs.fileno(), lambda: True)
    with pytest.raises(WorldError, match="closed here"):
        await receive(ours, rx, reader, Turn(), dwell)


async def test_what_comes_at_once_costs_no_turn_of_the_loop(
    pair: tuple[CountedSocket, socket.socket],
) -> None:
    """The other end is the short wait, and says something once: behind that it is waited for."""
    ours, theirs = pair
    rx, reader = Receiver(), RecordReader(1000)
    waits: list[list[int]] = []

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        waits.append(reading)
        if len(waits) > 1:
            return [], [], []
        theirs.sendall(mark(3) + b"two")
        return reading[:1], [], []

    dwell = Dwell(wait)
    dwell.begin(theirs.fileno(), lambda: True)
    theirs.sendall(mark(3) + b"one")
    await receive(ours, rx, reader, Turn(), dwell)
    rx.pull(reader)
    with pytest.raises(StopIteration):
        receive(ours, rx, reader, Turn(), dwell).send(None)
    rx.pull(reader)
    with trio.move_on_after(0) as scope:
        await receive(ours, rx, reader, Turn(), dwell)
    assert scope.cancelled_caught
    assert waits == 2 * [[ours.fileno(), theirs.fileno()]]
    assert [bytes(message) for message in reader.messages()] == [b"one", b"two"]
