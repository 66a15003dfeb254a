"""Whatever is sent, however TCP cuts it, and whoever reads it: it arrives whole and in order."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.world import KEY_UPDATE
from tests.ktls.helpers import (
    ENGINE,
    SUITE_NAMES,
    ChunkSink,
    Lines,
    ListSink,
    receive,
    receiver,
    session,
    transmitter,
)
from tests.ktls.options.enabling import enable_socket
from umktls.abi.freebsd import MSG_EOR, MSG_PEEK, TlsGetRecord, parse_control_untrusted
from umktls.abi.personality import PERSONALITIES
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.session.errors import BadRecord, KeyExpired, RecordError, RecordVersion, WouldBlock
from umktls.ktls.session.suites import SUITES, Suite
from umktls.ktls.socket.rx import PullResult, Receiver
from umktls.ktls.socket.tx import Transmitter
from umktls.rpc.record import RecordReader, mark


@dataclass(frozen=True)
class Message:
    """One sendmsg. Of type 22 it is a whole handshake message; a rekey has a KeyUpdate behind it,
    in the same record as far as they fit, and a new key follows."""

    type: int
    sizes: tuple[int, ...] = ()
    rekey: bool = False

    def parts(self, seed: int) -> list[bytes]:
        """The payload in pieces, different for each message."""
        parts = [bytes([(seed * 31 + i) & 0x7F]) * size for i, size in enumerate(self.sizes)]
        if self.type == 22 and parts:
            parts.insert(0, b"\4" + sum(map(len, parts)).to_bytes(3, "big"))
        return [*parts, KEY_UPDATE] if self.rekey else parts


SIZES = st.lists(
    st.one_of(st.integers(0, 40), st.sampled_from([16383, 16384, 16385, 33000])), max_size=4
).map(tuple)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, type=st.just(23), sizes=SIZES),
        st.builds(Message, type=st.sampled_from([21, 22, 100]), sizes=SIZES),
        st.builds(Message, type=st.just(22), sizes=SIZES, rekey=st.just(True)),
    ),
    max_size=8,
)
SPLITS = st.lists(st.one_of(st.integers(1, 7), st.integers(1, 40_000)), min_size=1, max_size=5)
SINKS = st.one_of(
    st.builds(ListSink),
    st.builds(ChunkSink, st.lists(st.integers(1, 50_000), min_size=1, max_size=3)),
)


def sealed(messages: list[Message], suite: Suite) -> Iterator[bytes]:
    tx = transmitter(suite)
    epoch = 0
    for seed, message in enumerate(messages):
        yield b"".join(tx.seal_message(message.parts(seed), message.type))
        if message.rekey:
            epoch += 1
            tx.rekey(ENGINE.sealer(session(suite, epoch=epoch)), suite)


def pieces(wire: bytes, splits: list[int]) -> Iterator[bytes]:
    """Cut by `splits` over and over, and the far end of a long stream in large pieces."""
    start = turn = 0
    while start < len(wire):
        end = start + (splits[turn % len(splits)] if turn < 300 else 50_000)
        yield wire[start:end]
        start, turn = end, turn + 1


def expected_stream(messages: list[Message]) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """The application data, and each control record with its place in it."""
    data = b""
    controls: list[tuple[int, int, bytes]] = []
    for seed, message in enumerate(messages):
        payload = b"".join(message.parts(seed))
        if message.type == 23:
            data += payload
            continue
        cuts = range(0, len(payload), 16384) or [0]
        controls += [(len(data), message.type, payload[i : i + 16384]) for i in cuts]
    return data, controls


class Owner:
    """What a kernel does with a receiver: pull, hand control records on, set new keys."""

    def __init__(self, rx: Receiver, sink: ListSink, suite: Suite) -> None:
        self.rx, self.sink, self.suite = rx, sink, suite
        self.controls: list[tuple[int, int, bytes]] = []
        self.epoch = 0

    def pump(self) -> PullResult:
        while True:
            result = self.rx.pull(self.sink)
            if result is PullResult.CONTROL:
                self.controls.append((len(self.sink.data), *self.rx.take_control()))
            elif result is PullResult.REKEY:
                self.epoch += 1
                keys = session(self.suite, epoch=self.epoch)
                self.rx.rekey(ENGINE.opener(keys), self.suite)
            else:
                return result


@given(
    name=st.sampled_from(SUITE_NAMES),
    messages=MESSAGES,
    splits=SPLITS,
    sink=SINKS,
    reads=st.booleans(),
)
def test_pull_delivers_everything(
    name: str, messages: list[Message], splits: list[int], sink: ListSink, reads: bool
) -> None:
    suite = SUITES[name]
    owner = Owner(receiver(suite), sink, suite)
    for piece in pieces(b"".join(sealed(messages, suite)), splits):
        wire = Lines(piece)
        while reads and wire.pieces:
            owner.rx.read(wire, sink)
            assert owner.rx.settled or owner.pump() is PullResult.MORE_NEEDED
        if not reads:
            receive(owner.rx, piece)
        assert owner.pump() is PullResult.MORE_NEEDED
    owner.rx.buffer_filled(0)
    # A KeyUpdate at the very end is followed by nothing that would need its key.
    assert owner.pump() is PullResult.EOF
    assert (bytes(sink.data), owner.controls) == expected_stream(messages)


@given(
    messages=st.lists(SIZES.map(lambda sizes: b"".join(bytes([7]) * n for n in sizes)), max_size=8),
    splits=SPLITS,
    clear=st.booleans(),
)
def test_rpc_messages_arrive(messages: list[bytes], splits: list[int], clear: bool) -> None:
    """In clear through the reader's own buffer, or sealed."""
    tx = Transmitter() if clear else transmitter()
    rx = Receiver() if clear else receiver()
    reader = RecordReader(1 << 20)
    wire = b"".join(bytes(part) for m in messages for part in tx.seal_message((mark(len(m)), m)))
    for piece in pieces(wire, splits):
        view = memoryview(piece)
        while view:
            room = rx.get_buffer(1, reader)
            count = min(len(room), len(view))
            room[:count] = view[:count]
            rx.buffer_filled(count)
            view = view[count:]
            assert rx.pull(reader) is PullResult.MORE_NEEDED
    assert [bytes(m) for m in reader.messages()] == messages


