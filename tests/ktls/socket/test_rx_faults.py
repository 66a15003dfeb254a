"""The receiving half: the end inside a record, bad records and bad headers."""

from __future__ import annotations

import errno

import pytest

from tests.conformance.world import KEY_UPDATE
from tests.ktls.helpers import ChunkSink, ListSink, flipped, receive, receiver, seal, transmitter
from umktls.ktls.session.errors import (
    BadRecord,
    RecordError,
    RecordSize,
    RecordTruncated,
    RecordVersion,
)
from umktls.ktls.socket.rx import PullResult
from umktls.ktls.socket.states import State


def test_eof_after_everything() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, b"last") + seal(tx, b"\1\0", 21))
    rx.buffer_filled(0)
    assert rx.pull(sink) is PullResult.CONTROL
    before = rx.eof
    assert before is False
    assert sink.data == b"last"
    rx.discard_control()
    assert rx.pull(sink) is PullResult.EOF
    assert rx.eof
    assert rx.read_record() is None


def test_eof_behind_a_key_update_asks_for_no_key() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, KEY_UPDATE, 22))
    rx.buffer_filled(0)
    assert rx.pull(sink) is PullResult.CONTROL
    rx.discard_control()
    assert rx.pull(sink) is PullResult.EOF


@pytest.mark.parametrize("kept", [1, 4, 5, 6, 30])
def test_the_end_inside_a_record_is_an_error_once(kept: int) -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, b"whole") + seal(tx, b"half a record")[:kept])
    rx.buffer_filled(0)
    with pytest.raises(RecordTruncated) as caught:
        rx.pull(sink)
    assert caught.value.errno == errno.EMSGSIZE
    assert sink.data == b"whole"
    assert rx.pull(sink) is PullResult.EOF
    assert rx.truncated
    assert rx.corrupted_records == 0


def test_the_end_inside_a_record_where_it_is_no_error() -> None:
    rx, sink = receiver(personality="linux"), ListSink()
    receive(rx, seal(transmitter(), b"half a record")[:20])
    rx.buffer_filled(0)
    assert rx.pull(sink) is PullResult.EOF
    assert rx.read_record() is None


def test_a_bad_record_is_one_error_and_the_next_is_read() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    good, bad, next_one = seal(tx, b"good"), seal(tx, b"bad"), seal(tx, b"next")
    receive(rx, good + flipped(bad, 7) + next_one)
    with pytest.raises(BadRecord) as caught:
        rx.pull(sink)
    assert caught.value.errno == errno.EBADMSG
    assert sink.data == b"good"
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"goodnext"
    assert (rx.failed_crypto, rx.corrupted_records, rx.sequence) == (1, 0, 3)


def test_a_bad_record_behind_records_that_landed_in_place() -> None:
    tx, rx, sink = transmitter(), receiver(), ChunkSink([1000])
    receive(rx, seal(tx, b"good") + flipped(seal(tx, b"bad"), -1) + seal(tx, b"next"))
    with pytest.raises(BadRecord):
        rx.pull(sink)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"goodnext"


def test_a_bad_record_that_sticks_fails_every_read() -> None:
    tx, rx, sink = transmitter(), receiver(personality="linux"), ListSink()
    receive(rx, seal(tx, b"good") + flipped(seal(tx, b"bad"), 7) + seal(tx, b"next"))
    for _ in range(3):
        with pytest.raises(BadRecord):
            rx.pull(sink)
        with pytest.raises(BadRecord):
            rx.read_record()
    rx.buffer_filled(0)
    assert not rx.eof
    assert sink.data == b"good"
    assert (rx.failed_crypto, rx.sequence) == (6, 1)


@pytest.mark.parametrize(
    ("header", "error", "number"),
    [
        ("17 02 03 0020", RecordVersion, errno.EINVAL),
        ("17 03 02 0020", RecordVersion, errno.EINVAL),
        ("18 03 03 0020", RecordVersion, errno.EINVAL),
        ("17 03 03 0010", RecordSize, errno.EMSGSIZE),
        ("17 03 03 8000", RecordSize, errno.EMSGSIZE),
    ],
)
@pytest.mark.parametrize("body", [0, 32, 40_000])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_bad_header_ends_the_half(
    header: str, error: type[RecordError], number: int, body: int, in_place: bool
) -> None:
    rx, sink = receiver(), ChunkSink([1000]) if in_place else ListSink()
    receive(rx, seal(transmitter(), b"good") + bytes.fromhex(header) + bytes(body))
    with pytest.raises(error) as caught:
        rx.pull(sink)
    assert type(caught.value) is error
    assert caught.value.errno == number
    assert sink.data == b"good"
    assert rx.state is State.BROKEN
    receive(rx, b"whatever comes then")
    assert rx.pull(sink) is PullResult.EOF
    assert rx.read_record() is None
    assert (rx.corrupted_records, rx.waiting_bytes()) == (1, 0)


def test_nothing_behind_a_bad_record_reaches_rpc_where_records_are_opened_ahead() -> None:
    tx, rx, sink = transmitter(), receiver(personality="freebsd14"), ListSink()
    receive(rx, seal(tx, b"good") + flipped(seal(tx, b"bad"), 9) + seal(tx, b"behind"))
    rx.open_ahead()
    assert len(rx.parked) == 2
    assert isinstance(rx.take_error(), BadRecord)  # somebody else was told
    with pytest.raises(BadRecord):
        rx.pull(sink)
    assert sink.data == b""
