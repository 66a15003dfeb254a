"""Buffers for data on its way through, and the client's stream as the kernel gives it.

A connection has a buffer while data moves and none while it waits: thousands of idle connections
cost no more than their sockets. The buffers are lent from a stock that all connections share.
"""

from __future__ import annotations

from collections.abc import Iterator

from umktls.errors import PeerError
from umktls.rpc.record import SLACK, RecordReader
from umktls.rpc.xdr import Buffer

__all__ = ["CHUNK", "Stock", "Through"]

# What moves at a time: as many TLS records of the largest size as are opened at a time.
CHUNK = 8 * 16384
# So many buffers are kept that nobody needs now.
SPARE = 16


class Stock:
    """Buffers of CHUNK bytes and SLACK."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []

    def take(self) -> bytearray:
        return self._spare.pop() if self._spare else bytearray(CHUNK + SLACK)

    def give(self, buffer: bytearray) -> None:
        if len(self._spare) < SPARE:
            self._spare.append(buffer)


class Through(RecordReader):
    """A reader that puts no messages together: what it gives out are pieces of the stream.

    A piece is good until the next one is asked for. Where the stream ends in the midst of one,
    somebody may still have it: its buffer does not go back to the stock. `direct`: what comes may
    be put into a buffer at once, which is so when it is opened and not when it is waited for.
    """

    def __init__(self, stock: Stock) -> None:
        super().__init__(limit=0)
        self.direct = False
        self._stock = stock
        self._buffer: bytearray | None = None
        self._count = 0
        self._fed: list[Buffer] = []
        self._closed = False

    def direct_space(self) -> int:
        """See RecordReader. Bytes that were fed come first."""
        return CHUNK - self._count if self.direct and not self._fed else 0

    def get_buffer(self, size_hint: int = 1) -> memoryview:
        """See RecordReader."""
        if self._closed:
            raise PeerError("the stream was closed")
        if self._buffer is None:
            self._buffer = self._stock.take()
        return memoryview(self._buffer)[self._count : CHUNK + SLACK]

    def advance(self, count: int) -> None:
        """See RecordReader."""
        self._count += count

    def feed(self, data: Buffer) -> None:
        """See RecordReader."""
        self._fed.append(bytes(data))

    def messages(self) -> Iterator[memoryview]:
        """The pieces of the stream that have come."""
        if self._count and self._buffer is not None:
            count, self._count = self._count, 0
            yield memoryview(self._buffer)[:count]
        fed, self._fed = self._fed, []
        for data in fed:
            yield memoryview(data)
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._stock.give(buffer)

    def close(self) -> None:
        """See RecordReader."""
        self._closed = True
        self._fed.clear()
        self._count = 0
        self._buffer = None

    @property
    def idle(self) -> bool:
        """Whether nothing has come that was not given out."""
        return not (self._count or self._fed)

    @property
    def awaited(self) -> int:
        """Nothing is put together."""
        return 0

    def reserve(self) -> None:
        """Nothing is put together."""
