"""The receiving half: what is delivered, where it stops, and what it takes before a key."""

from __future__ import annotations

import errno

import pytest

from tests.conformance.world import KEY_UPDATE, TICKET
from tests.ktls.helpers import (
    AES128,
    ENGINE,
    ChunkSink,
    ListSink,
    flipped,
    receive,
    receiver,
    seal,
    session,
    transmitter,
)
from umktls.errors import CallerError
from umktls.ktls.session.errors import BadRecord, KeyExpired
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.ktls.socket.rxbuffer import INITIAL_SIZE, MAX_RECORD, ReceiveBuffer
from umktls.ktls.socket.states import State
from umktls.rpc.record import RecordReader, mark


def payloads(rx: Receiver) -> list[tuple[int, bytes]]:
    """Everything that read_record has to give, control records included."""
    found = []
    while (record := rx.read_record()) is not None:
        found.append((record.type, bytes(record.payload)))
        rx.consume(len(record.payload))
    return found


def test_data_in_one_piece() -> None:
    rx, sink = receiver(), ListSink()
    receive(rx, seal(transmitter(), b"hello"))
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"hello"
    assert (rx.records, rx.bytes, rx.control_records, rx.sequence) == (1, 5, 0, 1)
    assert rx.waiting_bytes() == 0


def test_data_byte_by_byte_is_delivered_when_its_record_is_whole() -> None:
    rx, sink = receiver(), ListSink()
    wire = seal(transmitter(), b"hello")
    for index in range(len(wire)):
        assert not sink.data
        assert rx.waiting_bytes() == index
        receive(rx, wire[index : index + 1])
        assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"hello"


def test_bulk_lands_in_the_sink_s_own_buffer() -> None:
    size = 1 << 20
    rx, sink = receiver(), ChunkSink([size])
    message = bytes(range(256)) * (size // 256)
    wire = seal(transmitter(), message)
    for start in range(0, len(wire), 100_000):
        receive(rx, wire[start : start + 100_000])
        rx.pull(sink)
    assert sink.data == message
    assert sink.landed == size


def test_a_record_that_straddles_two_chunks() -> None:
    rx, sink = receiver(), ChunkSink([10, 3])
    receive(rx, seal(transmitter(), b"0123456789abcdefghij"))
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"0123456789abcdefghij"
    assert sink.landed == 0


def test_into_the_rpc_layer_s_reader() -> None:
    tx, rx, reader = transmitter(), receiver(), RecordReader(1 << 21)
    messages = [b"a" * 100, b"b" * 300_000, b"", b"c" * 16384, b"d"]
    wire = b"".join(
        bytes(part)
        for message in messages
        for part in tx.seal_message((mark(len(message)), message))
    )
    for start in range(0, len(wire), 20_011):
        receive(rx, wire[start : start + 20_011])
        assert rx.pull(reader) is PullResult.MORE_NEEDED
    assert [bytes(message) for message in reader.messages()] == messages


def test_a_control_record_stops_and_stays() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, b"before") + seal(tx, TICKET, 22) + seal(tx, b"after"))
    assert rx.pull(sink) is PullResult.CONTROL
    assert sink.data == b"before"
    parked = rx.control
    assert parked == (22, TICKET)
    assert rx.pull(sink) is PullResult.CONTROL
    assert rx.take_control() == (22, TICKET)
    assert rx.control is None
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"beforeafter"
    assert (rx.records, rx.control_records) == (3, 1)


@pytest.mark.parametrize("size", [30, 1000])
def test_a_control_record_between_records_that_land_in_place(size: int) -> None:
    tx, rx, sink = transmitter(), receiver(), ChunkSink([size])
    receive(rx, seal(tx, b"x" * 10) + seal(tx, b"\1\0", 21) + seal(tx, b"y" * 15))
    assert rx.pull(sink) is PullResult.CONTROL
    assert rx.control == (21, b"\1\0")
    rx.discard_control()
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"x" * 10 + b"y" * 15
    assert rx.control is None


def test_no_control_record_to_take() -> None:
    rx = receiver()
    receive(rx, seal(transmitter(), b"data"))
    assert rx.read_record() is not None
    for attempt in (rx.take_control, rx.discard_control):
        with pytest.raises(CallerError):
            attempt()


def test_a_key_update_pauses_until_the_new_key_is_set() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, b"old") + seal(tx, KEY_UPDATE, 22))
    tx.rekey(ENGINE.sealer(session(epoch=1)), AES128)
    receive(rx, seal(tx, b"new"))
    assert rx.pull(sink) is PullResult.CONTROL
    assert rx.state is State.PAUSED
    assert rx.take_control() == (22, KEY_UPDATE)
    assert rx.pull(sink) is PullResult.REKEY
    assert rx.waiting_bytes() > 0
    with pytest.raises(KeyExpired) as caught:
        rx.read_record()
    assert caught.value.errno == errno.EKEYEXPIRED
    rx.rekey(ENGINE.opener(session(epoch=1)), AES128)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"oldnew"
    assert rx.sequence == 1


def test_a_key_update_pauses_read_record_as_well() -> None:
    tx, rx = transmitter(), receiver()
    receive(rx, seal(tx, KEY_UPDATE, 22) + seal(tx, b"under the old key"))
    assert rx.read_record() is not None
    rx.consume(len(KEY_UPDATE))
    with pytest.raises(KeyExpired):
        rx.read_record()


