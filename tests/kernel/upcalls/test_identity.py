"""What a daemon tells of a client, and a socket that is to be read no more."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
import trio

from tests.conftest import patience
from tests.kernel.kernelsocket import kernel_socket
from tests.rpc.test_certificate import FACTS
from umktls.abi import rpctls
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.record import RecordReader, mark

SECONDS = 20
MESSAGE = mark(4) + b"call"


@pytest.fixture
def ends() -> Iterator[tuple[KernelSocket, socket.socket]]:
    """A socket of the kernel's, in clear, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), SECONDS)
        near, _ = listener.accept()
    with near, far:
        yield kernel_socket(near), far


def no_memory(address: int, length: int) -> bytes:
    raise CallerError("there are no pointers in it", errno.EFAULT)


def test_the_certificate_of_a_peer(ends: tuple[KernelSocket, socket.socket]) -> None:
    sock, _ = ends
    option = (rpctls.SOL_UMKTLS, rpctls.UMKTLS_PEERCERT)
    assert sock.identity.certificate is None
    for wrong in (b"", b"garbage", FACTS.to_bytes()[:-1], FACTS.to_bytes() + b"\0"):
        with pytest.raises(CallerError) as caught:
            calls.setsockopt(sock, *option, wrong, no_memory)
        assert caught.value.errno == errno.EINVAL
    assert sock.identity.certificate is None
    calls.setsockopt(sock, *option, FACTS.to_bytes(), no_memory)
    assert sock.identity.certificate == FACTS


def test_what_the_trace_calls_it(ends: tuple[KernelSocket, socket.socket]) -> None:
    """For the daemon's log."""
    option = (rpctls.SOL_UMKTLS, rpctls.UMKTLS_CONNECTION)
    assert calls.getsockopt(ends[0], *option, 100) == b"s1"
    assert calls.getsockopt(ends[0], *option, 1) == b"s"


@pytest.mark.parametrize("name", [rpctls.UMKTLS_PEERNAME, rpctls.UMKTLS_XPRTSEC, 99])
def test_what_cannot_be_set(ends: tuple[KernelSocket, socket.socket], name: int) -> None:
    with pytest.raises(UmktlsError) as caught:
        calls.setsockopt(ends[0], rpctls.SOL_UMKTLS, name, b"", no_memory)
    assert caught.value.errno == errno.ENOPROTOOPT


async def no_control() -> None:
    raise AssertionError("nothing is parked")


async def delivered(sock: KernelSocket) -> list[bytes]:
    """The messages that RPC gets until the end of the stream."""
    seen: list[bytes] = []

    async def deliver(message: memoryview) -> None:
        seen.append(bytes(message))

    with trio.fail_after(patience(SECONDS)):
        await sock.rpc.pump(RecordReader(100), deliver, no_control)
    return seen


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
async def test_reading_ends_though_the_peer_goes_on(
    ends: tuple[KernelSocket, socket.socket], how: int
) -> None:
    sock, peer = ends
    seen = []

    async def deliver(message: memoryview) -> None:
        seen.append(bytes(message))
        sock.shutdown(how)

    peer.sendall(MESSAGE)
    with trio.fail_after(patience(SECONDS)):
        reader = RecordReader(100)
        await sock.rpc.pump(reader, deliver, no_control)
        # Linux would still have us read what comes now.
        peer.sendall(MESSAGE)
        await sock.rpc.pump(reader, deliver, no_control)
    assert seen == [b"call"]


async def test_the_end_of_writing_is_not_the_end_of_reading(
    ends: tuple[KernelSocket, socket.socket],
) -> None:
    sock, peer = ends
    sock.shutdown(socket.SHUT_WR)
    peer.sendall(MESSAGE * 2)
    peer.shutdown(socket.SHUT_WR)
    assert await delivered(sock) == [b"call"] * 2


async def test_what_has_arrived_is_read_after_hanging_up(
    ends: tuple[KernelSocket, socket.socket],
) -> None:
    """Sending failed because the peer has gone; why is in what it said last."""
    sock, peer = ends
    peer.sendall(MESSAGE)
    sock.hang_up()
    assert peer.recv(1) == b""
    assert await delivered(sock) == [b"call"]
    peer.close()
    sock.hang_up()
