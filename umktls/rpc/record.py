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

Memory follows what has arrived, not what a mark announces: four bytes can announce megabytes. A
message's buffer begins small and grows fourfold, up to what is announced, so a message in many
small fragments costs no more than its length. When a part of a large message has come, whoever
answers for the memory says so (`reserve`), and the rest is written once where it belongs. A message
is refused beyond `limit` bytes or `fragments` fragments, of which any number may be empty. Of small
messages that come together only so many are taken apart at a time; the rest waits as it came.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from umktls.errors import CallerError, PeerError
from umktls.memory import uncleared
from umktls.rpc.xdr import Buffer

__all__ = [
    "FRAGMENT_LIMIT",
    "LAST_FRAGMENT",
    "MARK_BYTES",
    "MAX_FRAGMENT",
    "SLACK",
    "RecordLimitError",
    "RecordReader",
    "mark",
]

MARK_BYTES = 4
SLACK = 32
# The first buffer of a message, and how many times what has come a later one may have.
FIRST_ROOM = 4096
GROWTH = 4
# With so many bytes a large message has begun to come.
BEGUN = 16 * 1024
# libtirpc makes fragments of 9000 bytes, unless it is told otherwise; 2 MiB have 234 of them.
FRAGMENT_LIMIT = 1024
# So many complete messages wait at a time.
APART = 64
LAST_FRAGMENT = 0x80000000
NOTHING = memoryview(b"")
_WORD = struct.Struct(">I").unpack_from
MAX_FRAGMENT = 0x7FFFFFFF


class RecordLimitError(PeerError):
    """The peer announced a message over a limit. The stream cannot be followed any further."""


def mark(length: int, last: bool = True) -> bytes:
    """The four bytes that go before a fragment of `length` bytes."""
    if not 0 <= length <= MAX_FRAGMENT:
        raise CallerError(f"a record fragment cannot have {length} bytes")
    return (length | LAST_FRAGMENT if last else length).to_bytes(MARK_BYTES)


