"""Nothing may lie between an AUTH_TLS probe and the handshake (RFC 9289 section 5.1.1)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.krpc import incoming
from umktls.kernel.krpc.probe import check_probe
from umktls.kernel.krpc.server import Connection
from umktls.rpc.message import NULL_AUTH, AuthFlavor, AuthStat, Call, OpaqueAuth, encode_call
from umktls.rpc.record import mark
from umktls.rpc.server import Dispatcher
from umktls.testing.echo import ECHO, Echo
from umktls.testing.standin import StandIn


def call(number: int, credential: OpaqueAuth) -> bytes:
    message = encode_call(number, ECHO.number, ECHO.version, 0, credential, NULL_AUTH)
    return mark(len(message)) + message


PROBE = call(7, OpaqueAuth(AuthFlavor.AUTH_TLS, b""))
NULL = call(8, NULL_AUTH)
BEHIND = {
    "a call, which would be executed in the session": NULL,
    "the beginning of a call": NULL[:-1],
    "a byte of a record mark": NULL[:1],
    "the beginning of a handshake": b"\x16\x03\x01",
}


async def answered(
    tmp_path: Path, said: Callable[[socket.socket], None]
) -> tuple[bytes, list[str]]:
    """What a server answers a client that has `said` something, and what came of it."""
    near, far = socket.socketpair()
    with far, trio.fail_after(patience(10)):
        async with (
            booted(HostConfig("server", tmp_path / "h")) as host,
            trio.open_nursery() as nursery,
        ):
            daemon = StandIn("server", host.rundir.path, version=1)
            await nursery.start(daemon.run)
            said(far)
            connection = Connection(host, host.adopt(near, "tls"), ())
            await connection.serve(Dispatcher([Echo().service()]), True)
            answer = said_by(far)
            told = [f"{e['event']}: {e.get('reason', '')}" for e in host.trace.since()]
            assert daemon.upcalls == []
            nursery.cancel_scope.cancel()
    return answer, told


def said_by(server: socket.socket) -> bytes:
    try:
        return server.recv(1000)
    except ConnectionResetError:  # it has closed what was not read to the end
        return b""


GARBAGE = "garbage: bytes between the AUTH_TLS probe and the answer to it"


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_what_has_come_with_the_probe(tmp_path: Path, behind: bytes) -> None:
    """The connection ends, without STARTTLS, an upcall or an answer to what was said."""
    answer, told = await answered(tmp_path, lambda far: far.sendall(PROBE + behind))
    assert answer == b""
    assert GARBAGE in told


async def test_what_comes_while_the_probe_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the socket, where the daemon would take it for the handshake's first bytes."""
    clients: list[socket.socket] = []

    def check(probe: Call, in_tls: bool) -> AuthStat | None:
        clients[0].sendall(NULL)
        return check_probe(probe, in_tls)

    def say(far: socket.socket) -> None:
        clients.append(far)
        far.sendall(PROBE)

    monkeypatch.setattr(incoming, "check_probe", check)
    answer, told = await answered(tmp_path, say)
    assert answer == b""
    assert GARBAGE in told
