"""Ways of a direction's data below RPC that are not kernel TLS over TCP.

Without any of these a socket's `SendQueue` writes sealed records to TCP, and its pump reads TCP
into the receiver that opens them. A direction that is bounced has a socket pair in TCP's place,
whose other end the daemon holds; the data in it is clear. With the null engine it is TCP itself
that holds clear data.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.stream import SendQueue, Start, broken, read_some, readable
from umktls.ktls.engines import RECORD_HEADER_LENGTH
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE, RecordInClear
from umktls.ktls.socket.rx import Receiver
from umktls.rpc.record import RecordReader
from umktls.rpc.xdr import Buffer

__all__ = [
    "LONGEST_OF_CLIENT",
    "MAX_RECORD",
    "ClearIntake",
    "CountingQueue",
    "Intake",
    "PlainIntake",
    "receive",
]

APPLICATION_DATA = 23
MAX_RECORD = RECORD_HEADER_LENGTH + 0xFFFF
# A KeyUpdate has 27 bytes; the shortest call, 40 bytes and its mark, has 66.
LONGEST_OF_CLIENT = 64


async def receive(
    sock: socket.socket, rx: Receiver, reader: RecordReader, turn: Turn, dwell: Dwell | None = None
) -> int:
    """Put what comes from `sock` into `rx`, at least one byte; 0 at the end of the stream.

    Where the last read has emptied TCP it waits at once: another read would mostly find nothing.
    While it waits it holds no buffer, so that the memory can be given back. `turn` begins anew
    where it had to wait. `dwell`: how the whole process waits shortly, if it does.

    Raises `WorldError` when the connection broke.
    """
    if rx.drained and (dwell is None or not dwell.reply(sock.fileno())):
        await readable(sock)
        turn.begin()
    while True:
        try:
            return rx.read(sock, reader)
        except BlockingIOError:
            await readable(sock)
            turn.begin()
        except OSError as error:
            raise broken("receive", error) from error


class Intake(Protocol):
    """Where received bytes come from, if not from TCP as it is."""

    bytes: int

    async def fill(self, rx: Receiver, reader: RecordReader, turn: Turn) -> int:
        """Wait for bytes and put them into `rx`; at the end of the stream, say so.

        Returns how many were read. No buffer of `rx` is held while it waits; where it had to wait,
        `turn` begins anew.
        """


class CountingQueue(SendQueue):
    """A send queue for clear data, which no Transmitter counts."""

    def __init__(self, sock: socket.socket, start: Start | None = None) -> None:
        super().__init__(sock, start)
        self.bytes = 0

    def push(self, buffers: list[Buffer]) -> None:
        super().push(buffers)
        self.bytes += sum(map(len, buffers))


class PlainIntake:
    """Clear data from `sock`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.bytes = 0

    async def fill(self, rx: Receiver, reader: RecordReader, turn: Turn) -> int:
        count = await receive(self.sock, rx, reader, turn)
        self.bytes += count
        return count


class ClearIntake(PlainIntake):
    """Clear data from TCP, behind the sealed records that the handshake has left in front.

    A TLS server's tickets are sealed whatever comes after them. No RPC can begin like a TLS record
    does (23, 3, 3): as a record mark that is a first fragment of 387 MB, far over every limit. So
    what looks like sealed records at the head is dropped, and `dropped` is called with the length
    of each; from the first other byte on nothing is looked at any more.

    A client sends no tickets: of what it may seal there, close_notify and KeyUpdate, nothing is
    longer than LONGEST_OF_CLIENT. A longer record is a call that it has sealed: RecordInClear.
    """

    def __init__(
        self, sock: socket.socket, dropped: Callable[[int], None], longest: int = MAX_RECORD
    ) -> None:
        super().__init__(sock)
        self._dropped = dropped
        self._longest = longest
        self._head: bytearray | None = bytearray()

    async def fill(self, rx: Receiver, reader: RecordReader, turn: Turn) -> int:
        if self._head is None:
            return await super().fill(rx, reader, turn)
        wanted = missing(self._head)
        scratch = memoryview(bytearray(wanted))
        count = await read_some(self.sock, scratch)
        self._head += scratch[:count]
        if looks_sealed(self._head) and count:
            whole = len(self._head) + missing(self._head)
            if whole > self._longest:
                raise RecordInClear(f"a sealed record of {whole} bytes came; {NULL_ON_ONE_SIDE}")
            if not missing(self._head):
                self._dropped(len(self._head))
                self._head.clear()
            return count
        head, self._head = self._head, None
        self._hand_on(head, rx)
        if not count:
            rx.buffer_filled(0)
        return count

    def _hand_on(self, head: bytearray, rx: Receiver) -> None:
        if head:
            rx.get_buffer(len(head))[: len(head)] = head
            rx.buffer_filled(len(head))
            rx.drained = False  # it was read by little: there may be more
            self.bytes += len(head)


def looks_sealed(head: bytearray) -> bool:
    """Whether the stream's first bytes may be those of a TLS 1.3 record."""
    return bytes((APPLICATION_DATA, 3, 3)).startswith(head[:3])


def missing(head: bytearray) -> int:
    """How many bytes the header, or the record whose header is there, still lacks."""
    if len(head) < RECORD_HEADER_LENGTH:
        return RECORD_HEADER_LENGTH - len(head)
    return RECORD_HEADER_LENGTH + int.from_bytes(head[3:5], "big") - len(head)