@settings(max_examples=50)
@given(
    name=st.sampled_from(SUITE_NAMES),
    messages=MESSAGES,
    splits=SPLITS,
    reads=st.lists(
        st.tuples(st.one_of(st.integers(1, 50), st.just(20_000)), st.booleans()),
        min_size=1,
        max_size=6,
    ),
)
def test_recvmsg_gives_a_list_of_typed_records(
    name: str, messages: list[Message], splits: list[int], reads: list[tuple[int, bool]]
) -> None:
    suite = SUITES[name]
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["umktls"])
    enable_socket(socket, "rx", session(suite))
    records: list[tuple[int, bytes]] = []
    turn = epoch = 0
    for piece in pieces(b"".join(sealed(messages, suite)), splits):
        receive(socket.rx, piece)
        with contextlib.suppress(WouldBlock):
            while True:
                try:
                    length, peek = reads[turn % len(reads)]
                    turn += 1
                    peeked = socket.recvmsg(length, 24, MSG_PEEK) if peek else None
                    got = socket.recvmsg(length, 24)
                except KeyExpired:
                    epoch += 1
                    enable_socket(socket, "rx", session(suite, epoch=epoch))
                    continue
                assert peeked in (None, got)
                take(records, *got)
    assert records == expected_records(messages)


def take(records: list[tuple[int, bytes]], data: bytes, control: bytes, flags: int) -> None:
    """A control message begins a record; without one the record goes on."""
    if control:
        header = TlsGetRecord.unpack_untrusted(parse_control_untrusted(control)[0].data)
        records.append((header.tls_type, data))
        assert len(data) <= header.tls_length
        assert (flags == MSG_EOR) == (len(data) == header.tls_length)
    else:
        record_type, so_far = records[-1]
        records[-1] = (record_type, so_far + data)


def expected_records(messages: list[Message]) -> list[tuple[int, bytes]]:
    records = []
    for seed, message in enumerate(messages):
        payload = b"".join(message.parts(seed))
        cuts = range(0, len(payload), 16384) or [0]
        records += [(message.type, payload[i : i + 16384]) for i in cuts]
    return records


@given(data=st.binary(max_size=400), splits=SPLITS, sink=SINKS)
def test_any_bytes_are_data_or_a_documented_error(
    data: bytes, splits: list[int], sink: ListSink
) -> None:
    rx = receiver()
    for piece in pieces(data, splits):
        receive(rx, piece)
        with contextlib.suppress(RecordError):
            rx.pull(sink)
    rx.buffer_filled(0)
    with contextlib.suppress(RecordError):
        rx.pull(sink)
    assert not sink.data


@given(
    messages=MESSAGES.map(lambda messages: [m for m in messages if not m.rekey]).filter(bool),
    splits=SPLITS,
    place=st.integers(0, 1 << 30),
    mask=st.integers(1, 255),
    sink=SINKS,
)
def test_one_flipped_byte_is_exactly_one_error(
    messages: list[Message], splits: list[int], place: int, mask: int, sink: ListSink
) -> None:
    suite = SUITES["TLS_AES_128_GCM_SHA256"]
    wire = bytearray(b"".join(sealed(messages, suite)))
    starts = record_starts(wire)
    index = place % len(wire)
    number = bisect.bisect(starts, index) - 1
    in_record = index - starts[number]
    wire[index] ^= mask
    owner = Owner(receiver(suite), sink, suite)
    errors = [type(error) for error in owner_errors(owner, pieces(bytes(wire), splits))]
    records = expected_records(messages)
    if in_record >= 5:  # ciphertext or tag: that record is gone, and no other
        assert errors == [BadRecord]
        del records[number]
    elif in_record < 3:  # type or version: nothing more is believed
        assert errors == [RecordVersion]
        del records[number:]
    else:  # a length: what follows is anything, and none of it is delivered
        assert errors
        del records[number:]
    assert sink.data == b"".join(payload for type_, payload in records if type_ == 23)


def record_starts(wire: bytearray) -> list[int]:
    starts = [0]
    while starts[-1] < len(wire):
        start = starts[-1]
        starts.append(start + 5 + int.from_bytes(wire[start + 3 : start + 5], "big"))
    return starts[:-1]


def owner_errors(owner: Owner, pieces_of_wire: Iterator[bytes]) -> Iterator[RecordError]:
    """Everything goes in, then the end; all errors that the owner sees."""
    for piece in pieces_of_wire:
        receive(owner.rx, piece)
        yield from pump_through(owner)
    owner.rx.buffer_filled(0)
    yield from pump_through(owner)
    assert owner.rx.eof


def pump_through(owner: Owner) -> Iterator[RecordError]:
    while True:
        try:
            owner.pump()
        except RecordError as error:
            yield error
        else:
            return
