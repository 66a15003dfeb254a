"""UMKTLS_LEFTOVER where nothing can be given back, each refusal by itself."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.ktls.helpers import ENGINE, receive, seal, session, transmitter
from tests.ktls.options.enabling import enable_socket
from umktls.abi.leftover import Leftover
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_LEFTOVER
from umktls.errors import UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import RECORD_HEADER_LENGTH
from umktls.ktls.socket.states import State


def give_back(socket: KtlsSocket, leftover: Leftover) -> None:
    socket.setsockopt(SOL_UMKTLS, UMKTLS_LEFTOVER, leftover.pack(), lambda address, length: b"")


def opened(socket: KtlsSocket) -> None:
    """A record has been opened and is in the queue."""
    receive(socket.rx, seal(transmitter(), b"data"))
    socket.rx.open_ahead()
    assert socket.rx.parked


def opened_and_counted(socket: KtlsSocket) -> None:
    """The same, and read."""
    opened(socket)
    socket.recvmsg(100, 0, 0)
    assert not socket.rx.parked


def broken(socket: KtlsSocket) -> None:
    """The stream ended within a record; the connection is still there."""
    receive(socket.rx, seal(transmitter(), b"data")[:-1])
    socket.rx.buffer_filled(0)
    with pytest.raises(UmktlsError):
        socket.recvmsg(100, 0, 0)
    assert socket.rx.state is State.BROKEN
    assert not socket.dropped


def lost(socket: KtlsSocket) -> None:
    socket.connection_lost()


@pytest.mark.parametrize(
    ("before", "number"),
    [
        (opened, errno.EBUSY),
        (opened_and_counted, errno.EBUSY),
        (broken, errno.ECONNRESET),
        (lost, errno.ECONNRESET),
    ],
)
def test_nothing_can_be_given_back(before: Callable[[KtlsSocket], None], number: int) -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    enable_socket(socket, "rx", session())
    before(socket)
    with pytest.raises(UmktlsError) as refused:
        give_back(socket, Leftover(0, b"data"))
    assert refused.value.errno == number
    assert socket.rx.state is not State.CLEAR


def test_data_needs_a_key_first() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    with pytest.raises(UmktlsError) as refused:
        give_back(socket, Leftover(0, b"data"))
    assert refused.value.errno == errno.EINVAL


def test_a_header_without_its_record_has_to_be_one() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    enable_socket(socket, "rx", session())
    with pytest.raises(UmktlsError, match="no row of records, at its byte 0") as refused:
        give_back(socket, Leftover(0, wire=b"\xff" * RECORD_HEADER_LENGTH))
    assert refused.value.errno == errno.EINVAL
