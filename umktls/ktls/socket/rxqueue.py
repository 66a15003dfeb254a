"""The receiving half of a KTLS socket from TCP's side: bytes in, records opened and parked.

TCP's bytes are received into one buffer (`get_buffer`, `buffer_filled`). How they leave it is in
rx.py. Bytes that were received before the half was enabled, and not read, are records (or the
beginning of one) once it is: FreeBSD's sb_mtls, and the reason why a daemon must not read too far.
What it has read too far it can give back (`give_back`).

A record that is no application data is *parked* at the head of the queue until somebody takes or
discards it. Behind a KeyUpdate (see keyupdate.py) everything is under a key that is not here yet:
the half is PAUSED until `rekey`.

Faults
------
Whoever opens a bad record is told by an exception. What it means for the half is the personality's:

- A header that cannot be: nothing behind it can be found. FreeBSD drops the connection; Linux only
  stops reception, which fails once and then waits for data that never comes.
- A record that does not open: FreeBSD throws it away, and because it opens records as they arrive,
  readers get the good ones behind it first and the error when nothing else is queued (so_error).
  Linux leaves it where it is and fails every read; only a new key helps.
- The end of the stream inside a record: no error for Linux.

A fault that waits for its reader is `error` (so_error, sk_err).

In clear, `get_buffer` can lend out the sink's own buffer, so that bulk data lands where it belongs
at the first touch.
"""

from __future__ import annotations

from collections import deque

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.engines import (
    RECORD_HEADER_LENGTH,
    Buffer,
    Opener,
    RunOpener,
    ShortOpener,
    run_opener_of,
    short_opener_of,
)
from umktls.ktls.session.counters import Counters
from umktls.ktls.session.errors import RecordError, RecordInterleaved, RecordTruncated
from umktls.ktls.session.suites import Suite
from umktls.ktls.socket.half import Half
from umktls.ktls.socket.keyupdate import HANDSHAKE, KeyUpdates
from umktls.ktls.socket.received import APPLICATION_DATA, Record, Sink
from umktls.ktls.socket.rxbuffer import INITIAL_SIZE, MAX_SIZE, ReceiveBuffer
from umktls.ktls.socket.states import RX_TRANSITIONS, Event, State
from umktls.ktls.socket.tap import RxWatcher, watched_opener

SEQUENCE_END = 2**64

# Looked at for every message: to ask an enumeration for a member costs ten times as much.
BROKEN = State.BROKEN

LEND_AT_LEAST = 4096  # below this a copy is cheaper than a system call of its own


