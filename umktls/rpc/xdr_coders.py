"""XDR written and read by hand, one value after the other (RFC 4506)."""

from __future__ import annotations

import struct as _struct
from typing import TypeVar

from umktls.rpc.xdr_codecs import MAX_LENGTH, PADDING, ZERO, Boolean, Codec, coalesce
from umktls.rpc.xdr_source import Buffer, XdrError, unencodable

T = TypeVar("T")
BOOL = Boolean()

_U32 = _struct.Struct(">I")
_I32 = _struct.Struct(">i")
_U64 = _struct.Struct(">Q")
_I64 = _struct.Struct(">q")


class Encoder:
    """Encodes one value after the other. CallerError for a value out of its type's range."""

    __slots__ = ("_pieces", "put")

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self.put = self._pieces.append

    def _number(self, layout: _struct.Struct, value: int) -> None:
        try:
            self.put(layout.pack(value))
        except _struct.error as error:
            raise unencodable(f"the number {value}", error) from error

    def uint(self, value: int) -> None:
        self._number(_U32, value)

    def int_(self, value: int) -> None:
        self._number(_I32, value)

    def uhyper(self, value: int) -> None:
        self._number(_U64, value)

    def hyper(self, value: int) -> None:
        self._number(_I64, value)

    def bool_(self, value: bool) -> None:
        self.put(b"\0\0\0\1" if value else ZERO)

    def fixed(self, value: Buffer) -> None:
        """opaque[n]: the bytes and their padding, without a length."""
        self.put(value)
        self.put(PADDING[len(value) & 3])

    def opaque(self, value: Buffer) -> None:
        """opaque<>: a large value becomes a part of its own and is not copied."""
        self.uint(len(value))
        self.fixed(value)

    string = opaque

    def write(self, codec: Codec[T], value: T) -> None:
        codec.write(self.put, value)

    @property
    def length(self) -> int:
        """Bytes encoded so far."""
        return sum(map(len, self._pieces))

    def parts(self) -> list[Buffer]:
        """The encoding; small pieces joined, pieces of 4 KiB or more as they were given."""
        return coalesce(self._pieces)

    def getvalue(self) -> bytes:
        return b"".join(self._pieces)


class Decoder:
    """Decodes one value after the other; every method raises XdrError only."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._pos = 0

    @property
    def remaining(self) -> int:
        """Bytes not decoded yet."""
        return len(self._data) - self._pos

    def _take(self, length: int) -> memoryview:
        """The next `length` bytes, of which the padding is skipped."""
        start, end = self._pos, self._pos + length + (-length % 4)
        if end > len(self._data):
            raise XdrError(f"the data ended: {length} bytes wanted, {self.remaining} left")
        self._pos = end
        return self._data[start : start + length]

    def uint(self) -> int:
        return int.from_bytes(self._take(4))

    def int_(self) -> int:
        return int.from_bytes(self._take(4), signed=True)

    def uhyper(self) -> int:
        return int.from_bytes(self._take(8))

    def hyper(self) -> int:
        return int.from_bytes(self._take(8), signed=True)

    def bool_(self) -> bool:
        return self.read(BOOL)

    def fixed(self, length: int) -> bytes:
        return self._take(length).tobytes()

    def opaque_view(self, limit: int = MAX_LENGTH) -> memoryview:
        """opaque<limit> as a view into the data, not copied."""
        length = self.uint()
        if length > limit:
            raise XdrError(f"a length of {length} is over the limit of {limit}")
        return self._take(length)

    def opaque(self, limit: int = MAX_LENGTH) -> bytes:
        return self.opaque_view(limit).tobytes()

    string = opaque

    def read(self, codec: Codec[T]) -> T:
        value, self._pos = codec.read(self._data, self._pos)
        result: T = value
        return result

    def done(self) -> None:
        """XdrError if anything is left."""
        if self.remaining:
            raise XdrError(f"{self.remaining} bytes too many")
