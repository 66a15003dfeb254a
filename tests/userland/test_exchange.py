"""Threads that share a system-call socket: whoever still waits has somebody who reads."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest

from tests.descriptors import descriptors
from tests.system.live import until
from umktls.userland.exchange import Answer, Exchange
from umktls.userland.failures import KernelGone

SECONDS = 30.0


class InOrder:
    """A lock that the threads with these names get one after another."""

    def __init__(self, *names: str) -> None:
        self._names = list(names)
        self._free = threading.Condition()

    def __enter__(self) -> None:
        with self._free:
            mine = threading.current_thread().name
            assert self._free.wait_for(lambda: self._names[:1] == [mine], SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType
    ) -> None:
        with self._free:
            self._names.pop(0)
            self._free.notify_all()


class Ours(socket.socket):
    """An end that refuses to send what is bad, once it may."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.may_refuse = threading.Event()

    def send(self, data: Any, flags: int = 0) -> int:
        if data == b"bad":
            assert self.may_refuse.wait(SECONDS)
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return super().send(data, flags)


@pytest.fixture
def ends() -> Iterator[tuple[Ours, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(SECONDS)
    with Ours(ours.detach()) as mine, theirs:
        yield mine, theirs


def reply(sequence: int) -> bytes:
    return sequence.to_bytes(4, "big")


def test_one_that_cannot_send_leaves_nobody_waiting(
    ends: tuple[Ours, socket.socket],
) -> None:
    """The reader goes, and has asked the one that fails to read in its place."""
    exchange = Exchange(ends[0], SECONDS)
    exchange._sending = InOrder("first", "third", "second")  # type: ignore[assignment]
    outcomes: dict[str, dict[int, Answer] | KernelGone] = {}

    def trip(sequence: int, request: bytes) -> None:
        name = threading.current_thread().name
        try:
            outcomes[name] = exchange.trip({sequence: request})
        except KernelGone as error:
            outcomes[name] = error

    def start(sequence: int, name: str, request: bytes) -> threading.Thread:
        """Begin a trip; that it stands in the table is waited for."""
        thread = threading.Thread(target=trip, args=(sequence, request), name=name, daemon=True)
        thread.start()
        until(lambda: len(exchange._waiters) == sequence, f"{name} is there")
        return thread

    first, second, third = (
        start(number, name, request)
        for number, (name, request) in enumerate(
            (("first", b"good"), ("second", b"bad"), ("third", b"good")), 1
        )
    )
    assert ends[1].recv(64) == ends[1].recv(64) == b"good"
    ends[1].send(reply(1))
    first.join(SECONDS)
    ends[0].may_refuse.set()
    second.join(SECONDS)
    ends[1].send(reply(3))
    third.join(SECONDS)
    assert isinstance(outcomes["second"], KernelGone)
    assert outcomes["first"] == {1: (reply(1), [])}
    assert outcomes["third"] == {3: (reply(3), [])}


def test_what_has_come_for_a_trip_that_fails_is_closed(ends: tuple[Ours, socket.socket]) -> None:
    """Nobody gets it: of two requests the kernel answers one, with a descriptor, and goes."""
    exchange = Exchange(ends[0], SECONDS)
    socket.send_fds(ends[1], [reply(1)], [0])
    ends[1].shutdown(socket.SHUT_WR)
    before = descriptors()
    with pytest.raises(KernelGone):
        exchange.trip({1: b"one", 2: b"two"})
    assert descriptors() <= before
