"""The system calls from the daemon's side, against a small kernel."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from umktls.abi import rpctls
from umktls.abi.freebsd import TCP_TLS_MODE_NONE, TCP_TLS_MODE_SW
from umktls.abi.personality import PERSONALITIES
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.upcall.rpctls import RPCTLSCD_V1
from umktls.userland.ktls import interface_of
from umktls.userland.libc import Kernel, KernelGone, Record, Socket, SystemCallError
from umktls.userland.streams import Deadline

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
SESSION = Session.from_secret(SUITE, b"s" * 32, 7)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path, RPCTLSCD_V1) as kernel:
        yield kernel


@pytest.fixture
def ends(fake: FakeKernel) -> Iterator[tuple[FakeSocket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield FakeSocket(near), far


def take(fake: FakeKernel, kernel: Kernel, sock: FakeSocket) -> Socket:
    fake.offer(sock)
    taken = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert taken is not None
    return taken


def test_registering_and_nothing_to_take(fake: FakeKernel, kernel: Kernel) -> None:
    assert kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSETPATH, b"/some/path") is None
    assert fake.paths == {rpctls.RPCTLS_SYSC_CLSETPATH: Path("/some/path")}
    with pytest.raises(SystemCallError) as caught:
        kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert (caught.value.name, caught.value.errno) == ("rpctls_syscall", errno.EPERM)


def test_a_socket_that_finds_no_room_is_closed(
    fake: FakeKernel, kernel: Kernel, ends: tuple[FakeSocket, socket.socket]
) -> None:
    # A first call, so that the kernel's end of the connection is open.
    kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSETPATH, b"/some/path")
    fake.offer(ends[0])
    gc.collect()  # or there may be room below it
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(SystemCallError) as caught:
            kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE
    assert ends[0].closed_by_daemon
    told = fake.event("handshake-failed")
    assert (told["fd"], told["phase"]) == (ends[0].number, "setup")
    assert told["reason"] in str(caught.value)
    assert str(caught.value).endswith("[connection k1]")


def test_a_taken_socket(
    fake: FakeKernel, kernel: Kernel, ends: tuple[FakeSocket, socket.socket]
) -> None:
    near, far = ends
    taken = take(fake, kernel, near)
    assert taken.number == near.number
    assert (taken.peer_name(), taken.transport_security()) == ("localhost", "tls")
    assert 0 < taken.deadline().left() <= SECONDS
    taken.write_all(b"hello", Deadline.after(5))
    assert far.recv(5) == b"hello"
    far.sendall(b"world")
    assert taken.read_exact(5, Deadline.after(5)) == b"world"
    descriptor = taken.fd
    taken.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    before = near.closed_by_daemon
    taken.close()
    assert (before, near.closed_by_daemon) == (False, True)
    with pytest.raises(SystemCallError) as caught:
        taken.shutdown()
    assert caught.value.errno == errno.EBADF


def test_a_kernel_without_our_options(
    fake: FakeKernel, kernel: Kernel, ends: tuple[FakeSocket, socket.socket]
) -> None:
    near, _ = ends
    near.has_own_options = False
    taken = take(fake, kernel, near)
    assert (taken.peer_name(), taken.transport_security()) == ("", "")
    assert 0 < taken.deadline().left() <= 15  # not the socket's SECONDS
    taken.close()


def test_peer_address_over_tcp(fake: FakeKernel, kernel: Kernel) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as far,
        listener.accept()[0] as near,
    ):
        taken = take(fake, kernel, FakeSocket(near))
        assert taken.peer_address() == far.getsockname()
        taken.close()
        assert taken.peer_address() is None


@pytest.fixture
def taken(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Socket, FakeSocket, socket.socket]]:
    """A socket of the kernel whose name is the parameter, and the peer's end."""
    near, far = socket.socketpair()
    with FakeKernel(tmp_path, RPCTLSCD_V1, request.param) as fake, near, far:
        kernel = Kernel(tmp_path)
        sock = FakeSocket(near, personality=request.param)
        yield take(fake, kernel, sock), sock, far
        kernel.close()


@pytest.mark.parametrize("taken", PERSONALITIES, indirect=True)
def test_keys_and_typed_records(taken: tuple[Socket, FakeSocket, socket.socket]) -> None:
    """By the kernel's own options and control messages. 13.0 cannot receive TLS 1.3."""
    sock, near, far = taken
    assert sock.tls_mode("tx") == TCP_TLS_MODE_NONE
    sock.enable_tls("tx", SESSION)
    assert (sock.tls_mode("tx"), sock.tls_mode("rx")) == (TCP_TLS_MODE_SW, TCP_TLS_MODE_NONE)
    sock.send_record(21, b"\x01\x00")
    wire = far.recv(100)
    content = memoryview(bytearray(100))
    opened = SoftwareEngine().opener(SESSION).open(memoryview(wire), content)
    assert (opened, bytes(content[:2])) == ((21, 2), b"\x01\x00")
    if near.state.personality.name == "freebsd13.0":
        with pytest.raises(SystemCallError) as caught:
            sock.enable_tls("rx", SESSION)
        assert caught.value.errno_name == "EPROTONOSUPPORT"
        return
    sock.enable_tls("rx", SESSION)
    assert sock.tls_mode("rx") == TCP_TLS_MODE_SW
    assert sock.receive_record() is None
    far.sendall(SoftwareEngine().sealer(SESSION).seal(22, [b"ticket"]))
    near.read()
    near.state.rx.read_record()
    assert sock.receive_record() == Record(22, b"ticket")
    sock.close()


@pytest.mark.parametrize("taken", PERSONALITIES, indirect=True)
def test_a_second_key(taken: tuple[Socket, FakeSocket, socket.socket]) -> None:
    sock, near, _ = taken
    sock.enable_tls("tx", SESSION)
    assert sock.rekeys == near.state.personality.keys.rekey
    if sock.rekeys:
        sock.send_record(22, b"\x18\0\0\1\0")
        sock.enable_tls("tx", SESSION)
        assert near.state.tx.sequence == SESSION.sequence
    else:
        with pytest.raises(SystemCallError) as caught:
            sock.enable_tls("tx", SESSION)
        linux = "linux" in near.state.personality.keys.interfaces
        assert caught.value.errno_name == ("EBUSY" if linux else "EALREADY")


def test_keys_are_not_shown() -> None:
    for name in ("freebsd14", "linux"):
        for option in interface_of(PERSONALITIES[name]).key_options("tx", SESSION):
            assert repr(SESSION.key)[2:-1] not in repr(option)
            assert "value" not in repr(option)


def test_events_reach_the_kernel(fake: FakeKernel, kernel: Kernel) -> None:
    kernel.utrace({"event": "handshake-failed", "fd": 3, "reason": "x" * 10000})
    (event,) = fake.events
    assert (event["event"], event["fd"]) == ("handshake-failed", 3)
    assert event["reason"].startswith("xxx")
    assert event["reason"].endswith("...")


def test_many_threads(fake: FakeKernel, kernel: Kernel) -> None:
    def trace(number: int) -> None:
        for step in range(20):
            kernel.utrace({"event": "x", "number": number, "step": step})

    threads = [threading.Thread(target=trace, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(fake.events) == 160


def test_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(KernelGone, match="no host at"):
        Kernel(tmp_path)


def test_a_kernel_that_goes(tmp_path: Path) -> None:
    with FakeKernel(tmp_path, RPCTLSCD_V1):
        kernel = Kernel(tmp_path)
    with pytest.raises(KernelGone):
        kernel.utrace({"event": "x"})
    kernel.close()
