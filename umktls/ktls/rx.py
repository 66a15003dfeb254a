"""The receiving half of a KTLS socket: TCP's bytes in, records out, in order.

Theory of operation
-------------------
TCP's bytes are received into one buffer (`get_buffer`, `buffer_filled`) and leave it in one of two
ways. `pull` is the RPC layer's way: everything there is goes into a sink, each application record
decrypted to where its payload is wanted, without another copy, as long as the sink has room for all
of it in the message that it is assembling; a record that straddles two messages goes through
scratch memory. `read_record` is recvmsg(2)'s way: one record at a time.

Both stop at a record that is no application data: it is the `head`, and stays it until somebody
takes or discards it. That is how a kernel leaves alerts and tickets to the daemon. Behind a
KeyUpdate everything is under a key that is not here yet: the half is PAUSED until `rekey`.

Bytes that were received before the half was enabled, and not read, are records (or the beginning
of one) once it is: FreeBSD's sb_mtls, and the reason why a daemon must not read too far.

Faults are raised by the call that reaches them, after everything in front of them was delivered,
and once: a bad header or a truncated record ends the half (FreeBSD drops the connection); a record
that does not verify is gone, and the next call goes on behind it (Linux: it stays, and every call
fails). An RPC stream with a hole in it is worthless, so its owner has to close all the same.

In clear, `get_buffer` can lend out the sink's own buffer, so that bulk data lands where it belongs
at the first touch.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from umktls.errors import CallerError
from umktls.ktls.engines import DEST_SHORTER_BY, RECORD_HEADER_LENGTH, Buffer, Opener
from umktls.ktls.errors import BadRecord, KeyExpired, RecordError, RecordTruncated
from umktls.ktls.rxbuffer import MAX_SIZE, ReceiveBuffer
from umktls.ktls.states import RX_TRANSITIONS, Event, State, step
from umktls.ktls.suites import Suite

HANDSHAKE = 22
APPLICATION_DATA = 23
KEY_UPDATE = 24  # HandshakeType, RFC 8446 section 4

LEND_AT_LEAST = 4096  # below this a copy is cheaper than a system call of its own


class Sink(Protocol):
    """Where application data goes. The RecordReader of umktls.rpc is one."""

    def get_buffer(self, size_hint: int) -> memoryview:
        """Where the next bytes may be written, at least `size_hint` long."""

    def direct_space(self) -> int:
        """How many bytes still belong to what is being assembled; 0 where that is not known."""

    def advance(self, count: int) -> None:
        """That many bytes of the last get_buffer are data."""

    def feed(self, data: Buffer) -> None:
        """The copying way in."""


class PullResult(Enum):
    """Why `pull` stopped."""

    MORE_NEEDED = auto()  # the peer has to send more
    CONTROL = auto()  # a record of another type is at the head
    REKEY = auto()  # a KeyUpdate went by; `rekey` has to come first
    EOF = auto()  # nothing more will come, and everything was delivered


class Record:
    """An opened record, of which `offset` bytes have been read."""

    __slots__ = ("offset", "payload", "type")

    def __init__(self, type_: int, payload: memoryview) -> None:
        self.type = type_
        self.payload = payload
        self.offset = 0


class Receiver:
    """See the module's theory of operation.

    Attributes:
        records, bytes, control_records: opened so far, payload bytes in them, and how many of
            them were no application data.
        corrupted_records, failed_crypto: FreeBSD's counters of bad headers and of bad records.
        suite: of the key in use, None in clear.
    """

    def __init__(
        self,
        *,
        pause_for_rekey: bool = True,
        truncation_error: bool = True,
        bad_record_sticks: bool = False,
        max_buffer: int = MAX_SIZE,
    ) -> None:
        self.records = 0
        self.bytes = 0
        self.control_records = 0
        self.corrupted_records = 0
        self.failed_crypto = 0
        self.suite: Suite | None = None
        self._pause_for_rekey = pause_for_rekey
        self._truncation_error = truncation_error
        self._bad_record_sticks = bad_record_sticks
        self._buffer = ReceiveBuffer(max_buffer)
        self._opener: Opener | None = None
        self._state = State.CLEAR
        self._fin = False
        self._head: Record | None = None
        self._stuck: str | None = None  # the text of a bad record that stays
        self._lender: Sink | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def sequence(self) -> int:
        """Sequence number of the next record, 0 in clear."""
        return self._opener.sequence if self._opener else 0

    @property
    def eof(self) -> bool:
        """Nothing more will come, and nothing is left to read."""
        if self._head is not None or self._stuck is not None:
            return False
        return self._state is State.BROKEN or (self._fin and not self._buffer)

    def waiting_bytes(self) -> int:
        """Bytes from TCP that were neither opened nor, in clear, read."""
        return len(self._buffer)

    # Keys

    def enable(self, opener: Opener, suite: Suite) -> None:
        """Open records from the first unread byte on.

        Raises:
            CallerError: EALREADY where records are opened already.
        """
        self._set(opener, suite, Event.ENABLE)

    def rekey(self, opener: Opener, suite: Suite) -> None:
        """Go on under a new key. Raises CallerError (EINVAL) where there is no old one."""
        self._set(opener, suite, Event.NEW_KEY)

    def _set(self, opener: Opener, suite: Suite, event: Event) -> None:
        self._state = step(RX_TRANSITIONS, self._state, event, "receiving")
        self._opener = opener
        self.suite = suite

    # TCP's bytes in

    def get_buffer(self, size_hint: int = 1, sink: Sink | None = None) -> memoryview:
        """Where the next bytes from TCP go, never empty; then comes `buffer_filled`.

        With a sink, and while nothing is enabled or buffered, this may be the sink's own buffer.

        Raises:
            CallerError: ENOBUFS, the buffer is full: somebody has to read first.
        """
        self._lender = None
        if sink is not None and self._opener is None and not self._buffer:
            space = sink.direct_space()
            if space >= LEND_AT_LEAST:
                self._lender = sink
                return sink.get_buffer(space)[:space]
        return self._buffer.room(size_hint)

    def buffer_filled(self, count: int) -> None:
        """That many bytes of the last get_buffer came from TCP; 0 is the end of its stream."""
        if not count:
            self._fin = True
        elif self._lender is not None:
            self._lender.advance(count)
        else:
            self._buffer.filled(count)
            if self._state is State.BROKEN:
                self._buffer.start = self._buffer.end

    def trim(self) -> None:
        """Give memory back on an idle connection. Not between get_buffer and buffer_filled."""
        self._buffer.trim()

    # Everything into a sink

    def pull(self, sink: Sink) -> PullResult:
        """Move all application data there is into the sink, and say why it stopped.

        Raises:
            RecordError: what came before the bad record is in the sink.
        """
        while True:
            head = self._head
            if head is not None:
                if head.type != APPLICATION_DATA:
                    return PullResult.CONTROL
                self._head = None
                sink.feed(head.payload[head.offset :])
            if self._opener is None:
                self._pull_clear(sink)
                return self._out_of_data()
            if self._state is not State.SEALED or not self._pull_records(sink, self._opener):
                return self._out_of_data()

    def _pull_clear(self, sink: Sink) -> None:
        buffer = self._buffer
        if buffer:
            sink.feed(buffer.view[buffer.start : buffer.end])
            buffer.start = buffer.end

    def _pull_records(self, sink: Sink, opener: Opener) -> bool:
        """Whether a control record stopped it, rather than the lack of a whole record."""
        while size := self._next_size(opener):
            space = sink.direct_space()
            if size - opener.overhead <= space:
                self._open_run(sink, opener, size, space)
            else:
                head = self._open_head(opener, size)
                if head.type == APPLICATION_DATA:
                    self._head = None
                    sink.feed(head.payload)
            if self._head is not None:
                return True
        return False

    def _open_run(self, sink: Sink, opener: Opener, size: int, space: int) -> None:
        """Open records one behind the other into the sink's buffer while they fit `space`.

        `size` is the first record's. What an engine may write behind a payload goes where the next
        payload will be, or behind `space`, where a sink has a few bytes to spare.
        """
        dest = sink.get_buffer(space + opener.overhead - DEST_SHORTER_BY)
        limit = space + opener.overhead
        buffer = self._buffer
        view = buffer.view
        landed = records = 0
        try:
            while size and landed + size <= limit:
                start = buffer.start
                buffer.start = end = start + size
                try:
                    type_, length = opener.open(view[start:end], dest[landed : landed + size])
                except RecordError as error:
                    self._fault(error)
                    raise
                if type_ != APPLICATION_DATA:
                    payload = memoryview(dest[landed : landed + length].tobytes())
                    self._count(1, length)
                    self._park(Record(type_, payload))
                    break
                records += 1
                landed += length
                size = self._next_size(opener)
        finally:
            self._count(records, landed)
            sink.advance(landed)

    # One record at a time

    def read_record(self) -> Record | None:
        """The record at the head, None where no whole record is there. It stays the head.

        In clear there are no records: see `read_clear`.

        Raises:
            RecordError: this record, or the end of the stream, is bad.
            KeyExpired: a KeyUpdate went by; `rekey` has to come first.
        """
        if self._head is None and self._opener is not None:
            if self._state is State.PAUSED and not self.eof:
                raise KeyExpired("the peer has changed its key, and the new one has not been set")
            if self._state is State.SEALED and (size := self._next_size(self._opener)):
                return self._open_head(self._opener, size)
            self._out_of_data()
        return self._head

    def consume(self, count: int) -> None:
        """That many bytes of the head were read; at its end the next record's turn has come."""
        head = self._head
        if head is None:
            raise CallerError("there is no record to consume")
        head.offset += count
        if head.offset >= len(head.payload):
            self._head = None

    def read_clear(self, length: int, *, peek: bool = False) -> bytes:
        """Up to `length` bytes of what was received in clear, empty where there is none."""
        if self._opener is not None:
            raise CallerError("this half receives records; there are no clear bytes")
        buffer = self._buffer
        end = min(buffer.start + length, buffer.end)
        data = buffer.view[buffer.start : end].tobytes()
        if not peek:
            buffer.start = end
        return data

    # Control records

    @property
    def control(self) -> tuple[int, bytes] | None:
        """Type and payload of the record at the head, where it is no application data."""
        head = self._head
        if head is None or head.type == APPLICATION_DATA:
            return None
        return head.type, bytes(head.payload)

    def take_control(self) -> tuple[int, bytes]:
        """`control`, which is the head no longer. Raises CallerError where there is none."""
        control = self.control
        if control is None:
            raise CallerError("no control record is at the head")
        self._head = None
        return control

    def discard_control(self) -> None:
        """Drop the control record at the head. A KeyUpdate's effect stays."""
        self.take_control()

    # Inside

    def _next_size(self, opener: Opener) -> int:
        """Length of the next record, 0 where it is not complete."""
        if self._stuck is not None:
            raise BadRecord(self._stuck)
        buffer = self._buffer
        start = buffer.start
        available = buffer.end - start
        if available < RECORD_HEADER_LENGTH:
            return 0
        view = buffer.view
        size = RECORD_HEADER_LENGTH + (view[start + 3] << 8 | view[start + 4])
        if size <= available:
            return size
        try:
            opener.check_header(view[start : start + RECORD_HEADER_LENGTH])
        except RecordError as error:
            self._fault(error)
            raise
        return 0

    def _open_head(self, opener: Opener, size: int) -> Record:
        """Open the next record, of that size, into memory of its own and make it the head."""
        scratch = memoryview(bytearray(size))
        buffer = self._buffer
        start = buffer.start
        buffer.start = end = start + size
        try:
            type_, length = opener.open(buffer.view[start:end], scratch)
        except RecordError as error:
            self._fault(error)
            raise
        self._count(1, length)
        return self._park(Record(type_, scratch[:length]))

    def _count(self, records: int, payload: int) -> None:
        self.records += records
        self.bytes += payload

    def _park(self, record: Record) -> Record:
        self._head = record
        if record.type != APPLICATION_DATA:
            self.control_records += 1
            if self._pause_for_rekey and _is_key_update(record):
                self._state = step(RX_TRANSITIONS, self._state, Event.KEY_UPDATE, "receiving")
        return record

    def _fault(self, error: RecordError) -> None:
        if isinstance(error, BadRecord):
            self.failed_crypto += 1
            self._stuck = str(error) if self._bad_record_sticks else None
        else:
            self.corrupted_records += 1
        if error.fatal:
            self._state = step(RX_TRANSITIONS, self._state, Event.FAULT, "receiving")
            self._buffer.start = self._buffer.end

    def _out_of_data(self) -> PullResult:
        """Why there is no record; the end of the stream inside one is an error where it counts."""
        if self._state is State.PAUSED and not self.eof:
            return PullResult.REKEY
        if self._fin and self._buffer and self._opener is not None:
            waiting = len(self._buffer)
            self._state = step(RX_TRANSITIONS, self._state, Event.FAULT, "receiving")
            self._buffer.start = self._buffer.end
            if self._truncation_error:
                self.corrupted_records += 1
                raise RecordTruncated(f"the stream ended {waiting} bytes into a record")
        return PullResult.EOF if self.eof else PullResult.MORE_NEEDED


def _is_key_update(record: Record) -> bool:
    return record.type == HANDSHAKE and bytes(record.payload[:1]) == bytes([KEY_UPDATE])
