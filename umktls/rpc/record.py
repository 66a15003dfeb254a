"""Record marking (RFC 5531 section 11): RPC messages on a byte stream.

Theory of operation. A message is a record of one or more fragments, each behind a mark of four
bytes (highest bit: the last one; the rest: its length). A message may be a megabyte of file data,
so what matters is that its bytes are written once. The reader therefore lends out the message's
own buffer (`get_buffer`), to be filled by recv_into or by a decryption in place, and is told
afterwards how many bytes arrived (`advance`). Between fragments, where the next bytes may hold a
mark or several small messages, it lends out a scratch buffer instead and `advance` sorts its
content by copying.

Behind the end of a fragment a message buffer has SLACK bytes to spare, because a TLS 1.3 record
that is decrypted in place leaves its inner type byte there.

Memory follows the data that the peer has announced, never beyond `limit`; a message in many small
fragments grows its buffer by doubling, so its cost stays linear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from umktls.errors import CallerError, PeerError
from umktls.rpc.xdr import Buffer

__all__ = ["MARK_BYTES", "SLACK", "RecordLimitError", "RecordReader", "mark"]

MARK_BYTES = 4
SLACK = 32
LAST_FRAGMENT = 0x80000000
MAX_FRAGMENT = 0x7FFFFFFF


class RecordLimitError(PeerError):
    """The peer announced a message over the limit. The stream cannot be followed any further."""


def mark(length: int, last: bool = True) -> bytes:
    """The four bytes that go before a fragment of `length` bytes."""
    if not 0 <= length <= MAX_FRAGMENT:
        raise CallerError(f"a record fragment cannot have {length} bytes")
    return (length | LAST_FRAGMENT if last else length).to_bytes(MARK_BYTES)


class RecordReader:
    """Takes a stream apart into messages of at most `limit` bytes, whatever its splits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._complete: deque[memoryview] = deque()
        self._mark = bytearray()  # of the next fragment, while it is incomplete
        self._message = memoryview(b"")  # with SLACK behind
        self._filled = 0
        self._end = 0  # of the current fragment, in the message
        self._in_fragment = False
        self._last = False
        self._scratch = bytearray()
        self._lent: memoryview | None = None  # scratch that was lent out and not yet advanced
        self._failure: str | None = None

    def direct_space(self) -> int:
        """How many stream bytes still fit the current fragment; 0 when a mark is awaited."""
        return self._end - self._filled

    def get_buffer(self, size_hint: int = 1) -> memoryview:
        """Where the next bytes of the stream may be written; at least `size_hint` bytes long.

        It is the message's own buffer, with SLACK bytes more than `direct_space`, if that is long
        enough, and scratch otherwise. Good until the next call of any method."""
        if self._in_fragment and self._end - self._filled + SLACK >= size_hint:
            self._lent = None
            return self._message[self._filled : self._end + SLACK]
        if len(self._scratch) < size_hint:
            self._scratch = bytearray(size_hint)
        self._lent = memoryview(self._scratch)
        return self._lent

    def advance(self, count: int) -> None:
        """The first `count` bytes of the last get_buffer() are stream bytes."""
        lent, self._lent = self._lent, None
        if lent is not None:
            self.feed(lent[:count])
            return
        space = self._end - self._filled
        if count <= space:
            self._filled += count
            self._finish_fragment()
            return
        beyond = self._message[self._end : self._filled + count].tobytes()
        self._filled = self._end
        self._finish_fragment()
        self.feed(beyond)

    def feed(self, data: Buffer) -> None:
        """Take bytes by copying; any number, which may hold several messages."""
        view = memoryview(data)
        while len(view):
            view = view[self._take_content(view) if self._in_fragment else self._take_mark(view) :]

    def messages(self) -> Iterator[memoryview]:
        """The complete messages that were not given out yet, each in a buffer of its own."""
        while self._complete:
            yield self._complete.popleft()

    @property
    def idle(self) -> bool:
        """Whether the stream could end here: no message has begun, and none waits."""
        return not (self._complete or self._in_fragment or self._mark or self._filled)

    def _take_content(self, view: memoryview) -> int:
        count = min(len(view), self._end - self._filled)
        self._message[self._filled : self._filled + count] = view[:count]
        self._filled += count
        self._finish_fragment()
        return count

    def _take_mark(self, view: memoryview) -> int:
        if self._failure is not None:
            raise RecordLimitError(self._failure)
        count = min(len(view), MARK_BYTES - len(self._mark))
        self._mark += view[:count]
        if len(self._mark) == MARK_BYTES:
            word = int.from_bytes(self._mark)
            self._mark.clear()
            self._begin_fragment(word & MAX_FRAGMENT, bool(word & LAST_FRAGMENT))
        return count

    def _begin_fragment(self, length: int, last: bool) -> None:
        end = self._filled + length
        if end > self._limit:
            self._failure = f"a message of {end} bytes or more is over the limit of {self._limit}"
            raise RecordLimitError(self._failure)
        self._reserve(end)
        self._end, self._last, self._in_fragment = end, last, True
        self._finish_fragment()

    def _reserve(self, end: int) -> None:
        """Make room for `end` bytes and SLACK; views of the old buffer may still be lent out."""
        if end + SLACK <= len(self._message):
            return
        size = end if not self._filled else min(max(end, 2 * self._filled), self._limit)
        larger = memoryview(bytearray(size + SLACK))
        larger[: self._filled] = self._message[: self._filled]
        self._message = larger

    def _finish_fragment(self) -> None:
        if self._filled < self._end or not self._in_fragment:
            return
        self._in_fragment = False
        if self._last:
            self._complete.append(self._message[: self._end])
            self._message, self._filled, self._end = memoryview(b""), 0, 0
