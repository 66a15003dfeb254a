"""The receiving half of a KTLS socket: TCP's bytes in, records out, in order.

Theory of operation
-------------------
TCP's bytes are received into one buffer (rxqueue.py) and leave it in one of two ways. `pull` is the
RPC layer's way: everything there is goes into a sink, each application record decrypted to where
its payload is wanted, without another copy, as long as the sink has room for all of it in the
message that it is assembling; a record that straddles two messages goes through scratch memory.
`read_record` is recvmsg(2)'s way: one record at a time.

Both stop at a record that is no application data, which is parked at the head of the queue. That is
how a kernel leaves alerts and tickets to the daemon.

`pull` raises a fault when it comes to it, after everything in front of it was delivered, and once:
an RPC stream with a hole in it is worthless. What recvmsg makes of faults is the personality's.
"""

from __future__ import annotations

import sys
from collections import deque

from umktls.errors import CallerError
from umktls.ktls.engines import DEST_SHORTER_BY, RECORD_HEADER_LENGTH, Opener
from umktls.ktls.session.errors import KeyExpired, RecordError
from umktls.ktls.socket.received import APPLICATION_DATA, Record, Sink, Wire
from umktls.ktls.socket.received import PullResult as PullResult
from umktls.ktls.socket.rxbuffer import INITIAL_SIZE
from umktls.ktls.socket.rxqueue import RecordQueue
from umktls.ktls.socket.states import State

# Looked at for every message: to ask an enumeration for a member costs ten times as much.
SEALED, PAUSED, MORE_NEEDED = State.SEALED, State.PAUSED, PullResult.MORE_NEEDED
LONG_RECORD = 4096  # several of these and more are opened at a time
AT_ONCE = 8  # so many short records are opened as they came; they count for the next pull
CLEAR_RECORD = 4096  # what counts as a record where there are none