def test_where_nothing_is_rekeyed_a_key_update_is_like_any_record() -> None:
    tx, rx, sink = transmitter(), receiver(personality="freebsd14"), ListSink()
    receive(rx, seal(tx, KEY_UPDATE, 22) + seal(tx, b"data"))
    assert rx.pull(sink) is PullResult.CONTROL
    rx.discard_control()
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"data"


def test_a_key_update_is_a_handshake_record() -> None:
    tx, rx, sink = transmitter(), receiver(), ListSink()
    receive(rx, seal(tx, KEY_UPDATE) + seal(tx, KEY_UPDATE, 21) + seal(tx, b"", 22))
    assert rx.pull(sink) is PullResult.CONTROL
    rx.discard_control()
    assert rx.pull(sink) is PullResult.CONTROL
    rx.discard_control()
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == KEY_UPDATE


def test_read_record_one_at_a_time() -> None:
    tx, rx = transmitter(), receiver()
    receive(rx, seal(tx, b"one") + seal(tx, TICKET, 22) + seal(tx, b"") + seal(tx, b"two"))
    assert payloads(rx) == [(23, b"one"), (22, TICKET), (23, b""), (23, b"two")]


def test_pull_goes_on_in_the_middle_of_a_record() -> None:
    rx, sink = receiver(), ListSink()
    receive(rx, seal(transmitter(), b"half and half"))
    assert rx.read_record() is not None
    rx.consume(5)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"and half"


def test_consuming_nothing() -> None:
    with pytest.raises(CallerError):
        receiver().consume(1)


def test_bytes_that_were_there_before_the_key() -> None:
    rx, sink = Receiver(), ListSink()
    wire = seal(transmitter(), b"early bird")
    receive(rx, b"clear text" + wire[:9])
    assert rx.read_clear(10) == b"clear text"
    rx.enable(ENGINE.opener(session()), AES128)
    assert rx.waiting_bytes() == 9
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    receive(rx, wire[9:])
    rx.pull(sink)
    assert sink.data == b"early bird"


def test_enabling_twice_and_rekeying_too_early() -> None:
    rx = Receiver()
    opener = ENGINE.opener(session())
    with pytest.raises(CallerError) as caught:
        rx.rekey(opener, AES128)
    assert caught.value.errno == errno.EINVAL
    rx.enable(opener, AES128)
    with pytest.raises(CallerError) as caught:
        rx.enable(opener, AES128)
    assert caught.value.errno == errno.EALREADY


def test_clear_text() -> None:
    rx, sink = Receiver(), ListSink()
    receive(rx, b"0123456789")
    assert rx.read_clear(4, peek=True) == rx.read_clear(4) == b"0123"
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"456789"
    assert rx.read_record() is None
    rx.buffer_filled(0)
    assert rx.pull(sink) is PullResult.EOF
    with pytest.raises(CallerError):
        receiver().read_clear(1)


def test_clear_text_straight_into_the_sink() -> None:
    rx, sink = Receiver(), ChunkSink([10_000])
    room = rx.get_buffer(1, sink)
    assert len(room) == 10_000
    room[:7000] = b"a" * 7000
    rx.buffer_filled(7000)
    assert rx.pull(sink) is PullResult.MORE_NEEDED
    assert bytes(sink.data) == b"a" * 7000
    assert sink.landed == 7000
    assert len(rx.get_buffer(1, sink)) == INITIAL_SIZE  # too little space left to be lent
    rx.buffer_filled(0)
    assert rx.pull(sink) is PullResult.EOF


def test_nothing_is_lent_where_bytes_wait_or_records_are_opened() -> None:
    sink = ChunkSink([100_000])
    waiting = Receiver()
    receive(waiting, b"x")
    assert len(waiting.get_buffer(1, sink)) < 100_000
    assert len(receiver().get_buffer(1, sink)) == INITIAL_SIZE


def test_reading_a_parked_record_opens_nothing_behind_it() -> None:
    tx, rx, sink = transmitter(), receiver(personality="freebsd14"), ListSink()
    receive(rx, seal(tx, TICKET, 22) + flipped(seal(tx, b"bad"), 9) + seal(tx, b"behind"))
    assert rx.pull(sink) is PullResult.CONTROL
    assert rx.read_record() is not None
    assert len(rx.parked) == 1
    rx.consume(len(TICKET))
    with pytest.raises(BadRecord):
        rx.pull(sink)
    assert sink.data == b""


def test_a_control_record_that_was_read_in_part() -> None:
    rx = receiver()
    receive(rx, seal(transmitter(), TICKET, 22))
    assert rx.read_record() is not None
    rx.consume(2)
    assert rx.control == rx.take_control() == (22, TICKET[2:])


def test_header_of_a_half_without_a_key() -> None:
    with pytest.raises(CallerError):
        Receiver().check_header(bytes(5))


def test_what_is_put_in_front_may_fill_the_buffer() -> None:
    buffer = ReceiveBuffer(MAX_RECORD)
    buffer.prepend(bytes(MAX_RECORD))
    assert len(buffer) == MAX_RECORD
    with pytest.raises(CallerError) as refused:
        buffer.prepend(b"x")
    assert refused.value.errno == errno.ENOBUFS


def test_what_nobody_reads_any_more_is_given_back() -> None:
    tx, rx = transmitter(), receiver()
    receive(rx, seal(tx, b"opened") + seal(tx, b"not yet")[:-1])
    rx.open_ahead()
    assert (len(rx.parked), rx.waiting_bytes() > 0) == (1, True)
    rx.close()
    assert (len(rx.parked), rx.waiting_bytes()) == (0, 0)
