"""Receiver.read: little data in one step, and whatever is special by the buffer."""

from __future__ import annotations

import pytest

from tests.ktls.helpers import (
    ENGINE,
    Lines,
    ListSink,
    flipped,
    receiver,
    seal,
    session,
    transmitter,
)
from umktls.ktls.session.errors import BadRecord
from umktls.ktls.session.session import Session
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.ktls.socket.rxbuffer import INITIAL_SIZE
from umktls.ktls.socket.states import State


class Watcher:
    """Notes what was opened: type, number, payload."""

    def __init__(self) -> None:
        self.told: list[tuple[int | str, int, bytes]] = []

    def opened(
        self, record_type: int, sequence: int, record: memoryview, payload: memoryview
    ) -> None:
        self.told.append((record_type, sequence, bytes(payload)))

    def refused(self, sequence: int, *_: object) -> None:
        self.told.append(("refused", sequence, b""))

    def state_changed(self, state: State) -> None: ...


def read_all(rx: Receiver, *pieces: bytes) -> tuple[bytes, bool]:
    """What came out, and whether it took `pull` at the last piece."""
    sink = ListSink()
    wire = Lines(*pieces)
    while wire.pieces:
        rx.read(wire, sink)
        if not rx.settled:
            rx.pull(sink)
    return bytes(sink.data), not rx.settled


def test_a_whole_short_record_needs_no_pull() -> None:
    tx, rx = transmitter(), receiver()
    assert read_all(rx, seal(tx, b"one"), seal(tx, b"two") + seal(tx, b"three")) == (
        b"onetwothree",
        False,
    )
    assert rx.drained
    assert (rx.records, rx.tally.decrypts, rx.bytes, rx.sequence) == (3, 3, 11, 3)


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_record_in_two_pieces(cut: int) -> None:
    tx, rx = transmitter(), receiver()
    wire = seal(tx, b"one") + seal(tx, b"two")
    assert read_all(rx, wire[:cut], wire[cut:])[0] == b"onetwo"
    assert read_all(rx, seal(tx, b"three")) == (b"three", False)


def test_what_fills_a_read_goes_by_the_buffer_which_grows() -> None:
    tx, rx = transmitter(), receiver()
    wire = seal(tx, bytes(INITIAL_SIZE))
    data, pulled = read_all(rx, wire)
    assert (data, pulled, rx.spacious) == (bytes(INITIAL_SIZE), True, True)
    rx.trim()
    assert read_all(rx, seal(tx, b"one")) == (b"one", False)


def test_in_clear_everything_goes_on_at_once_unless_there_may_be_much() -> None:
    rx = Receiver()
    assert read_all(rx, b"one", b"two") == (b"onetwo", False)
    data, pulled = read_all(rx, bytes(2 * INITIAL_SIZE))
    assert (len(data), pulled, rx.spacious) == (2 * INITIAL_SIZE, True, True)


def test_a_control_record_stops_it() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    wire = seal(tx, b"one") + seal(tx, b"\1\0", 21) + seal(tx, b"two")
    rx.read(Lines(wire), sink)
    assert (bytes(sink.data), rx.settled) == (b"one", False)
    assert rx.pull(sink) is PullResult.CONTROL
    late = seal(tx, b"three")
    rx.read(Lines(late), sink)
    assert (bytes(sink.data), rx.settled) == (b"one", False)
    assert rx.take_control() == (21, b"\1\0")
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"onetwothree"


def test_a_parked_record_is_in_front_of_what_comes() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    rx.read(Lines(seal(tx, b"\1\0", 21)), sink)
    assert rx.pull(sink) is PullResult.CONTROL
    rx.read(Lines(seal(tx, b"two")), sink)
    assert (bytes(sink.data), rx.settled) == (b"", False)


