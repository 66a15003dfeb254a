"""What daemons tell a kernel that captures: every byte of the handshake, and secrets in time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import client_context, daemon, server_context
from umktls.abi import rpctls
from umktls.upcall.captured import CAPTURE_BYTES, CAPTURE_SECRETS, MAX_CAPTURED, Captured, Kind

Wire = tuple[bytes, bytes]
SIDES = [("client", "client"), ("server", "server")]


def recorded(context: ssl.SSLContext, *, server: bool) -> Callable[[socket.socket], Wire]:
    """A peer that shakes hands and waits for the end; all that it has received and sent."""

    def work(sock: socket.socket) -> Wire:
        come, gone = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "localhost"
        tls = context.wrap_bio(come, gone, server_side=server, server_hostname=name)
        received, sent, finished = b"", b"", False
        while True:
            try:
                if not finished:
                    tls.do_handshake()
                    finished = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:  # there is an alert to be sent, or one has come
                finished = True
            if data := gone.read():
                sock.sendall(data)
                sent += data
            if not (data := sock.recv(65536)):
                return received, sent
            come.write(data)
            received += data

    return work


def context_for(side: str) -> ssl.SSLContext:
    return server_context() if side == "client" else client_context()


def told(sock: FakeSocket, kind: Kind) -> bytes:
    return b"".join(one.data for one in sock.captured if one.kind is kind)


@pytest.mark.parametrize(("side", "certificate"), SIDES)
@pytest.mark.parametrize("captures", [CAPTURE_BYTES, CAPTURE_BYTES | CAPTURE_SECRETS])
def test_every_byte_is_told(tmp_path: Path, side: str, certificate: str, captures: int) -> None:
    began = time.time()
    with daemon(side, tmp_path, certificate) as harness:
        sock, peer = harness.connection()
        sock.captures = captures
        wire = peer.run(recorded(context_for(side), server=side == "client"))
        harness.kernel.connect(sock)
        assert sock.state.keys_set == {"tx": 1, "rx": 1}
        sock.sock.shutdown(socket.SHUT_WR)
        received, sent = wire.result(SECONDS)
    assert told(sock, Kind.SENT) == received
    # What the peer has sent behind the handshake is the kernel's.
    heard = told(sock, Kind.RECEIVED)
    assert sent.startswith(heard)
    assert len(heard) > 100
    assert all(began <= one.when <= time.time() for one in sock.captured)
    check_secrets(sock, wanted=bool(captures & CAPTURE_SECRETS))


def check_secrets(sock: FakeSocket, *, wanted: bool) -> None:
    lines = told(sock, Kind.SECRETS).decode().splitlines()
    labels = {line.split()[0] for line in lines}
    assert labels == (
        {
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            "CLIENT_TRAFFIC_SECRET_0",
            "SERVER_TRAFFIC_SECRET_0",
            "EXPORTER_SECRET",
        }
        if wanted
        else set()
    )
    if not wanted:
        return
    # Wireshark wants both of the handshake's in front of the server's hello.
    for place, one in enumerate(sock.captured):
        if one.kind is not Kind.SECRETS and one.data[:1] == b"\x16" and one.data[5:6] == b"\x02":
            before = b"".join(each.data for each in sock.captured[:place])
            assert b"CLIENT_HANDSHAKE_TRAFFIC_SECRET" in before
            assert b"SERVER_HANDSHAKE_TRAFFIC_SECRET" in before


@pytest.mark.parametrize(("side", "certificate"), SIDES)
def test_nobody_is_told_who_does_not_ask(tmp_path: Path, side: str, certificate: str) -> None:
    with daemon(side, tmp_path, certificate) as harness:
        sock, peer = harness.connection()
        wire = peer.run(recorded(context_for(side), server=side == "client"))
        harness.kernel.connect(sock)
        assert sock.state.keys_set == {"tx": 1, "rx": 1}
        sock.sock.shutdown(socket.SHUT_WR)
        wire.result(SECONDS)
    assert sock.captured == []


def test_a_handshake_that_fails_is_told_too(tmp_path: Path) -> None:
    """The server's certificate has expired."""
    with daemon("client", tmp_path, "client") as harness:
        sock, peer = harness.connection()
        sock.captures = CAPTURE_BYTES
        wire = peer.run(recorded(server_context("expired"), server=True))
        assert harness.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
        sock.sock.shutdown(socket.SHUT_RDWR)
        received, sent = wire.result(SECONDS)
    assert told(sock, Kind.SENT) == received
    assert sent.startswith(told(sock, Kind.RECEIVED))
    assert told(sock, Kind.RECEIVED)


def test_a_kernel_that_captures_no_more_does_not_end_a_handshake(tmp_path: Path) -> None:
    with daemon("client", tmp_path, "client") as harness:
        sock, peer = harness.connection()
        sock.captures, sock.refuse_option = CAPTURE_BYTES, rpctls.UMKTLS_CAPTURED
        wire = peer.run(recorded(server_context(), server=True))
        assert harness.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
        sock.sock.shutdown(socket.SHUT_WR)
        wire.result(SECONDS)
    assert sock.captured == []


def test_what_is_long_fits_into_the_option() -> None:
    assert len(Captured(Kind.SENT, bytes(MAX_CAPTURED), 1.0).pack()) == 65536
