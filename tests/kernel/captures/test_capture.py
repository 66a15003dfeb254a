"""A capture in memory: what passes sockets, what happens, what is secret, what is missing."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import weakref
from pathlib import Path

import pytest

from tests.capture.blocks import packets
from tests.capture.streams import segments, streams
from tests.kernel.captures.captureworld import FAR, NEAR, Sock, World, pair
from umktls.capture.packets import MAX_PAYLOAD, Flags
from umktls.capture.pdus import MESSAGE_LIMIT
from umktls.errors import CallerError
from umktls.kernel.captures.config import CaptureConfig, parse_size
from umktls.kernel.captures.line import HOST, RPC
from umktls.kernel.captures.tapped import TappedSocket
from umktls.rpc.record import mark


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_a_direction_that_is_shut_is_shut(how: int) -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        sock.sock.shutdown(how)
        far.settimeout(20)
        assert far.recv(1) == b""
    world.capture.end()


def test_a_message_goes_in_pieces_of_which_the_last_is_pushed() -> None:
    world = World()
    world.capture.begin([])
    with pair() as (sock, far):
        world.capture.adopt(sock)
        far.settimeout(20)
        sock.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * MAX_PAYLOAD)
        sent = sock.sock.sendmsg([bytes(2 * MAX_PAYLOAD)])
    world.capture.end()
    assert sent == 2 * MAX_PAYLOAD
    pieces = [one for one in segments(world.contents()) if one.ends == NEAR and one.payload]
    assert [(len(one.payload), bool(one.flags & Flags.PSH)) for one in pieces] == [
        (MAX_PAYLOAD, False),
        (MAX_PAYLOAD, True),
    ]


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


def test_a_capture_that_has_ended_keeps_no_connection() -> None:
    """Nor what belongs to one, until somebody looks for cycles."""
    world = World()
    with pair() as (sock, _):
        world.capture.begin([sock])
        assert sock.tap is not None
        kept_sock, kept_line = weakref.ref(sock), weakref.ref(sock.tap.line)
        world.capture.end()
        del sock
        assert (kept_sock(), kept_line()) == (None, None)


def test_a_closed_connection_is_kept_by_nobody() -> None:
    from umktls.kernel.captures import tapped

    world = World()
    world.capture.begin([])
    gc.collect()  # what other tests left to it goes now, and not in between
    before = len(tapped._EARS)
    with pair() as (sock, _):
        world.capture.adopt(sock)
        world.trace.emit("closed", "c1", reason="the end")
    del sock
    gc.collect()
    assert len(tapped._EARS) == before


def test_a_capture_begins_though_a_connection_was_reset() -> None:
    """Nobody has read that yet, and TCP tells no address of its peer any more."""
    world = World()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
    ):
        far, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        with pytest.raises(OSError, match="not connected"):
            near.getpeername()
        world.capture.begin([Sock(near)])
        with pytest.raises(ConnectionResetError):
            near.recv(1)
    assert [one.flags for one in segments(world.contents())] == [Flags.RST | Flags.ACK]


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