def test_behind_a_key_update_nothing_is_opened_under_the_old_key() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    rx.read(Lines(seal(tx, b"\x18\0\0\1\0", 22)), sink)
    assert rx.pull(sink) is PullResult.CONTROL
    rx.take_control()
    new: Session = session(epoch=1)
    under_new = bytes(ENGINE.sealer(new).seal(23, [b"new"]))
    rx.read(Lines(under_new), sink)
    assert not rx.settled
    assert rx.pull(sink) is PullResult.REKEY
    rx.rekey(ENGINE.opener(new), new.suite)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"new"


def test_a_handshake_message_in_two_records_keeps_data_out_of_its_middle() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    rx.interleaves = False
    rx.read(Lines(seal(tx, b"\4\0\0\x08half", 22)), sink)
    assert rx.pull(sink) is PullResult.CONTROL
    rx.take_control()
    rx.read(Lines(seal(tx, b"data")), sink)
    assert not rx.settled
    with pytest.raises(Exception, match="amid"):
        rx.pull(sink)


def test_a_bad_record_is_pulls_to_refuse_behind_what_came_before_it() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    wire = seal(tx, b"one") + flipped(seal(tx, b"two"), -1)
    rx.read(Lines(wire), sink)
    assert (bytes(sink.data), rx.settled, rx.failed_crypto) == (b"one", False, 0)
    with pytest.raises(BadRecord):
        rx.pull(sink)
    assert rx.failed_crypto == 1


def test_who_looks_on_sees_each_record() -> None:
    """They go the same way, and one that is not as it should be is told once."""
    tx, rx, seen = transmitter(), receiver(), Watcher()
    rx.watch(seen)
    assert read_all(rx, seal(tx, b"one"), seal(tx, b"two")) == (b"onetwo", False)
    rx.read(Lines(seal(tx, b"alert", 21)), ListSink())
    assert rx.pull(ListSink()) is PullResult.CONTROL
    rx.take_control()
    told = [(23, 0, b"one"), (23, 1, b"two"), (21, 2, b"alert")]
    assert seen.told == told
    rx.watch(None)
    assert read_all(rx, seal(tx, b"three")) == (b"three", False)
    assert seen.told == told


def test_who_looks_on_is_told_once_of_a_bad_record() -> None:
    tx, rx, seen, sink = transmitter(), receiver(), Watcher(), ListSink()
    rx.watch(seen)
    rx.read(Lines(seal(tx, b"one") + flipped(seal(tx, b"two"), -1)), sink)
    with pytest.raises(BadRecord):
        rx.pull(sink)
    assert (bytes(sink.data), seen.told) == (b"one", [(23, 0, b"one"), ("refused", 1, b"")])


def test_a_pull_counts_what_was_just_opened() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    rx.read(Lines(b"".join(seal(tx, b"x") for _ in range(50))), sink)
    assert 0 < rx.records < 10
    assert rx.pull(sink, 10) is PullResult.ENOUGH
    assert rx.records == 10
    assert rx.pull(sink, 10) is PullResult.ENOUGH
    assert rx.records == 20


def test_the_end_of_the_stream_is_pulls_to_tell() -> None:
    rx, sink = receiver(), ListSink()
    assert rx.read(Lines(b""), sink) == 0
    assert not rx.settled
    assert rx.pull(sink) is PullResult.EOF


def test_nothing_there_changes_nothing() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    with pytest.raises(BlockingIOError):
        rx.read(Lines(), sink)
    rx.read(Lines(seal(tx, b"one")), sink)
    assert (bytes(sink.data), rx.settled) == (b"one", True)


def test_the_key_s_wear_is_seen() -> None:
    suite = receiver().suite
    assert suite is not None
    rx = receiver(sequence=suite.record_limit - 10)
    asked: list[bool] = []
    rx.on_wants_rekey = lambda: asked.append(True)
    rx._wanted_from = rx.sequence
    tx = transmitter(sequence=suite.record_limit - 10)
    read_all(rx, seal(tx, b"one"), seal(tx, b"two"))
    assert asked == [True]
