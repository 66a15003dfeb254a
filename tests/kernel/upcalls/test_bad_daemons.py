"""What a daemon gets wrong, or may not do: it is refused, and nothing goes in clear for that."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from tests.conftest import patience
from umktls.abi import rpctls
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.server import Connection
from umktls.kernel.upcalls import registered
from umktls.ktls.session import Session
from umktls.rpc.message import NULL_AUTH, AuthFlavor, OpaqueAuth, encode_call
from umktls.rpc.record import mark
from umktls.rpc.server import Dispatcher
from umktls.testing.echo import ECHO, Echo
from umktls.testing.played import Refused, calls_to
from umktls.testing.standin import SUITE, Live, StandIn
from umktls.upcall import syscalls as wire
from umktls.upcall.versions import Connected
from umktls.userland.ktls import interface_of

SECONDS = 20
PROBE = encode_call(7, ECHO.number, 1, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b""), NULL_AUTH)
CALL = encode_call(8, ECHO.number, 1, 0, NULL_AUTH, NULL_AUTH)


def heard(server: socket.socket) -> bytes:
    try:
        return server.recv(1000)
    except ConnectionResetError:  # the call was not read
        return b""


async def served_by(daemon: StandIn, host: Host) -> tuple[bytes, list[str]]:
    """What a client is answered by a server whose daemon it is, behind the answer to its probe; and
    the reasons for which handshakes have failed."""
    near, far = socket.socketpair()
    with far, trio.fail_after(patience(SECONDS)):
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.run)
            connection = Connection(host, host.adopt(near, "tls"), ())
            serve = partial(connection.serve, Dispatcher([Echo().service()]), True)
            nursery.start_soon(serve)
            far.send(mark(len(PROBE)) + PROBE)
            await trio.lowlevel.wait_readable(far)
            assert b"STARTTLS" in far.recv(100)
            # The daemon that is played does not look at it.
            far.send(mark(len(CALL)) + CALL)
            await trio.lowlevel.wait_readable(far)
            answer = heard(far)
            nursery.cancel_scope.cancel()
    return answer, [e["reason"] for e in host.trace.since() if e["event"] == "handshake-failed"]


@dataclass
class Forgetful(StandIn):
    """Says that the handshake is done, and sets no keys of some directions."""

    forgets: tuple[str, ...] = ()

    async def _set_keys(self, session: Live, direction: Literal["tx", "rx"]) -> None:
        if direction not in self.forgets:
            await super()._set_keys(session, direction)


@pytest.mark.parametrize(
    ("forgets", "said"),
    [(("tx",), "sending"), (("rx",), "receiving"), (("tx", "rx"), "sending and receiving")],
)
async def test_a_session_without_keys_is_none(
    tmp_path: Path, forgets: tuple[str, ...], said: str
) -> None:
    """Otherwise calls would go in clear that both sides take for sealed."""
    async with booted(HostConfig("server", tmp_path / "h")) as host:
        daemon = Forgetful("server", host.rundir.path, forgets=forgets)
        answer, reasons = await served_by(daemon, host)
    assert answer == b""
    assert reasons == [f"the daemon says the handshake succeeded, but set no keys for {said}"]


@dataclass
class Groupless(StandIn):
    """Finds a user in the client's certificate, and no group of that user."""

    async def _taken(self, number: int) -> Connected:
        await super()._taken(number)
        return Connected(flags=rpctls.RPCTLS_FLAGS_HANDSHAKE | rpctls.RPCTLS_FLAGS_CERTUSER, uid=7)


async def test_a_user_in_no_group_is_nobody(tmp_path: Path) -> None:
    async with booted(HostConfig("server", tmp_path / "h")) as host:
        answer, reasons = await served_by(Groupless("server", host.rundir.path), host)
    assert answer == b""
    assert reasons == ["user 7 of a certificate is in no group"]


