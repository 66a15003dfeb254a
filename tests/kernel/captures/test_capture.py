"""A capture in memory: what passes sockets, what happens, what is secret, what is missing."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.capture.blocks import SECRETS, blocks, packets
from tests.capture.streams import segments, streams
from umktls.capture.packets import MAX_PAYLOAD, Flags
from umktls.capture.pdus import MESSAGE_LIMIT
from umktls.errors import CallerError
from umktls.kernel.captures.capture import Capture, Tap
from umktls.kernel.captures.config import CaptureConfig, heading, parse_size
from umktls.kernel.captures.line import HOST, RPC, TCP
from umktls.kernel.captures.sinks import MemorySink
from umktls.kernel.captures.tapped import TappedSocket
from umktls.kernel.ground.events import Trace
from umktls.ktls.engines import Route
from umktls.ktls.session import Direction
from umktls.rpc.record import mark
from umktls.upcall.captured import CAPTURE_BYTES, CAPTURE_SECRETS, Captured, Kind

NEAR, FAR = ("c0000201", 700, "c0000202", 2049), ("c0000202", 2049, "c0000201", 700)
KEY = b"a key that nobody may read"


@dataclass
class Routes:
    routes: dict[Direction, Route] = field(default_factory=dict)

    def route(self, direction: Direction) -> Route:
        return self.routes.get(direction, Route.RECORDS)


@dataclass
class RpcSide:
    in_pieces: bool = False
    tap: Tap | None = None


@dataclass
class Sock:
    """A socket of the kernel, as far as a capture goes."""

    sock: socket.socket
    name: str = "c1"
    rpc: RpcSide = field(default_factory=RpcSide)
    detours: Routes = field(default_factory=Routes)

    @property
    def tap(self) -> Tap | None:
        return self.rpc.tap


class World:
    """A host's trace, a capture into memory, and the peer's ends of its connections."""

    def __init__(self, *, secrets: bool = False, client: bool = True) -> None:
        self.trace = Trace("client-7", "client", clock=lambda: 1000.0)
        self.sink = MemorySink(heading("client-7", secrets=secrets), 1 << 24)
        self.capture = Capture(self.trace, self.sink, client=client, secrets=secrets)

    def contents(self) -> bytes:
        return self.sink.contents()

    def comments(self) -> list[str]:
        return [text for one in segments(self.contents()) for text in one.comments]


@contextmanager
def pair(name: str = "c1") -> Iterator[tuple[Sock, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield Sock(near, name), far


def test_a_connection_from_its_beginning_to_its_end() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        sock.sock.sendmsg([b"one ", memoryview(b"two ")])
        far.sendall(b"an answer")
        assert sock.sock.recv(2) == b"an"
        room = bytearray(20)
        assert sock.sock.recv_into(memoryview(room)) == 7
        far.shutdown(socket.SHUT_WR)
        assert sock.sock.recv(1) == b""
        world.trace.emit("closed", "c1", reason="the end")
    world.capture.end()
    assert streams(world.contents()) == {NEAR: b"one two ", FAR: b"an answer"}
    found = [
        (one.ends, one.flags, one.sequence, one.acknowledged) for one in segments(world.contents())
    ]
    data = Flags.PSH | Flags.ACK
    assert found == [
        (NEAR, Flags.SYN, 0, 0),
        (FAR, Flags.SYN | Flags.ACK, 0, 1),
        (NEAR, Flags.ACK, 1, 1),
        (NEAR, data, 1, 1),
        (FAR, data, 1, 9),
        (FAR, data, 3, 9),
        (FAR, Flags.FIN | Flags.ACK, 10, 9),
        (NEAR, Flags.FIN | Flags.ACK, 9, 11),
    ]
    assert world.comments() == ["connection closed: the end"]


def test_a_server_was_called() -> None:
    world = World(client=False)
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
    assert [one.ends for one in segments(world.contents())] == [NEAR, FAR, NEAR]


def test_a_long_write_is_several_segments() -> None:
    world, data = World(), bytes(range(256)) * 700
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        reading = threading.Thread(target=far.recv, args=(len(data), socket.MSG_WAITALL))
        reading.start()
        left = memoryview(data)
        while left:
            left = left[sock.sock.sendmsg([left]) :]
        reading.join()
    assert streams(world.contents()) == {NEAR: data}
    assert max(len(one.payload) for one in segments(world.contents())) <= MAX_PAYLOAD


def test_what_a_full_socket_did_not_take_is_not_there() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, _):
        sock.sock.setblocking(False)
        world.capture.adopt(sock)
        taken = sock.sock.sendmsg([b"x" * (1 << 22), b"y" * 10])
        with pytest.raises(BlockingIOError):
            sock.sock.sendmsg([b"z"])
    assert streams(world.contents()) == {NEAR: b"x" * taken}


def test_what_is_read_byte_by_byte_is_one_segment() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        far.sendall(b"a mark and the rest")
        for size in (1, 1, 1, 1, 15):
            sock.sock.recv(size)
        far.sendall(b"few")
        sock.sock.recv(1)
        sock.sock.sendmsg([b"an answer"])
        sock.sock.recv(1)
        world.capture.end()
    payloads = [one.payload for one in segments(world.contents()) if one.payload]
    assert payloads == [b"a mark and the rest", b"f", b"an answer", b"e"]


def test_a_peek_takes_nothing() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        far.sendall(b"abc")
        sock.sock.recv(3, socket.MSG_PEEK)
        sock.sock.recv(3)
    assert streams(world.contents()) == {FAR: b"abc"}


def test_sockets_are_python_s_own_again_behind_a_capture() -> None:
    world = World()
    with pair() as (sock, far):
        world.capture.begin([sock])
        assert type(sock.sock) is TappedSocket
        world.capture.end()
        assert type(sock.sock) is socket.socket
        assert sock.tap is None
        sock.sock.sendmsg([b"not seen"])
        assert far.recv(20) == b"not seen"
        world.trace.emit("closed", "c1", reason="unseen")
    assert streams(world.contents()) == {}
    assert not any("unseen" in str(one.data) for one in packets(world.contents(), HOST))


def test_a_closed_connection_is_kept_by_nobody() -> None:
    from umktls.kernel.captures import tapped

    world = World()
    world.capture.begin([])
    before = len(tapped._EARS)
    with pair() as (sock, _):
        world.capture.adopt(sock)
        world.trace.emit("closed", "c1", reason="the end")
    del sock
    gc.collect()
    assert len(tapped._EARS) == before


def test_a_reset_is_one() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        sock.sock.sendmsg([b"never read"])
        far.close()
        with pytest.raises(ConnectionResetError):
            sock.sock.recv(1)
    assert segments(world.contents())[-1].flags == Flags.RST | Flags.ACK
    assert segments(world.contents())[-1].ends == FAR


# ---- what the daemon does with the connection


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


@contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: who has connected, and who was called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far


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


# ---- RPC


MESSAGE = b"\0\0\0\7" + bytes(40)


@pytest.mark.parametrize(("secrets", "seen"), [(True, 4), (False, 2)])
def test_rpc_in_tls_is_there_with_the_secrets_alone(secrets: bool, seen: int) -> None:
    world = World(secrets=secrets)
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        for _ in range(2):
            assert sock.tap is not None
            sock.tap.sent([mark(len(MESSAGE)) + MESSAGE[:8], MESSAGE[8:]])
            sock.tap.received([memoryview(MESSAGE)])
            world.trace.emit("socket-taken", "c1", pid=1, fd=3)
    found = packets(world.contents(), RPC)
    assert [one.data.endswith(MESSAGE) for one in found] == [True] * seen
    flags = [int.from_bytes(one.option(2) or b"", "little") for one in found]
    assert flags == [2, 1] * (seen // 2)


def test_a_long_message_is_cut() -> None:
    world, message = World(), bytes(range(256)) * 400
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        assert sock.tap is not None
        sock.tap.received([message[:1000], message[1000:]])
    (one,) = packets(world.contents(), RPC)
    assert one.data.endswith(message[:MESSAGE_LIMIT])
    assert one.length - len(one.data) == len(message) - MESSAGE_LIMIT


def test_what_goes_in_pieces_is_no_message() -> None:
    world = World(secrets=True)
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        assert sock.tap is not None
        sock.rpc.in_pieces = True
        sock.tap.received([MESSAGE])
    assert packets(world.contents(), RPC) == []


# ---- what the host does


def test_events_are_packets_and_comments() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        world.trace.emit("upcall", "c1", procedure="CONNECT", daemon="rpctlscd", xid=5)
        world.trace.emit("host-down")
        sock.sock.sendmsg([b"next"])
    upcall, down = (one.text for one in packets(world.contents(), HOST))
    assert (upcall["kind"], upcall["name"], upcall["connection"]) == ("upcall", "upcall", "c1")
    assert (upcall["procedure"], upcall["daemon"]) == ("CONNECT", "rpctlscd")
    assert upcall["text"] == "upcall CONNECT to rpctlscd"
    assert (down["kind"], down["text"]) == ("event", "host goes down")
    assert segments(world.contents())[-1].comments == ["upcall CONNECT to rpctlscd"]


def test_system_calls_are_packets() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, _):
        world.capture.adopt(sock)
        fields: dict[str, object] = {"name": "setsockopt", "what": "TCP_TXTLS_ENABLE, 48 bytes"}
        fields |= {"pid": 77, "fd": 3, "result": "ok", "seconds": 0.001}
        world.capture.syscall("c1", fields)
    (one,) = packets(world.contents(), HOST)
    assert one.text["text"] == "setsockopt(TCP_TXTLS_ENABLE, 48 bytes) by process 77: ok"
    assert (one.text["kind"], one.text["connection"], one.text["fd"]) == ("syscall", "c1", "3")


# ---- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64K", 65536), ("2m", 2 << 20), ("1GiB", 1 << 30), ("3MB", 3 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "10K", "1T", "ten"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(CallerError, match="a size of"):
        parse_size(text)


# ---- what somebody asks for


def test_what_a_command_line_says(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    assert CaptureConfig.of(None, False, None) is None
    assert CaptureConfig.of(path, True, "1M") == CaptureConfig(path, True, 1 << 20)
    config = CaptureConfig.of(path, False, None)
    assert config is not None
    assert config.warning is None
    assert config.called(2).path == tmp_path / "a-2.pcapng"


def test_secrets_are_said_loudly(tmp_path: Path) -> None:
    config = CaptureConfig.of(tmp_path / "a.pcapng", True, None)
    assert config is not None
    assert "SECRETS" in (config.warning or "")


@pytest.mark.parametrize(("secrets", "size"), [(True, None), (False, "1M")])
def test_options_about_no_capture(secrets: bool, size: str | None) -> None:
    with pytest.raises(CallerError, match="--capture"):
        CaptureConfig.of(None, secrets, size)
