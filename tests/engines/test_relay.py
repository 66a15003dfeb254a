"""The threads that bounce, with a session that only changes case; and what may stand before RPC."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Self

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from umktls_daemons.sessions import bounce
from umktls_daemons.sessions.bounce import Relay

from tests.conftest import patience
from tests.descriptors import descriptors
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.lanes import LONGEST_OF_CLIENT, ClearIntake, CountingQueue, PlainIntake
from umktls.ktls.engines import Buffer
from umktls.ktls.session.errors import RecordInClear
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.rpc.record import RecordReader, mark

SECONDS = 50.0
GOODBYE = b"\x15\x03\x03\x00\x01!"


@pytest.fixture(autouse=True)
def _sending_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounce, "FINISH_SECONDS", patience(20))


def sealed(data: bytes) -> bytes:
    """A "record": lower case on the inside, upper case on the wire."""
    return b"\x17\x03\x03" + len(data).to_bytes(2, "big") + data.upper()


class Case:
    """The session."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self.lock = threading.Lock()
        self.fails = False
        self.reason = ""

    def seal(self, data: Buffer) -> bool:
        with self.lock:
            assert self.relay is not None
            view = memoryview(data)
            for start in range(0, len(view), 16384):
                self.relay.write(sealed(bytes(view[start : start + 16384])))
            return not self.fails

    def open(self, record: bytes) -> bytes | None:
        return None if record == GOODBYE else record[5:].lower()

    def broken(self, reason: str) -> None:
        self.reason = reason


class Bench:
    """A relay with everything around it: RPC's ends of the pairs, and the peer."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.connection = socket.create_connection(listener.getsockname())
            self.peer, _ = listener.accept()
        self.connection.setblocking(False)
        self.rpc_tx, tx = socket.socketpair()
        self.rpc_rx, rx = socket.socketpair()
        for sock in (self.peer, self.rpc_tx, self.rpc_rx):
            sock.settimeout(SECONDS)
        for sock in (tx, rx):
            sock.setblocking(False)
        self.session = Case()
        self.relay = Relay(self.connection.fileno(), {"tx": tx, "rx": rx}, self.session)
        self.session.relay = self.relay
        self.relay.start()

    def close(self) -> None:
        for sock in (self.connection, self.peer, self.rpc_tx, self.rpc_rx):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.relay.close()
        made.close()


def read_all(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := sock.recv(65536)):
        data += piece
    return bytes(data)


def contents(wire: bytes) -> bytes:
    found = b""
    while wire:
        size = 5 + int.from_bytes(wire[3:5], "big")
        found += wire[5:size]
        wire = wire[size:]
    return found


def test_both_directions_at_once_do_not_wait_for_each_other(bench: Bench) -> None:
    """Neither the peer nor RPC reads before it has sent everything."""
    data = bytes(range(97, 123)) * 60_000
    wire = b"".join(sealed(data[start : start + 16384]) for start in range(0, len(data), 16384))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(bench.rpc_tx.sendall, data)
        received = pool.submit(read_all, bench.rpc_rx, len(data))
        peer_sends = pool.submit(bench.peer.sendall, wire)
        got = b""
        while len(contents(got)) < len(data):
            got += bench.peer.recv(65536)
            if len(got) < 5 + len(data):
                continue
        assert contents(got) == data.upper()
        peer_sends.result(SECONDS)
        sending.result(SECONDS)
        assert received.result(SECONDS) == data


def test_what_was_sent_goes_out_before_the_end(bench: Bench) -> None:
    bench.rpc_tx.sendall(b"x" * 300_000)
    bench.rpc_tx.shutdown(socket.SHUT_WR)
    with ThreadPoolExecutor() as pool:
        wire = pool.submit(read_all, bench.peer, 1 << 30)
        bench.relay.finish_sending()
        bench.relay.write(sealed(b"goodbye"))
        bench.relay.end()
        assert contents(wire.result(SECONDS)) == b"X" * 300_000 + b"GOODBYE"


def test_the_peer_s_goodbye_ends_what_rpc_reads(bench: Bench) -> None:
    bench.peer.sendall(sealed(b"last words") + GOODBYE + sealed(b"too late"))
    assert read_all(bench.rpc_rx, 1 << 20) == b"last words"


def test_rpc_has_what_came_before_a_goodbye_when_that_is_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session tells the kernel of it at once."""
    there, looked = [], threading.Event()

    def opened(record: bytes) -> bytes | None:
        if record == GOODBYE:
            there.extend(select.select([bench.rpc_rx], [], [], 0)[0])
            looked.set()
        return Case.open(bench.session, record)

    monkeypatch.setattr(bench.session, "open", opened)
    bench.peer.sendall(sealed(b"last words") + GOODBYE)
    assert looked.wait(SECONDS)
    assert there == [bench.rpc_rx]
    assert read_all(bench.rpc_rx, 1 << 20) == b"last words"