async def test_a_daemon_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens at the registered path is looked at too: it would get the sockets."""
    monkeypatch.setattr(registered, "allowed", lambda uid: False)
    async with booted(HostConfig("server", tmp_path / "h")) as host:
        daemon = StandIn("server", host.rundir.path, version=1)
        answer, reasons = await served_by(daemon, host)
    assert answer == b""
    assert daemon.upcalls == []
    (reason,) = reasons
    assert "listens on" in reason


def keys_elsewhere(fd: int) -> wire.SetsockoptArgs:
    """Keys that are said to be at an address where nothing is."""
    session = Session.from_secret(SUITE, bytes(32))
    (keys,) = interface_of(PERSONALITIES["freebsd14"]).key_options("tx", session)
    return wire.SetsockoptArgs(fd, keys.level, keys.name, keys.value, ())


def keys_cut(fd: int) -> wire.SetsockoptArgs:
    """Keys of which the last byte of each part is not there."""
    session = Session.from_secret(SUITE, bytes(32))
    (keys,) = interface_of(PERSONALITIES["freebsd14"]).key_options("tx", session)
    memory = tuple(wire.Segment(address, data[:-1]) for address, data in keys.memory)
    return wire.SetsockoptArgs(fd, keys.level, keys.name, keys.value, memory)


UNKNOWN = 9999
SRVSOCKET = rpctls.RPCTLS_SYSC_SRVSOCKET
# Of a socket that the daemon has, which bounces nothing.
ASKED: dict[str, tuple[Callable[[int], Any], int]] = {
    "an option that there is not": (
        lambda fd: wire.GetsockoptArgs(fd, rpctls.SOL_UMKTLS, UNKNOWN, 4),
        errno.ENOPROTOOPT,
    ),
    "a way round kernel TLS": (
        lambda fd: wire.GetsockoptArgs(fd, rpctls.SOL_UMKTLS, rpctls.UMKTLS_TX_BOUNCE, 0),
        errno.EPERM,
    ),
    "keys that are nowhere": (keys_elsewhere, errno.EFAULT),
    "keys that are cut": (keys_cut, errno.EFAULT),
    "another socket": (lambda fd: wire.RpctlsSyscallArgs(SRVSOCKET, b""), errno.EPERM),
}


@dataclass
class Curious(StandIn):
    """Asks for what it may not have, when it has a socket; `got` are the errnos."""

    got: dict[str, int] = field(default_factory=dict)

    async def _set_keys(self, session: Live, direction: Literal["tx", "rx"]) -> None:
        for name, (asked, _) in ASKED.items():
            try:
                await self._call(asked(session.fd))
            except Refused as error:
                self.got[name] = error.errno
        await super()._set_keys(session, direction)


async def test_what_a_daemon_may_not_have(tmp_path: Path) -> None:
    """And the handshake goes on."""
    async with booted(HostConfig("server", tmp_path / "h")) as host:
        daemon = Curious("server", host.rundir.path, version=1)
        _, reasons = await served_by(daemon, host)
    assert daemon.got == {name: number for name, (_, number) in ASKED.items()}
    assert reasons == []


LONGEST_PATH = 107  # of an AF_UNIX socket, with its NUL 108
NO_PATHS = [b"", b"\0", b"x" * (LONGEST_PATH + 1)]


@pytest.mark.parametrize("name", ["CLSETPATH", "SRVSETPATH"])
async def test_paths_that_are_none(tmp_path: Path, name: str) -> None:
    number = rpctls.RpctlsSysc[f"RPCTLS_SYSC_{name}"]
    async with (
        booted(HostConfig("server", tmp_path / "h")) as host,
        calls_to(host.rundir.path) as c,
    ):
        for path in NO_PATHS:
            with pytest.raises(Refused) as caught:
                await c.call(wire.RpctlsSyscallArgs(number, path))
            assert caught.value.errno == errno.EINVAL
        assert not any(host.handles.values())
        await c.call(wire.RpctlsSyscallArgs(number, b"x" * LONGEST_PATH))
        assert any(host.handles.values())


async def test_an_operation_that_there_is_not(tmp_path: Path) -> None:
    async with (
        booted(HostConfig("server", tmp_path / "h")) as host,
        calls_to(host.rundir.path) as c,
    ):
        for number, error in ((UNKNOWN, errno.EINVAL), (SRVSOCKET, errno.EPERM)):
            with pytest.raises(Refused) as caught:
                await c.call(wire.RpctlsSyscallArgs(number, b""))
            assert caught.value.errno == error


async def test_a_connection_that_there_is_not(tmp_path: Path) -> None:
    """As `umktls rekey` and `umktls txmode` may name it."""
    async with booted(HostConfig("server", tmp_path / "h")) as host:
        assert host.established(None) == []
        with pytest.raises(CallerError, match="no connection 's9' here") as caught:
            host.established("s9")
    assert caught.value.errno == errno.ENOENT