class RecordReader:
    """Takes a stream apart into messages of at most `limit` bytes in at most `fragments` fragments,
    whatever its splits."""

    def __init__(self, limit: int, fragments: int = FRAGMENT_LIMIT) -> None:
        self._limit = limit
        self._fragment_limit = fragments
        self._complete: deque[memoryview] = deque()
        self._unsplit = memoryview(b"")  # of the stream, behind the complete messages
        self._mark = bytearray()  # of the next fragment, while it is incomplete
        self._message = memoryview(b"")  # with SLACK behind
        self._room = 0  # of the message's buffer, without the SLACK
        self._filled = 0
        self._end = 0  # of the current fragment, in the message
        self._fragments = 0
        self._in_fragment = False
        self._last = False
        self._scratch = bytearray()
        self._lent: memoryview | None = None  # scratch that was lent out and not yet advanced
        self._failure: str | None = None

    def direct_space(self) -> int:
        """How many bytes of the current fragment may go into the message's own buffer as it is now;
        0 when a mark is awaited, or the buffer has to grow."""
        if not self._in_fragment or self._unsplit:
            return 0
        return min(self._end, self._room) - self._filled

    @property
    def missing(self) -> int:
        """How many bytes of the current fragment have not come yet, or of the mark before it."""
        return self._end - self._filled if self._in_fragment else MARK_BYTES - len(self._mark)

    def get_buffer(self, size_hint: int = 1) -> memoryview:
        """Where the next bytes of the stream may be written; at least `size_hint` bytes long.

        It is the message's own buffer, with SLACK bytes more than `direct_space`, if that is long
        enough, and scratch otherwise. Good until the next call of any method."""
        space = self.direct_space()
        if space and space + SLACK >= size_hint:
            self._lent = None
            return self._message[self._filled : self._filled + space + SLACK]
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
        space = self.direct_space()
        if count <= space:
            self._filled += count
            self._finish_fragment()
            return
        beyond = self._message[self._filled + space : self._filled + count].tobytes()
        self._filled += space
        self._finish_fragment()
        self.feed(beyond)

    def feed(self, data: Buffer) -> None:
        """Take bytes by copying; any number, which may hold several messages. `bytes` that are one
        whole message are kept as they are."""
        if type(data) is bytes and not (self._fragments or self._mark or self._unsplit):
            length = len(data) - MARK_BYTES
            if 0 < length <= self._limit and _WORD(data) == (length | LAST_FRAGMENT,):
                self._complete.append(memoryview(data)[MARK_BYTES:])
                return
        if self._unsplit:
            self._unsplit = memoryview(bytes(self._unsplit) + bytes(data))
            return
        rest = self._split(memoryview(data))
        self._unsplit = memoryview(bytes(rest)) if rest else NOTHING

    def messages(self) -> Iterator[memoryview]:
        """The complete messages that were not given out yet, each in a buffer of its own."""
        while True:
            while self._complete:
                yield self._complete.popleft()
            if not self._unsplit:
                return
            waiting, self._unsplit = self._unsplit, NOTHING
            self._unsplit = self._split(waiting)

    def close(self) -> None:
        """Give all memory back. Nothing can be fed any more."""
        self._complete.clear()
        self._unsplit = self._message = memoryview(b"")
        self._scratch, self._lent = bytearray(), None
        self._room = self._filled = self._end = self._fragments = 0
        self._in_fragment, self._failure, self._limit = False, "the reader was closed", 0

    @property
    def idle(self) -> bool:
        """Whether the stream could end here: no message has begun, and none waits."""
        begun = self._in_fragment or self._mark or self._filled or self._fragments
        return not (self._complete or self._unsplit or begun)

    @property
    def awaited(self) -> int:
        """How many bytes the message that is arriving may come to; 0 while little of one has."""
        if self._filled < BEGUN:
            return 0
        return self._end if self._in_fragment and self._last else self._limit

    def reserve(self) -> None:
        """Have room for all that is announced of the message that is arriving."""
        if self._in_fragment and self._last:
            self._resize(self._end)

    def _split(self, view: memoryview) -> memoryview:
        """Take messages apart until enough wait; returns what is left."""
        while len(view) and len(self._complete) < APART:
            count = 0 if self._fragments or self._mark else self._take_whole(view)
            if not count:
                count = self._take_content(view) if self._in_fragment else self._take_mark(view)
            elif count == len(view):
                return NOTHING
            view = view[count:]
        return view

    def _take_whole(self, view: memoryview) -> int:
        """Take a message in one fragment that is there to its end, as most are; 0 for any other."""
        end = MARK_BYTES + (int.from_bytes(view[:MARK_BYTES]) ^ LAST_FRAGMENT)
        if not MARK_BYTES < end <= len(view) or end - MARK_BYTES > self._limit or self._failure:
            return 0
        self._complete.append(memoryview(bytearray(view[MARK_BYTES:end])))
        return end

    def _take_content(self, view: memoryview) -> int:
        count = min(len(view), self._end - self._filled)
        self._make_room(self._filled + count)
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
        self._fragments += 1
        if end > self._limit:
            self._fail(f"a message of {end} bytes or more is over the limit of {self._limit}")
        if self._fragments > self._fragment_limit:
            self._fail(f"a message in more than {self._fragment_limit} fragments")
        self._end, self._last, self._in_fragment = end, last, True
        self._finish_fragment()

    def _fail(self, text: str) -> None:
        self._failure = text
        raise RecordLimitError(text)

    def _make_room(self, arrived: int) -> None:
        """Have a buffer for that many bytes; views of the old one may still be lent out."""
        if arrived <= self._room:
            return
        announced = self._end if self._last else self._limit
        self._resize(min(max(FIRST_ROOM, GROWTH * arrived), announced))

    def _resize(self, room: int) -> None:
        if room <= self._room:
            return
        self._room = room
        larger = memoryview(uncleared(self._room + SLACK))
        larger[: self._filled] = self._message[: self._filled]
        self._message = larger

    def _finish_fragment(self) -> None:
        if self._filled < self._end or not self._in_fragment:
            return
        self._in_fragment = False
        if self._last:
            self._complete.append(self._message[: self._end])
            self._message = memoryview(b"")
            self._room = self._filled = self._end = self._fragments = 0