def test_a_reset_ends_both_directions(bench: Bench) -> None:
    bench.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bench.peer.close()
    assert bench.rpc_rx.recv(1) == b""
    # More than fits: it has to be refused.
    with pytest.raises(OSError, match="pipe"):
        bench.rpc_tx.sendall(bytes(1 << 23))


def test_bytes_that_are_no_tls_end_what_rpc_reads(bench: Bench) -> None:
    bench.peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert bench.rpc_rx.recv(1) == b""
    assert "48 54 54 50 2f" in bench.session.reason


def test_a_session_that_failed_takes_nothing_more(bench: Bench) -> None:
    bench.session.fails = True
    bench.rpc_tx.sendall(b"data")
    bench.relay.finish_sending()
    assert contents(read_all(bench.peer, 9)) == b"DATA"


def test_the_end_comes_soon_whoever_does_not_read(bench: Bench) -> None:
    """Neither the peer nor RPC takes anything, and both directions are full."""
    for sock, data in ((bench.rpc_tx, bytes(65536)), (bench.peer, sealed(bytes(16384)))):
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(data)
    bench.relay.close()
    bench.relay.write(b"nobody sends this any more")
    for thread in bench.relay._threads.values():
        thread.join(patience(SECONDS))
        assert not thread.is_alive()


def test_no_descriptor_is_left() -> None:
    before = descriptors()
    for _ in range(3):
        made = Bench()
        made.relay.close()
        made.close()
    assert descriptors() <= before


# ---- clear data behind sealed records (engine null)


class Chopped:
    """A socket that delivers what it has in given pieces, and always has something to read."""

    def __init__(self, data: bytes, cut: Callable[[], int]) -> None:
        self.data = data
        self.cut = cut
        self._readable = os.eventfd(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._readable)

    def fileno(self) -> int:
        return self._readable

    def recv(self, length: int) -> bytes:
        room = bytearray(length)
        return bytes(room[: self.recv_into(memoryview(room))])

    def recv_into(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self.data), max(1, self.cut()))
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 300), max_size=4),
    st.lists(st.binary(max_size=40), max_size=4),
    st.lists(st.integers(1, 200), min_size=1, max_size=20),
)
def test_sealed_records_in_front_are_dropped_whatever_the_split(
    lengths: list[int], messages: list[bytes], cuts: list[int]
) -> None:
    records = [b"\x17\x03\x03" + length.to_bytes(2, "big") + bytes(length) for length in lengths]
    stream = b"".join(records) + b"".join(mark(len(message)) + message for message in messages)
    turn = cycle(cuts)
    dropped: list[int] = []
    with Chopped(stream, lambda: next(turn)) as sock:
        intake = ClearIntake(sock, dropped.append)  # type: ignore[arg-type]
        assert trio.run(drain, intake) == messages
    assert dropped == list(map(len, records))
    assert intake.bytes == len(stream) - sum(dropped)


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_client_s_sealed_call_is_not_taken_for_a_ticket(cut: int) -> None:
    """close_notify and KeyUpdate have no 64 bytes, and a call has more."""
    dropped: list[int] = []
    records = [b"\x17\x03\x03\0" + bytes([length, *bytes(length)]) for length in (19, 59, 60)]
    with Chopped(b"".join(records), lambda: cut) as sock:
        intake = ClearIntake(sock, dropped.append, LONGEST_OF_CLIENT)  # type: ignore[arg-type]
        with pytest.raises(RecordInClear, match="65 bytes"):
            trio.run(drain, intake)
    assert dropped == [24, 64]


async def drain(intake: PlainIntake) -> list[bytes]:
    rx, reader = Receiver(), RecordReader(10_000)
    found: list[bytes] = []
    while True:
        result = rx.pull(reader)
        found += [bytes(message) for message in reader.messages()]
        if result is PullResult.EOF:
            return found
        await intake.fill(rx, reader, Turn())


def test_clear_bytes_are_counted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        queue = CountingQueue(ours)
        queue.push([b"twelve ", b"bytes"])
        assert queue.bytes == 12
        assert theirs.recv(100) == b"twelve bytes"
