"""Debian's stunnel as the peer. It knows no ALPN, so it is let in by --alpn compat only."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import MUTUAL, Harness, daemon
from tests.daemons.pki import certificates
from umktls.abi import rpctls

STUNNEL = shutil.which("stunnel4") or ""
pytestmark = pytest.mark.skipif(not STUNNEL, reason="stunnel4 is not installed")


@contextlib.contextmanager
def stunnel(
    directory: Path, part: str, connect: int, own: socket.socket, *options: str
) -> Iterator[None]:
    """As inetd starts it: one end is `own`, the other is a connection to a port that it makes."""
    pki = certificates()
    trust = (f"CAfile = {pki.ca}", "verifyChain = yes")
    identity = (f"cert = {pki.certificate(part)}", f"key = {pki.key(part)}")
    lines = (*trust, *identity, *options, f"connect = 127.0.0.1:{connect}")
    config = directory / "stunnel.conf"
    config.write_text("\n".join(("foreground = yes", f"output = {directory / 'log'}", *lines, "")))
    fd = own.fileno()
    process = subprocess.Popen([STUNNEL, config], stdin=fd, stdout=fd, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        yield listener


def talk(host: Harness, sock: FakeSocket, plain: socket.socket) -> None:
    """Both ways, new keys where we ask for them, and the end."""
    plain.settimeout(SECONDS)
    plain.sendall(b"ping")
    assert host.receive(sock, 4) == b"ping"
    sock.send(b"pong")
    assert plain.recv(4) == b"pong"
    assert host.kernel.about(sock, "REKEY") == rpctls.RPCTLSERR_OK
    sock.send(b"new key")
    assert plain.recv(7) == b"new key"
    plain.sendall(b"newer")
    assert host.receive(sock, 5) == b"newer"
    assert host.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert plain.recv(1) == b""


def test_as_the_client(tmp_path: Path) -> None:
    ours, its = socket.socketpair()
    options = ("client = yes", "checkHost = localhost")
    with (
        daemon("server", tmp_path, "server", alpn="compat", mutualverf=True) as server,
        listening() as listener,
        ours,
        its,
        stunnel(tmp_path, "client", listener.getsockname()[1], its, *options),
    ):
        its.close()
        raw, _ = listener.accept()
        with raw:
            sock = FakeSocket(raw, security="mtls")
            assert server.kernel.connect(sock).flags == MUTUAL
            talk(server, sock, ours)


@pytest.mark.parametrize("alpn", ["compat", "strict"])
def test_as_the_server(tmp_path: Path, alpn: str) -> None:
    with (
        daemon("client", tmp_path, "client", alpn=alpn, mutualverf=True) as client,
        listening() as door,
        listening() as listener,
        socket.create_connection(door.getsockname(), SECONDS) as raw,
    ):
        accepted, _ = door.accept()
        with accepted, stunnel(tmp_path, "server", listener.getsockname()[1], accepted):
            accepted.close()
            sock = FakeSocket(raw, security="mtls")
            if alpn == "strict":
                assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
                assert client.kernel.event("handshake-failed")["phase"] == "alpn"
                return
            assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
            plain, _ = listener.accept()
            with plain:
                talk(client, sock, plain)
