"""The receive buffer: TCP's bytes until they are opened or read.

It is small while little is received, so that an idle connection costs INITIAL_SIZE; it grows
fourfold each time a read fills all the room it was offered, up to `max_size`, and shrinks by the
same after a run of reads that would have fitted the smaller one, or at once by `trim`.
"""

from __future__ import annotations

import errno

from umktls.errors import CallerError

INITIAL_SIZE = 4096
MAX_SIZE = 262144
MAX_RECORD = 5 + 16384 + 2048  # RFC 5246 section 6.2.3 has the widest; a buffer must hold it
GROWTH = 4
SMALL_READS_TO_SHRINK = 64


class ReceiveBuffer:
    """`view[start:end]` is what waits. Only `start` is for others to move. `little`: it is as small
    as it gets, and the last read did not fill it."""

    __slots__ = (
        "_max_size",
        "_offered",
        "_small_reads",
        "_wants_more",
        "end",
        "little",
        "start",
        "view",
    )

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self.view = memoryview(bytearray(INITIAL_SIZE))
        self.start = 0
        self.end = 0
        self._max_size = max(max_size, MAX_RECORD)
        self._offered = 0
        self._wants_more = False
        self._small_reads = 0
        self.little = True

    def __len__(self) -> int:
        return self.end - self.start

    def room(self, size_hint: int) -> memoryview:
        """Where the next bytes may be written, at least `size_hint` long if the maximum allows.

        Raises:
            CallerError: ENOBUFS, it is full and as large as it may be.
        """
        if self.start == self.end:
            self.start = self.end = 0
            if self.little and size_hint <= INITIAL_SIZE:
                self._offered = INITIAL_SIZE
                return self.view
        self._adapt(size_hint)
        if self.start and len(self.view) - self.end < max(size_hint, len(self.view) // 2):
            self._move(self.view)
        self._offered = len(self.view) - self.end
        if not self._offered:
            text = f"the receive buffer is full: {len(self)} bytes were not read"
            raise CallerError(text, errno.ENOBUFS)
        return self.view[self.end :]

    def filled(self, count: int) -> None:
        """That many bytes of the last `room` were written."""
        if not 0 <= count <= self._offered:
            raise CallerError(f"{count} bytes cannot have gone where {self._offered} fit")
        self.end += count
        self._wants_more = count == self._offered
        self._offered = 0
        size = len(self.view)
        if size > INITIAL_SIZE:
            self._small_reads = self._small_reads + 1 if count * GROWTH < size else 0
        else:  # there is nothing to shrink
            self.little = not self._wants_more

    def clear(self) -> None:
        """Drop what waits."""
        self.start = self.end

    def prepend(self, data: bytes | bytearray | memoryview) -> None:
        """Put bytes in front of those that wait. Not between `room` and `filled`.

        Raises:
            CallerError: ENOBUFS, the buffer would grow over its maximum.
        """
        waiting = bytes(self.view[self.start : self.end])
        size = len(data) + len(waiting)
        if size > self._max_size:
            text = f"{len(data)} bytes do not fit in front of {len(waiting)}"
            raise CallerError(text, errno.ENOBUFS)
        if size > len(self.view):
            self.view = memoryview(bytearray(size))
            self.little = False
        self.view[:size] = bytes(data) + waiting
        self.start, self.end = 0, size

    def trim(self) -> None:
        """Give memory back where nothing waits. Not between `room` and `filled`."""
        if not len(self) and len(self.view) > INITIAL_SIZE:
            self._resize(INITIAL_SIZE)

    def _adapt(self, size_hint: int) -> None:
        """Grow where reads fill it or little room is left; shrink where reads stay small."""
        size = len(self.view)
        wanted = len(self) + max(size_hint, size // GROWTH)
        if (self._wants_more or wanted > size) and size < self._max_size:
            self._resize(min(max(wanted, size * GROWTH), self._max_size))
        elif self._small_reads >= SMALL_READS_TO_SHRINK and size > INITIAL_SIZE and not len(self):
            self._resize(size // GROWTH)

    def _resize(self, size: int) -> None:
        self._wants_more = False
        self._small_reads = 0
        self.little = size == INITIAL_SIZE
        self._move(memoryview(bytearray(size)))

    def _move(self, target: memoryview) -> None:
        """Bring what waits to the front of `target`, which may be the same buffer."""
        waiting = len(self)
        target[:waiting] = self.view[self.start : self.end]
        self.view = target
        self.start, self.end = 0, waiting
