"""Several long records opened at a time: what is in a run, and in front of what it stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ktls.helpers import (
    AES128,
    ENGINE,
    SUITE_NAMES,
    ChunkSink,
    flipped,
    receive,
    receiver,
    seal,
    session,
    transmitter,
)
from umktls.ktls.engines import Opener, run_opener_of
from umktls.ktls.engines.cutting import SEQUENCE_END
from umktls.ktls.engines.tls13 import OVERHEAD, Tls13Opener
from umktls.ktls.session.errors import BadRecord
from umktls.ktls.session.suites import SUITES
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State
from umktls.ktls.socket.tap import watched_opener

LENGTH = 5000
SIZE = LENGTH + OVERHEAD


def record(number: int, kind: int = 23, length: int = LENGTH) -> bytes:
    """One sealed record, the payload full of its number."""
    sealer = ENGINE.sealer(session(sequence=number))
    return bytes(sealer.seal(kind, [bytes([number]) * length]))


def begun(name: str = AES128.name, number: int = 0) -> Tls13Opener:
    """An opener that has opened one record of this size, with the sequence number."""
    opener = ENGINE.opener(session(SUITES[name], number))
    assert isinstance(opener, Tls13Opener)
    first = ENGINE.sealer(session(SUITES[name], number)).seal(23, [bytes(LENGTH)])
    opener.open(memoryview(first), memoryview(bytearray(SIZE)))
    return opener


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_records_alike_land_without_gaps(name: str) -> None:
    opener = begun(name)
    message = bytes(range(250)) * (4 * LENGTH // 250)
    wire = ENGINE.sealer(session(SUITES[name], 1)).seal(23, [message], LENGTH)
    dest = memoryview(bytearray(len(message) + 1))
    assert opener.open_run(memoryview(wire), SIZE, dest, 4) == 4
    assert bytes(dest[:-1]) == message
    assert opener.sequence == 5


def test_no_more_are_opened_than_are_wanted() -> None:
    opener = begun()
    wire = memoryview(b"".join(map(record, range(1, 4))))
    assert opener.open_run(wire, SIZE, memoryview(bytearray(len(wire))), 2) == 2
    assert opener.sequence == 3


def padded(wire: bytes) -> bytes:
    """The record, its payload and type one byte earlier and a zero behind them."""
    opener = ENGINE.opener(session(sequence=3))
    dest = memoryview(bytearray(SIZE))
    opener.open(memoryview(wire), dest)
    aead = opener._aead  # type: ignore[attr-defined]
    inner = bytes(dest[: LENGTH - 1]) + b"\x17\0"
    out = bytearray(len(inner) + 16)
    nonce = (int.from_bytes(session().iv) ^ 3).to_bytes(12)
    aead.encrypt_into(nonce, inner, wire[:5], out)
    return wire[:5] + bytes(out)


@pytest.mark.parametrize(
    "other",
    [
        lambda wire: record(3, kind=22),
        lambda wire: record(3, length=LENGTH - 1),
        lambda wire: b"\x16" + wire[1:],
        lambda wire: flipped(wire, 2),
        lambda wire: flipped(wire, 100),
        lambda wire: flipped(wire, -1),
        lambda wire: record(4),
        lambda wire: wire[:4],
        padded,
    ],
)
def test_it_stops_in_front_of_any_other_record(other: Callable[[bytes], bytes]) -> None:
    opener = begun()
    wire = record(1) + record(2) + other(record(3)) + record(4)
    dest = memoryview(bytearray(len(wire)))
    assert opener.open_run(memoryview(wire), SIZE, dest, 4) == 2
    assert bytes(dest[: 2 * LENGTH]) == b"\1" * LENGTH + b"\2" * LENGTH
    assert opener.sequence == 3


def test_another_size_than_the_last_record_s_is_not_begun() -> None:
    opener = begun()
    wire = memoryview(record(1, length=LENGTH + 1))
    assert opener.open_run(wire, SIZE + 1, memoryview(bytearray(len(wire))), 1) == 0
    assert opener.sequence == 1


def test_the_last_numbers_are_not_for_a_run() -> None:
    first = SEQUENCE_END - 3
    opener = begun(number=first)
    sealer = ENGINE.sealer(session(sequence=first + 1))
    wire = memoryview(sealer.seal(23, [bytes(2 * LENGTH)], LENGTH))
    dest = memoryview(bytearray(len(wire)))
    assert opener.open_run(wire, SIZE, dest, 2) == 1
    assert opener.sequence == SEQUENCE_END - 1
    assert opener.open_run(wire[SIZE:], SIZE, dest, 1) == 0
    assert opener.open(wire[SIZE:], dest) == (23, LENGTH)


class Alone:
    """An opener of somebody's, who has no runs; and a watcher."""

    def opened(self, kind: int, sequence: int, record: memoryview, payload: memoryview) -> None:
        self.seen = sequence

    def refused(self, sequence: int, record: memoryview, error: Exception) -> None:
        raise AssertionError

    def state_changed(self, state: State) -> None:
        raise AssertionError


def test_whoever_watches_sees_each_record() -> None:
    opener: Opener = ENGINE.opener(session())
    assert run_opener_of(opener) is not None
    assert run_opener_of(watched_opener(opener, Alone())) is None
    rx, sink, watcher = receiver(), ChunkSink([6 * 16384]), Alone()
    rx.watch(watcher)
    receive(rx, seal(transmitter(), bytes(4 * 16384)))
    rx.pull(sink)
    assert watcher.seen == 3
    rx.watch(None)
    receive(rx, seal(transmitter(sequence=4), bytes(2 * 16384)))
    rx.pull(sink)
    assert watcher.seen == 3
    assert len(sink.data) == 6 * 16384


def test_a_control_record_amid_long_ones() -> None:
    tx, rx, sink = transmitter(), receiver(), ChunkSink([200_000])
    wire = [seal(tx, bytes([number]) * 16384, 22 if number == 5 else 23) for number in range(8)]
    receive(rx, b"".join(wire))
    assert rx.pull(sink) is PullResult.CONTROL
    assert rx.take_control() == (22, b"\5" * 16384)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"".join(bytes([number]) * 16384 for number in (0, 1, 2, 3, 4, 6, 7))
    assert (rx.records, rx.control_records, rx.bytes) == (8, 1, 8 * 16384)


def test_a_bad_record_amid_long_ones_is_one_error() -> None:
    tx, rx, sink = transmitter(), receiver(), ChunkSink([200_000])
    wire = [seal(tx, bytes([number]) * 16384) for number in range(8)]
    wire[5] = flipped(wire[5], 9000)
    receive(rx, b"".join(wire))
    with pytest.raises(BadRecord, match="record 5 "):
        rx.pull(sink)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"".join(bytes([number]) * 16384 for number in (0, 1, 2, 3, 4, 6, 7))
    assert (rx.failed_crypto, rx.records, rx.sequence) == (1, 7, 8)


def test_a_pull_ends_after_as_many_records_as_were_wanted() -> None:
    rx, sink = receiver(), ChunkSink([200_000])
    receive(rx, seal(transmitter(), bytes(10 * 16384)))
    assert rx.pull(sink, 4) is PullResult.ENOUGH
    assert (rx.records, len(sink.data)) == (4, 4 * 16384)
    assert rx.pull(sink, 4) is PullResult.ENOUGH
    assert rx.pull(sink, 4) is PullResult.MORE_NEEDED
    assert len(sink.data) == 10 * 16384
