"""RPC messages on their way through: where each begins and ends, and what its head says.

Theory of operation. Who passes messages on need not have them: a message may be a megabyte, and is
gone before its end has come. So a `Follower` is fed with the stream as it comes and says of each
piece whether a message begins with it, with what head, and whether one ends with it. Pieces are
views of what was fed, record marks included (RFC 5531 section 11), and together they are the
stream. Only while a message's head is incomplete its bytes are held back: a peer may spread the
head over as many reads and fragments as it likes, and is not let through with that.

A message that is shorter than the head wanted (a reply of 20 bytes) has zeros in place of the rest.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from umktls.errors import PeerError
from umktls.rpc.record import LAST_FRAGMENT, MARK_BYTES, MAX_FRAGMENT

__all__ = ["Follower", "Head", "Piece"]

_HEAD = struct.Struct(">7I")
# Bytes that are held back for a head, marks included: a fragment may be empty, and a mark costs 4.
HELD_BACK = 1024


class Head(NamedTuple):
    """The first words of a message (section 9); those from `rpcvers` on are a call's."""

    xid: int
    kind: int
    rpcvers: int
    program: int
    version: int
    procedure: int
    flavor: int


class Piece(NamedTuple):
    """A part of the stream. `head`: of the message that begins with it; None: it goes on with one.
    `ends`: it is the message's last."""

    data: memoryview
    head: Head | None
    ends: bool


class Follower:
    """One direction of a connection. A message begins where the stream does."""

    def __init__(self) -> None:
        self._held = bytearray()  # of a message whose head is incomplete
        self._content = bytearray()  # the same without the marks
        self._known = False  # the head of the message that is passing
        self._mark = bytearray()  # of the next fragment, while it is incomplete
        self._left = 0  # bytes of the current fragment that are still to come
        self._last = False

    @property
    def idle(self) -> bool:
        """Whether the stream is between two messages."""
        return not (self._held or self._known)

    @property
    def whole(self) -> bool:
        """Whether no message is passing of which a part has gone and a part is to come."""
        return not self._known

    def feed(self, data: memoryview) -> list[Piece]:
        """Take the stream's next bytes; what may go on now.

        Raises `PeerError` for fragments without end and without content.
        """
        pieces: list[Piece] = []
        pos, end = 0, len(data)
        while pos < end:
            if self._known:
                count = self._go_on(data[pos:])
                pieces.append(Piece(data[pos : pos + count], None, not self._known))
            elif not self._held and (count := self._begin(data, pos, end)):
                head = Head._make(_HEAD.unpack_from(data, pos + MARK_BYTES))
                pieces.append(Piece(data[pos : pos + count], head, not self._known))
            else:
                count, piece = self._hold_back(data[pos:])
                pieces += [] if piece is None else [piece]
            pos += count
        return pieces

    def _begin(self, data: memoryview, pos: int, end: int) -> int:
        """Of a message whose head is there as a whole: how many bytes of its first fragment."""
        if end - pos < MARK_BYTES + _HEAD.size:
            return 0
        word = int.from_bytes(data[pos : pos + MARK_BYTES])
        length = word & MAX_FRAGMENT
        if length < _HEAD.size:
            return 0
        count = min(MARK_BYTES + length, end - pos)
        self._last = bool(word & LAST_FRAGMENT)
        self._left = MARK_BYTES + length - count
        self._known = bool(self._left) or not self._last
        return count

    def _go_on(self, view: memoryview) -> int:
        """With a message that is passing: how many bytes of it, or of a mark."""
        if not self._left:
            count = min(len(view), MARK_BYTES - len(self._mark))
            self._take_mark(view[:count])
        else:
            count = min(len(view), self._left)
            self._left -= count
        if not self._left and not self._mark and self._last:
            self._known = False
        return count

    def _take_mark(self, view: memoryview) -> None:
        self._mark += view
        if len(self._mark) == MARK_BYTES:
            word = int.from_bytes(self._mark)
            self._mark.clear()
            self._left, self._last = word & MAX_FRAGMENT, bool(word & LAST_FRAGMENT)

    def _hold_back(self, view: memoryview) -> tuple[int, Piece | None]:
        """Of a message whose head is incomplete: how many bytes, and what is released by them."""
        if not self._left:
            count = min(len(view), MARK_BYTES - len(self._mark))
            self._take_mark(view[:count])
        else:
            count = min(len(view), self._left, _HEAD.size - len(self._content))
            self._left -= count
            self._content += view[:count]
        self._held += view[:count]
        over = not self._left and not self._mark and self._last
        if over or len(self._content) == _HEAD.size:
            return count, self._release(over)
        if len(self._held) > HELD_BACK:
            raise PeerError("an RPC message in fragments without content")
        return count, None

    def _release(self, over: bool) -> Piece:
        """What was held back, whose head is complete now."""
        head = Head._make(_HEAD.unpack(self._content.ljust(_HEAD.size, b"\0")))
        piece = Piece(memoryview(bytes(self._held)), head, over)
        self._held.clear()
        self._content.clear()
        self._known = not over
        return piece
