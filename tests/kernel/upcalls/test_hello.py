"""Clients that are silent behind STARTTLS: no daemon is kept waiting, nobody waits for ever."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from tests.passing import elapse
from umktls.errors import WorldError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.server import Connection
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.daemons import PATIENCE
from umktls.kernel.upcalls.hello import Clients, peek, set_low_water
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth, encode_call
from umktls.rpc.record import mark
from umktls.rpc.server import Dispatcher
from umktls.testing.echo import ECHO, Echo
from umktls.testing.standin import StandIn

SECONDS = 10.0
LIMIT = PATIENCE * SECONDS

Clock = trio.testing.MockClock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def connection(near: socket.socket, peer: str) -> KernelSocket:
    return cast(KernelSocket, SimpleNamespace(sock=near, peer=peer))


async def gives_up_after(clients: Clients, sock: KernelSocket) -> float:
    began = trio.current_time()
    with pytest.raises(WorldError, match="silent for 12 s after the AUTH_TLS probe") as caught:
        await clients.of(sock).speaks(sock, SECONDS)
    assert caught.value.errno == errno.ETIMEDOUT
    return trio.current_time() - began


def test_what_is_wrong_with_a_connection_is_told_as_that(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].close()
    for look in (peek, set_low_water):
        with pytest.raises(WorldError, match="receive") as caught:
            look(ends[0], 5)
        assert caught.value.errno == errno.EBADF


async def test_silence_has_a_limit(
    ends: tuple[socket.socket, socket.socket], autojump_clock: Clock
) -> None:
    sock = connection(ends[0], "192.0.2.1:1000")
    assert await gives_up_after(Clients(), sock) == pytest.approx(LIMIT)


@pytest.mark.parametrize("said", [b"\x16", b""])
async def test_the_first_byte_and_the_end_are_heard(
    ends: tuple[socket.socket, socket.socket], autojump_clock: Clock, said: bytes
) -> None:
    near, far = ends
    sock = connection(near, "192.0.2.1:1000")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Clients().of(sock).speaks, sock, SECONDS)
        await elapse(SECONDS)
        if said:
            far.send(said)
        else:
            far.close()
    # Who reads next is woken by a single byte again.
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [("192.0.2.1:1001", 5 * SECONDS + LIMIT), ("192.0.2.2:1000", LIMIT)],
    ids=["of-the-same-host", "of-another-host"],
)
async def test_the_limit_while_another_connection_is_heard(
    ends: tuple[socket.socket, socket.socket],
    autojump_clock: Clock,
    other: str,
    expected: float,
) -> None:
    """Its client does one handshake after the other, so it has to be silent on this one."""
    clients = Clients()
    silent, heard = connection(ends[0], "192.0.2.1:1000"), connection(ends[0], other)

    async def shake_hands() -> None:
        with clients.of(heard).heard():
            await elapse(5 * SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        await trio.testing.wait_all_tasks_blocked()
        assert await gives_up_after(clients, silent) == pytest.approx(expected)


PROBE = encode_call(7, ECHO.number, 1, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b""), NULL_AUTH)


async def probed(host: Host, nursery: trio.Nursery) -> socket.socket:
    """A client that has been answered by STARTTLS."""
    near, far = socket.socketpair()
    sock = host.adopt(near, "tls")
    nursery.start_soon(Connection(host, sock, ()).serve, Dispatcher([Echo().service()]), True)
    far.send(mark(len(PROBE)) + PROBE)
    await trio.lowlevel.wait_readable(far)
    assert b"STARTTLS" in far.recv(100)
    return far


async def test_who_is_silent_keeps_nobody_from_the_daemon(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Which does one handshake at a time in version 1."""
    async with (
        booted(HostConfig("server", tmp_path / "h", upcall_seconds=SECONDS)) as host,
        trio.open_nursery() as nursery,
    ):
        daemon = StandIn("server", host.rundir.path, version=1)
        await nursery.start(daemon.run)
        silent, speaking = [await probed(host, nursery) for _ in range(2)]
        began = trio.current_time()
        with silent, speaking:
            speaking.send(b"\x16")
            while not any(sock.session for sock in host.sockets.values()):
                await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == began
            await elapse(LIMIT + 1)
            (failed,) = (e for e in host.trace.since() if e["event"] == "handshake-failed")
            assert (failed["connection"], failed["phase"]) == ("s1", "connection")
            assert daemon.upcalls == ["CONNECT"]
        nursery.cancel_scope.cancel()
