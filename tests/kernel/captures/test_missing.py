"""What is not in a capture: what no daemon told, what came before it, what the machine seals."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.capture.blocks import SECRETS, blocks, packets
from tests.capture.streams import segments, streams
from tests.capture.wireshark import check_sound, fields
from tests.kernel.captures.captureworld import FAR, KEY, NEAR, Sock, World, pair, tcp
from umktls.errors import CallerError
from umktls.kernel.captures.line import TCP
from umktls.ktls.engines import Route, get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptStat,
    AuthFlavor,
    OpaqueAuth,
    encode_accepted,
    encode_call,
)
from umktls.rpc.record import mark
from umktls.upcall.captured import CAPTURE_BYTES, CAPTURE_SECRETS, Captured, Kind

CALL = encode_call(7, 100003, 3, 0, OpaqueAuth(AuthFlavor.AUTH_TLS, b""), NULL_AUTH)
REPLY = encode_accepted(7, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
PROBE, STARTTLS = (bytes(mark(len(part)) + part) for part in (CALL, REPLY))


def test_what_a_daemon_tells_is_in_its_place() -> None:
    world = World(secrets=True)
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        assert sock.tap is not None
        assert sock.tap.wanted == CAPTURE_BYTES | CAPTURE_SECRETS
        for kind, data in (
            (Kind.SENT, b"client hello"),
            (Kind.RECEIVED, b"server hello"),
            (Kind.SECRETS, b"CLIENT_TRAFFIC_SECRET_0 00 00\n"),
            (Kind.SENT, b"finished"),
        ):
            sock.tap.told(Captured(kind, data, 1234.5).pack())
    assert streams(world.contents()) == {NEAR: b"client hellofinished", FAR: b"server hello"}
    told = [one.micros for one in packets(world.contents(), TCP)][3:]
    assert told == [1_234_500_000] * 3
    kinds = [one.kind for one in blocks(world.contents())]
    assert kinds[4:12].index(SECRETS) == 5  # in front of what it opens
    (secrets,) = (one for one in blocks(world.contents()) if one.kind == SECRETS)
    assert secrets.data == b"CLIENT_TRAFFIC_SECRET_0 00 00\n"


def test_secrets_are_not_taken_where_nobody_wants_them() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        assert sock.tap is not None
        assert sock.tap.wanted == CAPTURE_BYTES
        sock.tap.told(Captured(Kind.SECRETS, KEY, 1.0).pack())
    assert KEY not in world.contents()


@pytest.mark.parametrize("value", [b"", b"\1", b"\1" * 8, bytes(20), b"\4" * 20, b"\xff" * 20])
def test_what_a_daemon_tells_must_make_sense(value: bytes) -> None:
    with pytest.raises(CallerError):
        Captured.unpack_untrusted(value)


@pytest.mark.parametrize("client", [True, False])
def test_a_silent_daemon_leaves_a_gap_of_the_right_size(client: bool) -> None:
    world = World(client=client)
    world.capture.begin([])
    with tcp() as ends:
        mine, peer = ends if client else reversed(ends)
        sock, daemon = Sock(mine), mine.dup()
        with daemon:
            world.capture.adopt(sock)
            sock.sock.sendmsg([b"seen"])
            daemon.sendall(b"x" * 100)
            peer.sendall(b"y" * 60 + b"behind")
            daemon.recv(60, socket.MSG_WAITALL)
            peer.recv(104, socket.MSG_WAITALL)
            world.trace.emit("upcall-answered", "c1", procedure="CONNECT", seconds=0.1, result="OK")
            sock.sock.sendmsg([b"after"])
            assert sock.sock.recv(9) == b"behind"
    *_, seen, sent, received = segments(world.contents())
    assert (seen.payload, seen.sequence) == (b"seen", 1)
    assert (sent.payload, sent.sequence, sent.acknowledged) == (b"after", 105, 61)
    assert (received.payload, received.sequence) == (b"behind", 61)
    missing = [text for text in world.comments() if "missing" in text]
    assert missing == [
        "100 bytes are missing, sent by its daemon, which does not tell of them",
        "60 bytes are missing, received by its daemon, which does not tell of them",
    ]


def test_a_connection_without_its_handshake_opens_in_tshark(tmp_path: Path) -> None:
    """The probe, its answer, then records that nobody can open; what is between was not told."""
    world = World()
    world.capture.begin([])
    session = Session.from_secret(SUITES["TLS_AES_128_GCM_SHA256"], bytes(32))
    sealed = bytes(get_engine("software").sealer(session).seal(23, [b"an RPC message"]))
    with tcp() as (mine, peer):
        sock, daemon = Sock(mine), mine.dup()
        with daemon:
            world.capture.adopt(sock)
            sock.sock.sendmsg([PROBE])
            peer.sendall(STARTTLS)
            assert sock.sock.recv(len(STARTTLS)) == STARTTLS
            daemon.sendall(b"h" * 517)
            peer.sendall(b"f" * 1300)
            daemon.recv(1300, socket.MSG_WAITALL)
            peer.recv(len(PROBE) + 517, socket.MSG_WAITALL)
            world.trace.emit("upcall-answered", "c1", procedure="CONNECT", seconds=0.1, result="OK")
            sock.sock.sendmsg([sealed])
            peer.sendall(sealed)
            assert sock.sock.recv(len(sealed)) == sealed
    path = tmp_path / "gap.pcapng"
    path.write_bytes(world.contents())
    check_sound(path)
    told = fields(path, "tls.record.content_type == 23", "tls.record.length", "frame.comment")
    assert [row[0] for row in told] == [str(len(sealed) - 5)] * 2
    why = "517 bytes are missing, sent by its daemon, which does not tell of them"
    assert why in " ".join(row[1] for row in fields(path, "tcp", "frame.number", "frame.comment"))


@pytest.mark.parametrize("client", [True, False])
def test_a_capture_that_begins_late_goes_on_where_tcp_is(client: bool) -> None:
    world = World(client=client)
    with tcp() as ends:
        mine, peer = ends if client else reversed(ends)
        mine.sendall(b"x" * 11)
        peer.sendall(b"y" * 7)
        mine.recv(7, socket.MSG_WAITALL)
        sock = Sock(mine)
        world.capture.begin([sock])
        sock.sock.sendmsg([b"now"])
    (only,) = segments(world.contents())
    assert (only.payload, only.sequence, only.acknowledged) == (b"now", 12, 8)
    assert only.comments == ["the capture begins here; the connection was there before"]


def test_a_direction_that_the_machine_seals_is_said_not_to_be_there() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        sock.detours.routes["tx"] = Route.HOST
        world.capture.adopt(sock)
        world.trace.emit("tx-keys", "c1", suite="x", sequence=0)
        sock.sock.sendmsg([b"clear, for who seals below"])
        far.sendall(b"still here")
        sock.sock.recv(20)
    assert streams(world.contents()) == {FAR: b"still here"}
    said = "what is sent from here on is not in the file: the machine's own kernel seals and opens"
    assert said in world.comments()


def test_a_direction_that_is_bounced_is_there_as_far_as_the_daemon_tells() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        assert sock.tap is not None
        world.trace.emit("bounce", "c1", direction="sending")
        sock.tap.told(Captured(Kind.SENT, b"told", 1.0).pack())
    assert streams(world.contents()) == {NEAR: b"told"}
    assert "what is sent from here on is in the file if the daemon tells" in world.comments()
