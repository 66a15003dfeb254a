"""A record that cannot be ends the session, and the peer is told by the alert for it."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance.world import ALERT, DATA, HANDSHAKE, Peer, keys
from tests.conftest import patience
from tests.kernel.clientworld import Asked, Daemon, world
from tests.kernel.sockets.takensocket import SECONDS, Taken, received
from umktls.abi import rpctls
from umktls.abi.alerts import TlsAlert, alert_name
from umktls.errors import UmktlsError
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import parse_engines
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.errors import BadRecord
from umktls.ktls.session.suites import OTHER_SUITES
from umktls.rpc.record import mark

MESSAGE = mark(5) + b"reply"
GOODBYE = b"\x01\x00"
WAYS: tuple[Direction, ...] = ("tx", "rx")


@dataclass
class Ending(Taken):
    """A session that ends: `wire` has come, reception is over, and the daemon is to say goodbye."""

    delivered: list[bytes] = field(default_factory=list)
    error: str = ""

    @property
    def told(self) -> list[str]:
        """What the kernel has traced as said to the peer."""
        return [event["description"] for event in self.world.events("alert")]


Wire = Callable[[Taken], bytes]


@asynccontextmanager
async def ending(
    path: Path,
    wire: Wire,
    personality: str = "umktls",
    session: Session | None = None,
    engine: str = "software",
    *,
    fin: bool = False,
) -> AsyncIterator[Ending]:
    """Between what `wire` makes (and a FIN), which ends reception, and the daemon's answer to
    DISCONNECT."""
    session = session or keys()
    peers: dict[Direction, Peer] = {"tx": Peer(session), "rx": Peer(session)}
    with trio.fail_after(patience(SECONDS)):
        async with (
            world(path, personality, engine=parse_engines(engine)) as w,
            trio.open_nursery() as nursery,
        ):
            daemon, attempt, asked = await w.asked()
            with trio.socket.from_stdlib_socket(attempt.far) as far:
                t = Ending(w, attempt.sock, await daemon.take(asked), far, peers)
                await have_keys(t, session, engine)
                await daemon.answer(asked)
                await attempt.ended.wait()
                ended = trio.Event()

                async def receive() -> None:
                    t.error = await received(t, t.delivered.append)
                    await tls.disconnect(w.host, t.sock, t.error)
                    ended.set()

                await far.send(wire(t))
                if fin:
                    far.shutdown(socket.SHUT_WR)
                nursery.start_soon(receive)
                asked = await last_upcall(daemon)
                yield t
                await daemon.answer(asked)
                await ended.wait()


async def have_keys(t: Taken, session: Session, engine: str) -> None:
    if "tx=bounce" in engine:
        await t.get(rpctls.SOL_UMKTLS, rpctls.UMKTLS_TX_BOUNCE, 0)
    else:
        await t.enable("tx", session)
    await t.enable("rx", session)


async def last_upcall(daemon: Daemon) -> Asked:
    """DISCONNECT. A record that is handed up before is left to the kernel, which drops it."""
    while (asked := await daemon.asked()).name == "HANDLERECORD":
        await daemon.answer(asked)
    assert asked.name == "DISCONNECT"
    return asked


def flipped(t: Taken) -> bytes:
    record = t.peers["rx"].seal(MESSAGE, DATA)
    return record[:-1] + bytes((record[-1] ^ 1,))


def interleaved(record_type: int, content: bytes) -> Wire:
    def wire(t: Taken) -> bytes:
        return t.peers["rx"].seal(b"\x04\0\0\x20half a ticket", HANDSHAKE) + t.peers["rx"].seal(
            content, record_type
        )

    return wire


# RFC 8446: the section, what comes, and what is said.
FAULTS: dict[str, tuple[Wire, TlsAlert]] = {
    "5.2: it does not verify": (flipped, TlsAlert.BAD_RECORD_MAC),
    "5.2: no room for a tag": (lambda t: b"\x17\3\3\0\x05hello", TlsAlert.BAD_RECORD_MAC),
    "5.2: over 2^14 + 256 bytes": (lambda t: b"\x17\3\3\x41\x01", TlsAlert.RECORD_OVERFLOW),
    "5.1: over 2^14 of content": (lambda t: b"\x17\3\3\x40\x12", TlsAlert.RECORD_OVERFLOW),
    "5.4: nothing but zeros": (
        lambda t: t.peers["rx"].seal(bytes(9), 0),
        TlsAlert.UNEXPECTED_MESSAGE,
    ),
    "5: change_cipher_spec": (
        lambda t: b"\x14\3\3\0\1\1" + bytes(40),
        TlsAlert.UNEXPECTED_MESSAGE,
    ),
    "5: an alert in clear": (
        lambda t: b"\x15\3\3\0\2\2\x28" + bytes(40),
        TlsAlert.UNEXPECTED_MESSAGE,
    ),
    "5: a type that nobody knows": (
        lambda t: b"\x63\3\3\0\x20" + bytes(32),
        TlsAlert.UNEXPECTED_MESSAGE,
    ),
    "5.1: another version": (
        lambda t: b"\x17\3\2\0\x20" + bytes(32),
        TlsAlert.PROTOCOL_VERSION,
    ),
    "5.1: data amid a handshake message": (interleaved(DATA, MESSAGE), TlsAlert.UNEXPECTED_MESSAGE),
    "5.1: an alert amid a handshake message": (
        interleaved(ALERT, GOODBYE),
        TlsAlert.UNEXPECTED_MESSAGE,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_the_peer_is_told(tmp_path: Path, fault: str) -> None:
    wire, alert = FAULTS[fault]

    def behind_a_message(t: Taken) -> bytes:
        return t.peers["rx"].seal(MESSAGE, DATA) + wire(t) + t.peers["rx"].seal(MESSAGE, DATA)

    async with ending(tmp_path, behind_a_message) as t:
        assert t.delivered == [b"reply"]  # and nothing from behind it
        assert t.error
        assert await t.records(1) == [(ALERT, bytes((2, alert)))]
        # Nothing follows a fatal alert, whatever the daemon says (section 6.2).
        assert await t.far.recv(1) == b""
        with pytest.raises(UmktlsError) as caught:
            await t.send(GOODBYE, ALERT)
        assert caught.value.errno == errno.EPIPE
        assert t.told == [alert_name(alert)]
        assert await owed(t) == 0


async def owed(t: Taken) -> int:
    return int.from_bytes(await t.get(rpctls.SOL_UMKTLS, rpctls.UMKTLS_ALERT), "little")


async def test_a_stream_that_ends_inside_a_record(tmp_path: Path) -> None:
    """There is nobody to be told: section 6.1 has no alert for it, and the daemon ends in order."""
    async with ending(tmp_path, lambda t: flipped(t)[:20], fin=True) as t:
        assert "the stream ended" in t.error
        await t.send(GOODBYE, ALERT)
        assert await t.records(1) == [(ALERT, GOODBYE)]
        assert t.told == []


@pytest.mark.parametrize("name", ["linux", "linux6.12", "freebsd15"])
async def test_real_kernels_leave_it_to_the_daemon(tmp_path: Path, name: str) -> None:
    """Neither FreeBSD nor Linux says more of a record that does not verify than close_notify."""
    async with ending(tmp_path, flipped, name) as t:
        assert t.error
        # In Linux what breaks receiving breaks sending too (sk_err).
        if not t.sock.state.personality.sending.shares_errors:
            await t.send(GOODBYE, ALERT)
            assert await t.records(1) == [(ALERT, GOODBYE)]
        assert t.told == []
        assert await owed(t) == 0


@pytest.mark.parametrize("name", ["linux", "freebsd15"])
async def test_real_kernels_do_not_follow_handshake_messages(tmp_path: Path, name: str) -> None:
    def wire(t: Taken) -> bytes:
        return interleaved(DATA, MESSAGE)(t) + flipped(t)

    async with ending(tmp_path, wire, name) as t:
        assert t.delivered == [b"reply"]


async def test_tls_1_2_may_interleave(tmp_path: Path) -> None:
    """A renegotiation goes on between data (RFC 5246 section 6.2.1)."""

    def wire(t: Taken) -> bytes:
        return interleaved(DATA, MESSAGE)(t) + flipped(t)

    async with ending(tmp_path, wire, session=keys(OTHER_SUITES["AES_128_GCM_SHA256"])) as t:
        assert t.delivered == [b"reply"]


async def test_where_the_daemon_seals_it_says_so(tmp_path: Path) -> None:
    """A kernel that opens and does not seal (design case S4): it asks the daemon."""
    async with ending(tmp_path, flipped, engine="tx=bounce,rx=software") as t:
        assert t.told == ["bad_record_mac"]
        assert await owed(t) == TlsAlert.BAD_RECORD_MAC


@pytest.mark.parametrize("how", ["a fault", "bounced"])
async def test_a_daemon_hears_of_the_end_though_the_peer_does_not_read(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """What was to be said to the peer before that takes its time, and no more: else the daemon
    would keep the session for ever."""
    engine = "bounce" if how == "bounced" else "software"
    async with world(tmp_path, engine=parse_engines(engine)) as w, trio.open_nursery() as nursery:
        daemon, attempt, asked = await w.asked()
        sock, number = attempt.sock, await daemon.take(asked)
        with contextlib.ExitStack() as stack:
            if how == "bounced":
                for direction in WAYS:
                    stack.enter_context(sock.detours.bounce(direction))
            else:
                far = trio.socket.from_stdlib_socket(attempt.far)
                await have_keys(Taken(w, sock, number, far), keys(), engine)
            await daemon.answer(asked)
            await attempt.ended.wait()
            sock.queue.push([bytes(8 << 20)])
            assert sock.queue.size
            sock.rpc.fault = BadRecord("a record that does not verify")
            nursery.start_soon(tls.disconnect, w.host, sock, "the test wants it")
            with trio.fail_after(60):
                asked = await daemon.asked()
            assert asked.name == "DISCONNECT"
            await daemon.answer(asked)
