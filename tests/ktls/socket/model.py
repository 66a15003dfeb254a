"""What a KTLS socket should do, as plainly as it can be said: a list of typed records.

No bytes of TLS here. The model is told which records were sent, how many bytes of them have
arrived, and says what recvmsg(2) has to answer; and, for what is sent, which records it becomes. It
knows three kinds of kernels: FreeBSD's, Linux's and ours.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

DATA = 23
FREEBSD_ROOM = 22  # CMSG_LEN(sizeof(struct tls_get_record))
LINUX_ROOM = 17  # CMSG_LEN(1)
LIMIT = 16384  # bytes of payload in a record
SEND_LOW_WATER = 2048  # FreeBSD's
CUT = -1  # the type of a control message that was cut


@dataclass
class Item:
    """A record. `bad`: it was damaged on its way. `update`: it is a KeyUpdate."""

    type: int
    payload: bytes
    bad: bool = False
    update: bool = False
    announced: bool = False


@dataclass(frozen=True)
class Receive:
    """A recvmsg: bytes of data and of control messages that it has room for; MSG_PEEK, MSG_WAITALL;
    and whether it may wait (no MSG_DONTWAIT)."""

    length: int
    room: int
    peek: bool = False
    everything: bool = False
    may_wait: bool = False


@dataclass(frozen=True)
class Answer:
    """What recvmsg gives: an errno, or data, the type that is told (0: none), and an end or not."""

    errno: int = 0
    data: bytes = b""
    type: int = 0
    end: bool = False


@dataclass(frozen=True)
class Sending:
    """What sendmsg gives: an errno, or how many bytes were taken, and the records that go."""

    errno: int = 0
    count: int = 0
    items: tuple[Item, ...] = ()


class SendModel:
    """The sending side. `size`: bytes on the wire of a record with so many bytes of payload."""

    def __init__(self, kind: str, size: Callable[[int], int]) -> None:
        self.open = b""  # what MSG_MORE keeps back
        self._waiting: list[Item] = []  # records that a call made which failed then
        self._size = size
        self._answer = self._freebsd if kind == "freebsd" else self._linux

    def send(self, data: bytes, record_type: int, more: bool, room: int | None) -> Sending:
        return self._answer(data, record_type, more, len(data) + 2**30 if room is None else room)

    def _freebsd(self, data: bytes, record_type: int, more: bool, room: int) -> Sending:
        if room < len(data) and (record_type != DATA or room < SEND_LOW_WATER):
            return Sending(errno.EAGAIN)
        data = data[:room]
        pieces = [data[i : i + LIMIT] for i in range(0, len(data), LIMIT)]
        return Sending(0, len(data), tuple(Item(record_type, piece) for piece in pieces))

    def _linux(self, data: bytes, record_type: int, more: bool, room: int) -> Sending:
        if record_type != DATA and self.open:
            self._close(DATA)
        taken = 0
        while taken < len(data):
            if sum(self._size(len(item.payload)) for item in self._waiting) >= room:
                break
            piece = data[taken : taken + LIMIT - len(self.open)]
            self.open += piece
            taken += len(piece)
            if len(self.open) == LIMIT or not more:
                self._close(record_type)
        if data and not taken:
            return Sending(errno.EAGAIN)
        items, self._waiting = tuple(self._waiting), []
        return Sending(0, taken, items)

    def _close(self, record_type: int) -> None:
        self._waiting.append(Item(record_type, self.open))
        self.open = b""


class Model:
    """The receiving side. `kind`: "freebsd", "linux" or "umktls"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.queue: deque[Item] = deque()
        self.low_water = 1  # SO_RCVLOWAT
        self._coming: deque[tuple[Item, int]] = deque()
        self._updated = False  # the KeyUpdate was read, and the new key is not there
        self._error = 0  # FreeBSD's so_error
        self._answer = {
            "freebsd": self._freebsd,
            "linux": self._linux,
            "umktls": self._umktls,
        }[kind]

    def sent(self, item: Item, size: int) -> None:
        """A record of so many bytes is on its way."""
        self._coming.append((item, size))

    def arrive(self, count: int) -> None:
        """So many bytes have arrived."""
        while self._coming:
            item, size = self._coming.popleft()
            if size > count:
                self._coming.appendleft((item, size - count))
                return
            count -= size
            self.queue.append(item)

    def rekeyed(self) -> None:
        """The new key is there."""
        self._updated = False

    def recv(self, call: Receive) -> Answer:
        return self._answer(call)

    def readable(self) -> bool | None:
        """What poll(2) says; None where it is the kernel's business which records it has opened."""
        if self.kind == "linux" and any(item.update for item in self.queue):
            return None
        if self.kind == "freebsd" and not self._error and not any(item.bad for item in self.queue):
            return self._readable_bytes() >= self.low_water
        return not self._updated and bool(self.queue or self._error)

    def _readable_bytes(self) -> int:
        """Payload, and 24 bytes for each control message that was not delivered yet."""
        return sum(len(item.payload) + (0 if item.announced else 24) for item in self.queue)

    # FreeBSD

    def _freebsd(self, call: Receive) -> Answer:
        for item in [item for item in self.queue if item.bad]:
            self.queue.remove(item)
            self._error = errno.EBADMSG
        if not self.queue:
            error = self._error or errno.EAGAIN
            if not call.peek:
                self._error = 0
            return Answer(error)
        return self._one(call)

    def _one(self, call: Receive) -> Answer:
        """As much of the head as fits; its type with the first piece. It never waits for more."""
        head, room, length = self.queue[0], call.room, call.length
        told = 0 if head.announced or not room else head.type if room >= FREEBSD_ROOM else CUT
        data = head.payload[:length]
        rest = head.payload[length:]
        end = not rest and (bool(head.payload) or self.kind == "umktls")
        if not call.peek:
            self._take(data, announce=True)
        return Answer(0, data, told, end)

    def _take(self, data: bytes, announce: bool = False) -> None:
        head = self.queue[0]
        head.payload = head.payload[len(data) :]
        head.announced = announce
        if not head.payload:
            self.queue.popleft()
            self._updated = self._updated or head.update

    # Ours

    def _umktls(self, call: Receive) -> Answer:
        if self._updated:
            return Answer(errno.EKEYEXPIRED)
        if not self.queue:
            return Answer(errno.EAGAIN)
        head = self.queue[0]
        if head.bad:
            self.queue.popleft()
            return Answer(errno.EBADMSG)
        if head.type != DATA and call.room < FREEBSD_ROOM and not head.announced:
            return Answer(errno.EIO)
        return self._one(call)

    # Linux

    def _linux(self, call: Receive) -> Answer:
        found: list[bytes] = []
        answer = self._gather(call, found)
        empty = not any(found)
        if not call.peek and (not answer.errno or empty):
            for data in found:
                self._take(data)
        return answer

    def _gather(self, call: Receive, found: list[bytes]) -> Answer:
        """What one call finds, `found` record by record."""
        kind, end, left = 0, False, call.length
        length, room = call.length, call.room
        for item in self.queue:
            stopped = errno.EKEYEXPIRED if self._updated else errno.EBADMSG if item.bad else 0
            if stopped and left == length:
                return Answer(stopped)
            if stopped or not left or kind not in (0, item.type):
                break
            if item.type != DATA and room < LINUX_ROOM:
                return Answer(errno.EIO)
            kind = item.type
            found.append(item.payload[:left])
            left -= len(found[-1])
            end = end or len(found[-1]) == len(item.payload)
            if kind != DATA:
                break
        else:
            if left == length:
                return Answer(errno.EKEYEXPIRED if self._updated else errno.EAGAIN)
            wanted = length if call.everything else min(self.low_water, length)
            if length - left < wanted and call.may_wait:
                return Answer(errno.EAGAIN)
        return Answer(0, b"".join(found), kind if room >= LINUX_ROOM else 0, end)