class RecordQueue(Half):
    """What a receiving half holds, and how it gets there. `Receiver` adds the ways out.

    Attributes:
        records, bytes, control_records: opened so far, payload bytes in them, and how many of
            them were no application data.
        corrupted_records, failed_crypto: of this half, as in Counters.
        suite: of the key in use, None in clear.
        tally: where the host counts opened records.
        error: a fault, or the loss of the connection, that waits for its reader.
        truncated: the stream ended inside a record.
        wants_rekey, on_wants_rekey: as Transmitter's, for the peer's key.
        interleaves: other records may come in the middle of a handshake message, as in TLS 1.2.
    """

    def __init__(
        self,
        personality: Personality = DEFAULT_PERSONALITY,
        counters: Counters | None = None,
        *,
        max_buffer: int = MAX_SIZE,
    ) -> None:
        super().__init__(RX_TRANSITIONS, "receiving")
        self.control_records = 0
        self.corrupted_records = 0
        self.failed_crypto = 0
        self.error: UmktlsError | None = None
        self.truncated = False
        self.interleaves = False
        self.rules = personality.receiving
        self._keys = personality.keys
        self._counters = counters or Counters()
        self.drained = self.settled = False
        self._just_opened = 0  # records, by the last `read`
        self._buffer = ReceiveBuffer(max_buffer)
        self._updates = KeyUpdates(first_byte=self.rules.key_update == "first byte")
        self._opener: Opener | None = None
        self._open_many: RunOpener | None = None
        self._open_short: ShortOpener | None = None
        self._watcher: RxWatcher | None = None
        self._header_length = RECORD_HEADER_LENGTH
        self._early_header = self.rules.early_header
        self._fin = False
        self._dropped = False
        self._lost = False
        self._hole: RecordError | None = None  # a record was lost among those that are parked
        self._parked: deque[Record] = deque()
        self._lender: Sink | None = None
        self._offered = 0  # of the last get_buffer
        self._wanted_from = SEQUENCE_END  # when to ask for another key

    def watch(self, watcher: RxWatcher | None) -> None:
        """Have `watcher` look on from now on; None: nobody."""
        self._watcher = self._looks_on = watcher
        if self._opener is not None:
            self._use(self._opener)

    @property
    def sequence(self) -> int:
        """Sequence number of the next record, 0 in clear."""
        return self._opener.sequence if self._opener else 0

    @property
    def eof(self) -> bool:
        """Nothing more will come, and nothing is left to read."""
        return self._nothing_comes and not self._parked and self.error is None

    @property
    def _nothing_comes(self) -> bool:
        """No record will be opened any more: for what is behind a KeyUpdate no key comes either."""
        if self._lost and self._state is State.PAUSED:
            return True
        return self._dropped or (self._fin and not self._buffer)

    @property
    def ended(self) -> bool:
        """Nothing more will come; something may be left to read."""
        return self._fin or self._dropped

    @property
    def dropped(self) -> bool:
        """A bad header has cost the connection."""
        return self._dropped

    def waiting_bytes(self) -> int:
        """Bytes from TCP that were neither opened nor, in clear, read."""
        return len(self._buffer)

    def waiting(self) -> bytes:
        """The bytes that `waiting_bytes` counts."""
        return self._buffer.view[self._buffer.start : self._buffer.end].tobytes()

    def check_header(self, header: Buffer) -> int:
        """Size of the record with that header under the key in use; raises RecordError."""
        if self._opener is None:
            raise CallerError("there are no records without a key")
        return self._opener.check_header(header)

    # Keys

    def enable(
        self, opener: Opener, suite: Suite, header_length: int = RECORD_HEADER_LENGTH
    ) -> None:
        """Open records from the first unread byte on; see Framing.needed for `header_length`.

        Raises:
            CallerError: EALREADY where records are opened already.
        """
        self._set(opener, suite, header_length, Event.ENABLE)

    def rekey(
        self, opener: Opener, suite: Suite, header_length: int = RECORD_HEADER_LENGTH
    ) -> None:
        """Go on under a new key. Raises CallerError (EINVAL) where there is no old one."""
        self._set(opener, suite, header_length, Event.NEW_KEY)

    def _set(self, opener: Opener, suite: Suite, header_length: int, event: Event) -> None:
        self._go(event)
        self._use(opener)
        self._header_length = header_length
        self.suite = suite
        self.wants_rekey = False
        if self._keys.limits:
            self._wanted_from = min(opener.sequence + suite.record_limit * 3 // 4, SEQUENCE_END)

    def _use(self, opener: Opener) -> None:
        self._opener = watched_opener(opener, self._watcher)
        self._open_many = run_opener_of(self._opener)
        self._open_short = short_opener_of(self._opener)

    # TCP's bytes in

    def get_buffer(self, size_hint: int = 1, sink: Sink | None = None) -> memoryview:
        """Where the next bytes from TCP go, never empty; then comes `buffer_filled`.

        With a sink, and while nothing is enabled or buffered, this may be the sink's own buffer.

        Raises:
            CallerError: ENOBUFS, the buffer is full: somebody has to read first.
        """
        self._lender = None
        buffer = self._buffer
        if sink is not None and self._opener is None and buffer.start == buffer.end:
            space = sink.direct_space()
            if space >= LEND_AT_LEAST:
                self._lender = sink
                self._offered = space
                return sink.get_buffer(space)[:space]
        room = buffer.room(size_hint)
        self._offered = len(room)
        return room

    def buffer_filled(self, count: int) -> None:
        """That many bytes of the last get_buffer came from TCP; 0 is the end of its stream."""
        self.drained, self.settled = count < self._offered, False
        if not count:
            self._fin = True
        elif self._lender is not None:
            self._lender.advance(count)
        else:
            self._buffer.filled(count)
            if self._state is BROKEN:
                self._buffer.clear()

    def lost(self, error: UmktlsError) -> None:
        """TCP has lost the connection: nothing more will come, and behind what is there stands
        `error`."""
        if not self._dropped:
            self.error = error
        self._fin = self._lost = True
        self.settled = False

    @property
    def spacious(self) -> bool:
        """The buffer is larger than an idle connection needs."""
        return len(self._buffer.view) > INITIAL_SIZE

    def trim(self) -> None:
        """Give memory back on an idle connection. Not between get_buffer and buffer_filled."""
        self._buffer.trim()

    def close(self) -> None:
        """Nobody reads any more: give memory back."""
        self._buffer.clear()
        self._buffer.trim()
        self._parked.clear()

    # Bytes that were taken out too far

    def give_back(self, wire: Buffer, records: int) -> None:
        """Put bytes in front of those that wait, and count back `records` of the records in them.

        Raises:
            CallerError: ENOBUFS, they do not fit.
        """
        self._buffer.prepend(wire)
        if self._opener is not None:
            self._opener.sequence = (self._opener.sequence - records) % SEQUENCE_END

    def give_back_data(self, data: Buffer, type_: int = APPLICATION_DATA) -> None:
        """Application data that somebody has opened already, to be read before everything else; or
        another record's."""
        self._parked.appendleft(Record(type_, memoryview(bytes(data))))

    # The end

    def take_error(self) -> UmktlsError | None:
        """`error`, which has found its reader."""
        error, self.error = self.error, None
        return error

    # Records opened, for the ways out

    def _next_size(self, opener: Opener) -> int:
        """Length of the next record, 0 where it is not complete."""
        buffer = self._buffer
        start = buffer.start
        available = buffer.end - start
        if available < self._header_length:
            return 0
        view = buffer.view
        size = RECORD_HEADER_LENGTH + (view[start + 3] << 8 | view[start + 4])
        if size <= available:
            return size
        if self._early_header:
            self._judge(opener)
        return 0

    def _judge(self, opener: Opener) -> None:
        """Refuse the next header if it cannot be, as far as it is there."""
        buffer = self._buffer
        if len(buffer) < self._header_length:
            return
        header = buffer.view[buffer.start : buffer.start + RECORD_HEADER_LENGTH]
        try:
            opener.check_header(header)
        except RecordError as error:
            self._fault(error)
            raise

    def _open_next(self, opener: Opener, size: int) -> Record:
        """Open the next record, of that size, into memory of its own and park it."""
        return self._park(Record(*self._open_apart(opener, size)))

    def _open_apart(self, opener: Opener, size: int) -> tuple[int, memoryview]:
        """Type and payload of the next record, of that size, opened into memory of its own."""
        scratch = memoryview(bytearray(size))
        buffer = self._buffer
        start = buffer.start
        buffer.start = end = start + size
        try:
            type_, length = opener.open(buffer.view[start:end], scratch)
        except RecordError as error:
            self._fault(error, size)
            raise
        self._count(1, length)
        return type_, scratch[:length]

    def _count(self, records: int, payload: int) -> None:
        self.records += records
        self.tally.decrypts += records
        self.bytes += payload
        opener = self._opener
        if opener is not None and opener.sequence >= self._wanted_from:
            self._want_rekey()

    def _want_rekey(self) -> None:
        if not self.wants_rekey:
            self.wants_rekey = True
            if self.on_wants_rekey is not None:
                self.on_wants_rekey()

    def _park(self, record: Record) -> Record:
        if record.type != HANDSHAKE and self._updates.unfinished:
            self._refuse_interleaved(record)
        self._parked.append(record)
        if record.type != APPLICATION_DATA:
            self.control_records += 1
            if record.type == HANDSHAKE:
                self._look_for_key_update(record)
        return record

    def _refuse_interleaved(self, record: Record) -> None:
        """A handshake message was begun and something else follows (RFC 8446 section 5.1)."""
        if self.interleaves or self.rules.interleaved == "passed":
            return
        error = RecordInterleaved(f"a record of type {record.type} amid a handshake message")
        self._fault(error)
        raise error

    def _look_for_key_update(self, record: Record) -> None:
        record.key_update = self._updates.in_record(record.payload)
        if record.key_update and self._keys.rekey:
            self._go(Event.KEY_UPDATE)
            self._counters.rekeys_received += 1

    def _fault(self, error: RecordError, size: int = 0) -> None:
        """Note what a bad record, of `size` bytes, means for this half and for its counters."""
        self._updates.forget()
        if error.fatal:
            self.corrupted_records += 1
            self._counters.corrupted_records += 1
            self._break()
            self._dropped = self.rules.bad_header == "drops"
            return
        self.failed_crypto += 1
        self._counters.failed_crypto += 1
        if self.rules.bad_record == "stays" and self._opener is not None:
            self._buffer.start -= size
            if self._opener.sequence < SEQUENCE_END:
                self._opener.sequence -= 1
            self.error = error

    def _break(self) -> None:
        self._go(Event.FAULT)
        self._buffer.clear()

    def _note_truncation(self) -> None:
        if not (self._fin and self._buffer and self._state is State.SEALED):
            return
        text = f"the stream ended {len(self._buffer)} bytes into a record"
        self._break()
        self.truncated = True
        # FreeBSD's so_error has room for one, the last: this hides that the connection was reset.
        if self.rules.truncated == "error, then wait" or (
            self.rules.truncated == "error, then end" and self.error is None
        ):
            self.error = RecordTruncated(text)