class Receiver(RecordQueue):
    """The ways out of the queue: into a sink, or record by record."""

    # From TCP into a sink

    def read(self, wire: Wire, sink: Sink) -> int:
        """Receive once, what the wire has; how many bytes. What is not in the sink behind it is for
        `pull`; `settled`: nothing is.

        While little comes and nothing waits, a short record is mostly there alone and whole. Then
        it is opened as it came, and never sees the buffer. Raises what the wire does.
        """
        buffer = self._buffer
        if not buffer.little or buffer.start != buffer.end:
            count = wire.recv_into(self.get_buffer(1, sink))
            self.buffer_filled(count)
            return count
        self.settled, before = False, self.records
        data = wire.recv(INITIAL_SIZE)
        count = len(data)
        taken = self._take(data, count, sink)
        if taken == count and count:
            self.drained = self.settled = True
        else:
            self._just_opened = self.records - before
            room = self.get_buffer(1)
            room[: count - taken] = data[taken:]
            self.buffer_filled(count - taken)
            self.drained = count < INITIAL_SIZE
        return count

    def _take(self, data: bytes, count: int, sink: Sink) -> int:
        """Have the sink get the whole records in front, as far as they are application data and
        nothing is special about them, or what came in clear; how many bytes that was. What fills a
        read is for the buffer, which grows then."""
        if self._parked or self._hole or self.error or self._fin or count == INITIAL_SIZE:
            return 0
        open_short = self._open_short
        if open_short is None:
            if self._opener is not None:
                return 0
            sink.feed(data)
            return count
        if self._state is not SEALED or self._updates.unfinished:
            return 0
        start, until = 0, self.records + AT_ONCE
        while start + RECORD_HEADER_LENGTH < count and self.records < until:
            end = start + RECORD_HEADER_LENGTH + (data[start + 3] << 8 | data[start + 4])
            if end > count:
                break
            payload = open_short(data[start:end])
            if payload is None:
                break
            self._count(1, len(payload))
            sink.feed(payload)
            start = end
        return start

    # Everything into a sink

    def pull(self, sink: Sink, records: int = sys.maxsize) -> PullResult:
        """Move all application data there is into the sink, and say why it stopped; at the latest
        after that many more records were opened (with those of the last `read`), each of which may
        hold nothing.

        Raises:
            RecordError: what came before the bad record is in the sink, unless somebody had
                records opened ahead; what came behind it never is.
        """
        if self._hole is not None:
            error, self._hole, self.error = self._hole, None, None
            raise error
        until = self.records + records
        if self._just_opened:
            until, self._just_opened = until - self._just_opened, 0
        while True:
            while self._parked:
                head = self._parked[0]
                if head.type != APPLICATION_DATA:
                    return PullResult.CONTROL
                self._parked.popleft()
                sink.feed(head.rest)
            if self._opener is None:
                self._pull_clear(sink, records * CLEAR_RECORD)
                return PullResult.ENOUGH if len(self._buffer) else self._out_of_data()
            if self._state is not SEALED:
                return self._out_of_data()
            if not self._pull_records(sink, self._opener, until):
                return PullResult.ENOUGH if self.records >= until else self._out_of_data()

    def _pull_clear(self, sink: Sink, limit: int) -> None:
        buffer = self._buffer
        start, end = buffer.start, buffer.end
        if start < end:
            buffer.start = end = min(end, start + limit)
            sink.feed(buffer.view[start:end])

    def _pull_records(self, sink: Sink, opener: Opener, until: int) -> bool:
        """Whether a control record stopped it, rather than the lack of a whole record, or that
        there were enough."""
        buffer = self._buffer
        while self.records < until and (size := self._next_size(opener)):
            space = sink.direct_space()
            if size - opener.overhead <= space and not self._updates.unfinished:
                self._open_run(sink, opener, size, space, until - self.records)
            else:
                type_, payload = self._open_apart(opener, size)
                if type_ == APPLICATION_DATA:
                    if self._updates.unfinished:
                        self._refuse_interleaved(Record(type_, payload))
                    sink.feed(payload)
                else:
                    self._park(Record(type_, payload))
            if self._parked:
                return True
            if buffer.start == buffer.end:  # mostly there is no more
                return False
        return False

    def _open_run(self, sink: Sink, opener: Opener, size: int, space: int, most: int) -> None:
        """Open records one behind the other into the sink's buffer while they fit `space`, `most`
        at most.

        `size` is the first record's. What an engine may write behind a payload goes where the next
        payload will be, or behind `space`, where a sink has a few bytes to spare.
        """
        dest = sink.get_buffer(space + opener.overhead - DEST_SHORTER_BY)
        limit = space + opener.overhead
        buffer = self._buffer
        view = buffer.view
        landed = records = 0
        try:
            if size >= LONG_RECORD:
                payload = size - opener.overhead
                records = self._open_alike(size, dest, min(most, space // payload))
                landed = records * payload
                if records:
                    size = self._next_size(opener)
            while size and landed + size <= limit and records < most:
                start = buffer.start
                buffer.start = end = start + size
                try:
                    type_, length = opener.open(view[start:end], dest[landed : landed + size])
                except RecordError as error:
                    self._fault(error, size)
                    raise
                if type_ != APPLICATION_DATA:
                    content = memoryview(dest[landed : landed + length].tobytes())
                    self._count(1, length)
                    self._park(Record(type_, content))
                    break
                records += 1
                landed += length
                size = self._next_size(opener)
        finally:
            self._count(records, landed)
            sink.advance(landed)

    def _open_alike(self, size: int, dest: memoryview, most: int) -> int:
        """Open records of that size, as many as there are, `most` at most; how many. None of them
        is special, and what stopped it is for `_open_run` to find."""
        buffer = self._buffer
        start, end = buffer.start, buffer.end
        most = min(most, (end - start) // size)
        if self._open_many is None or most < 2:
            return 0
        records = self._open_many(buffer.view[start:end], size, dest, most)
        buffer.start = start + records * size
        return records

    # One record at a time

    def read_record(self) -> Record | None:
        """The record at the head, None where no whole record is there. It stays the head.

        In clear there are no records: see `read_clear`.

        Raises:
            RecordError: this record, or the end of the stream, is bad.
            KeyExpired: a KeyUpdate went by; `rekey` has to come first.
        """
        if self.rules.decrypts_ahead and not self._parked:
            self.open_ahead()
        return self._parked[0] if self._parked else self.open_another()

    def open_ahead(self) -> None:
        """Open everything there is, as it arrives; bad records are remembered as `error`.

        A header that follows a record is judged with it, as FreeBSD's worker does.
        """
        opener = self._opener
        while opener is not None and self._state is State.SEALED:
            try:
                size = self._next_size(opener)
                if not size:
                    self._note_truncation()
                    return
                self._open_next(opener, size)
                self._judge(opener)
            except RecordError as error:
                self.error = error
                if not error.fatal:
                    self._hole = error

    def open_another(self, no_pad_room: int = -1) -> Record | None:
        """Open the record behind those that are parked; None where there is no whole one.

        Linux opens a record that fits `no_pad_room` in the hope that it is unpadded application
        data (TLS_RX_EXPECT_NO_PAD), and counts where it is not. Raises as `read_record`.
        """
        if self._opener is None:
            return None
        if self._state is State.PAUSED and (
            self.rules.key_update_hides_end or not self._nothing_comes
        ):
            raise KeyExpired("the peer has changed its key, and the new one has not been set")
        if self._state is State.SEALED and (size := self._next_size(self._opener)):
            record = self._open_next(self._opener, size)
            if size - self._opener.overhead <= no_pad_room:
                self._count_retry(record, size)
            return record
        self._out_of_data()
        return None

    def record_ready(self) -> bool:
        """Whether a whole record waits to be opened. A bad header becomes `error`."""
        opener = self._opener
        if opener is None or self._state is not State.SEALED:
            return False
        try:
            if self._early_header:
                self._judge(opener)
            return bool(self._next_size(opener))
        except RecordError as error:
            self.error = error
            return False

    @property
    def parked(self) -> deque[Record]:
        """Records that were opened and not read to their end. Not to be changed."""
        return self._parked

    def consume(self, count: int) -> None:
        """That many bytes of the head were read; at its end the next record's turn has come."""
        if not self._parked:
            raise CallerError("there is no record to consume")
        head = self._parked[0]
        head.offset += count
        if head.offset >= len(head.payload):
            self._parked.popleft()

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
        """Type and unread payload of the record at the head, unless it is application data."""
        head = self.control_head
        return None if head is None else (head.type, bytes(head.rest))

    @property
    def control_head(self) -> Record | None:
        """The record at the head, unless it is application data."""
        if not self._parked or self._parked[0].type == APPLICATION_DATA:
            return None
        return self._parked[0]

    def take_control(self) -> tuple[int, bytes]:
        """`control`, which is the head no longer. Raises CallerError where there is none."""
        control = self.control
        if control is None:
            raise CallerError("no control record is at the head")
        self._parked.popleft()
        return control

    def discard_control(self) -> None:
        """Drop the control record at the head. A KeyUpdate's effect stays."""
        self.take_control()

    # Why there is nothing

    def _out_of_data(self) -> PullResult:
        """Why there is no record; the end of the stream inside one is an error where it counts."""
        if self._state is PAUSED and not self._nothing_comes:
            return PullResult.REKEY
        if not self._fin and not self._dropped and self.error is None:
            return MORE_NEEDED
        self._note_truncation()
        error = self.take_error()
        if error is not None:
            raise error
        return PullResult.EOF if self.eof else PullResult.MORE_NEEDED

    def _count_retry(self, record: Record, size: int) -> None:
        """Linux opens such a record twice (tls_decrypt_sw)."""
        assert self._opener is not None
        padded = size - self._opener.overhead > len(record.payload)
        self._counters.no_pad_violations += padded
        self._counters.decrypt_retries += padded or record.type != APPLICATION_DATA
