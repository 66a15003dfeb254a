"""Written data on its way to stable storage."""

from __future__ import annotations

from collections.abc import Sequence

from umktls.nfs.types import stable_how
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.xdr import Buffer, Pieces

__all__ = ["OVERHEAD", "Extent", "overlay"]

# What an extent costs beside its bytes, so that a million tiny ones are not counted as nothing.
OVERHEAD = 512
# Shorter pieces than these are better joined before they are sent.
LONG_PIECE = 16 * 1024


class Extent:
    """Contiguous bytes written by one user.

    serial orders extents as they were written. `stable` is what the next WRITE asks for; `verf` the
    server's write verifier that came back, `sends` how often it went out, `since` when it began;
    `due` is when the server must have all of it, 0 before the first WRITE.
    """

    __slots__ = (
        "_parts",
        "credential",
        "due",
        "length",
        "offset",
        "sends",
        "serial",
        "since",
        "stable",
        "verf",
    )

    def __init__(
        self, serial: int, offset: int, data: Buffer, credential: OpaqueAuth, since: float
    ) -> None:
        self.serial = serial
        self.offset = offset
        self.length = len(data)
        self.credential = credential
        self.since = since
        self.stable = stable_how.UNSTABLE
        self.verf = b""
        self.sends = 0
        self.due = 0.0
        self._parts: list[Buffer] = [data]

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def cost(self) -> int:
        """Bytes of memory that it is taken to hold."""
        return self.length + OVERHEAD

    def overlaps(self, offset: int, end: int) -> bool:
        return self.offset < end and offset < self.end

    def append(self, data: Buffer) -> None:
        """More bytes, right behind the others."""
        self._parts.append(data)
        self.length += len(data)

    def data(self) -> Buffer:
        """All its bytes in one buffer (joined at the first call, kept)."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def content(self) -> Buffer | Pieces:
        """All its bytes for a WRITE; as they came, where that was in long pieces."""
        count = len(self._parts)
        if count == 1 or self.length < count * LONG_PIECE:
            return self.data()
        return Pieces(self._parts)

    def split(self, length: int) -> Extent:
        """Cut off everything behind the first `length` bytes, as an extent of the same age."""
        view = memoryview(self.data())
        rest = Extent(self.serial, self.offset + length, view[length:], self.credential, self.since)
        rest.stable, rest.sends, rest.due = self.stable, self.sends, self.due
        self._parts = [view[:length]]
        self.length = length
        return rest


def overlay(data: Buffer, offset: int, size: int, extents: Sequence[Extent]) -> Buffer:
    """What a read of `size` bytes at `offset` gives: `data`, which came from the server, with the
    extents (oldest first) written over it. Between the end of the file there and an extent behind
    it are zeros."""
    end = offset + size
    behind = max((min(extent.end, end) for extent in extents), default=offset)
    if behind <= offset:
        return data
    result = bytearray(data)
    result += bytes(max(0, behind - offset - len(result)))
    for extent in extents:
        low, high = max(offset, extent.offset), min(end, extent.end)
        if low < high:
            part = memoryview(extent.data())[low - extent.offset : high - extent.offset]
            result[low - offset : high - offset] = part
    return result
