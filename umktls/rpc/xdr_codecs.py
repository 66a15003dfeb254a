"""Codecs of the XDR types (RFC 4506 section 4): what each puts into the generated functions.

See xdr_source.py for how a tree of codecs becomes code. Every codec keeps what it was declared with
in public attributes, so that tests can make values of any declared type.

Residual (padding) bytes are written as zeros and not looked at when reading: no kernel looks at
them, and some peers leave there what was in the buffer before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from umktls.dataclass import dataclass
from umktls.rpc.xdr_source import Buffer, DecodeSource, EncodeSource, Pieces, Read, Write, XdrError

T = TypeVar("T")
MAX_LENGTH = 0xFFFFFFFF
BULK = 4096  # from this many bytes on, variable data stays a part of its own and is not copied

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4
ZERO = bytes(4)


class Codec(Generic[T]):
    """One XDR type. Two functions are generated at the first use."""

    def __str__(self) -> str:
        return repr(self)

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        """Write the code that encodes the expression `value` (evaluated any number of times)."""
        raise NotImplementedError

    def emit_decode(self, src: DecodeSource) -> str:
        """Write the code that decodes; an expression, good after the next flush, for one use."""
        raise NotImplementedError

    @cached_property
    def write(self) -> Write:
        """write(put, value): calls put(piece) for each piece of the encoding."""
        out = EncodeSource(str(self))
        self.emit_encode(out, "value")
        return out.finish()

    @cached_property
    def read(self) -> Read:
        """read(data, pos): (value, position behind it); raises XdrError only."""
        src = DecodeSource(str(self))
        return src.finish(self.emit_decode(src))

    def encode(self, value: T, *head: Buffer) -> list[Buffer]:
        """The encoding in parts, behind what is to come before it; CallerError for a value that the
        type cannot hold."""
        pieces = [*head]
        self.write(pieces.append, value)
        return coalesce(pieces)

    def decode_untrusted(self, data: Buffer) -> T:
        """The value that is encoded by all of `data`; raises XdrError only."""
        value: T
        value, pos = self.read(data if type(data) is memoryview else memoryview(data), 0)
        if pos != len(data):
            raise XdrError(f"{len(data) - pos} bytes too many behind {self}")
        return value


def coalesce(pieces: list[Buffer]) -> list[Buffer]:
    """Join neighbouring small pieces; a piece of BULK bytes or more stays as it is, uncopied."""
    if sum(map(len, pieces)) < BULK:
        return [b"".join(pieces)] if len(pieces) > 1 else pieces
    parts: list[Buffer] = []
    start = 0
    for index, piece in enumerate(pieces):
        if len(piece) >= BULK:
            if start < index:
                parts.append(b"".join(pieces[start:index]))
            parts.append(piece)
            start = index + 1
    if start < len(pieces):
        parts.append(b"".join(pieces[start:]))
    return parts


@dataclass(frozen=True)
class Integer(Codec[int]):
    """int, unsigned int, hyper, unsigned hyper (sections 4.1, 4.2, 4.5); `format` as in struct."""

    format: str

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.pack(self.format, value)

    def emit_decode(self, src: DecodeSource) -> str:
        return src.unpack(self.format)


@dataclass(frozen=True)
class Boolean(Codec[bool]):
    """bool (section 4.4): any other value than 0 and 1 is an error."""

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.pack("I", f"1 if {value} else 0")

    def emit_decode(self, src: DecodeSource) -> str:
        return f"{src.bind(_TRUTH, 'truth')}[{src.unpack('I')}]"


_TRUTH = {0: False, 1: True}


@dataclass(frozen=True)
class Enumeration(Codec[IntEnum]):
    """enum (section 4.3): a number that is not a member is an error."""

    members: type[IntEnum]

    def __str__(self) -> str:
        return self.members.__name__

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.pack("i", value)

    def emit_decode(self, src: DecodeSource) -> str:
        table = {int(member): member for member in self.members}
        return f"{src.bind(table, 'enum')}[{src.unpack('i')}]"


@dataclass(frozen=True)
class FixedOpaque(Codec[bytes]):
    """opaque identifier[n] (section 4.9)."""

    length: int

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        wrong = f'unencodable(what, f"{{len({value})}} bytes in place of {self.length}")'
        with out.block(f"if len({value}) != {self.length}:"):
            out.line(f"raise {wrong}")
        out.pack(f"{self.length}s{-self.length % 4}x", f"bytes({value})")

    def emit_decode(self, src: DecodeSource) -> str:
        return src.unpack(f"{self.length}s{-self.length % 4}x")


class _Variable(Codec[T]):
    """Variable-length bytes; a subclass says whether reading copies them."""

    limit: int
    _take: ClassVar[str]

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        length = out.fresh("n")
        out.line(f"{length} = len({value})")
        _emit_encode_limit(out, length, self.limit)
        out.pack("I", length)
        out.flush()
        self._emit_put(out, value)
        with out.block(f"if {length} & 3:"):
            out.line(f"put({out.bind(PADDING, 'padding')}[{length} & 3])")

    def _emit_put(self, out: EncodeSource, value: str) -> None:
        out.line(f"put({value})")

    def emit_decode(self, src: DecodeSource) -> str:
        result = src.fresh("opaque")
        length = _emit_decode_length(src, self.limit)
        src.line(f"{result} = data[pos:pos + {length}]{self._take}")
        src.line(f"pos += {length} + 3 & -4")
        with src.block("if pos > len(data):"):
            src.line("raise ended(what)")
        return result


@dataclass(frozen=True)
class Opaque(_Variable[bytes]):
    """opaque identifier<limit> and string identifier<limit> (sections 4.10, 4.11): bytes."""

    limit: int = MAX_LENGTH
    _take: ClassVar[str] = ".tobytes()"


@dataclass(frozen=True)
class OpaqueView(_Variable[Buffer]):
    """opaque identifier<limit>; reading gives a memoryview into the data, not a copy. What is
    written may be `Pieces` too."""

    limit: int = MAX_LENGTH
    _take: ClassVar[str] = ""

    def _emit_put(self, out: EncodeSource, value: str) -> None:
        with out.block(f"if type({value}) is {out.bind(Pieces, 'Pieces')}:"):
            out.line(f"for piece in {value}.parts: put(piece)")
        with out.block("else:"):
            out.line(f"put({value})")


def _emit_encode_limit(out: EncodeSource, length: str, limit: int) -> None:
    if limit < MAX_LENGTH:
        with out.block(f"if {length} > {limit}:"):
            out.line(f'raise unencodable(what, f"{{{length}}} is over the limit of {limit}")')


def _emit_decode_length(src: DecodeSource, limit: int) -> str:
    length = src.unpack("I")
    src.flush()
    if limit < MAX_LENGTH:
        with src.block(f"if {length} > {limit}:"):
            src.line(f"raise too_long(what, {length}, {limit})")
    return length


@dataclass(frozen=True)
class Void(Codec[None]):
    """void (section 4.16): no bytes, None."""

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        with out.block(f"if {value} is not None:"):
            out.line('raise unencodable(what, "a value where there is none")')

    def emit_decode(self, src: DecodeSource) -> str:
        return "None"


@dataclass(frozen=True)
class Optional(Codec[T | None]):
    """Optional data (section 4.19), also a union of bool with a void FALSE arm: None or a value."""

    item: Codec[T]

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.flush()
        local = out.fresh("some")
        out.line(f"{local} = {value}")
        with out.block(f"if {local} is None:"):
            out.line(f"put({out.bind(ZERO, 'zero')})")
        with out.block("else:"):
            out.pack("I", "1")
            self.item.emit_encode(out, local)
            out.flush()

    def emit_decode(self, src: DecodeSource) -> str:
        flag, result = src.unpack("I"), src.fresh("some")
        src.flush()
        with src.block(f"if {flag} == 1:"):
            emit_assign(src, result, self.item)
        with src.block(f"elif {flag} == 0:"):
            src.line(f"{result} = None")
        with src.block("else:"):
            src.line(f"raise unknown(what, {flag})")
        return result


def emit_assign(src: DecodeSource, target: str, codec: Codec[Any]) -> None:
    """Decode into a variable at once, as a branch must."""
    value = codec.emit_decode(src)
    src.flush()
    src.line(f"{target} = {value}")


@dataclass(frozen=True)
class Array(Codec[tuple[T, ...]]):
    """Variable-length array (section 4.13), a tuple; of integers it is one pack and one unpack."""

    item: Codec[T]
    limit: int = MAX_LENGTH

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        count = out.fresh("n")
        out.line(f"{count} = len({value})")
        _emit_encode_limit(out, count, self.limit)
        out.pack("I", count)
        _emit_encode_items(out, self.item, value, count)

    def emit_decode(self, src: DecodeSource) -> str:
        return _emit_decode_items(src, self.item, _emit_decode_length(src, self.limit))


@dataclass(frozen=True)
class FixedArray(Codec[tuple[T, ...]]):
    """Fixed-length array (section 4.12), a tuple."""

    item: Codec[T]
    length: int

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        with out.block(f"if len({value}) != {self.length}:"):
            out.line(f'raise unencodable(what, "an array of another length than {self.length}")')
        _emit_encode_items(out, self.item, value, str(self.length))

    def emit_decode(self, src: DecodeSource) -> str:
        src.flush()
        return _emit_decode_items(src, self.item, str(self.length))


def _emit_encode_items(out: EncodeSource, item: Codec[Any], value: str, count: str) -> None:
    out.flush()
    if isinstance(item, Integer):
        pack = out.bind(struct.pack, "pack")
        out.line(f'put({pack}(f">{{{count}}}{item.format}", *{value}))')
        return
    element = out.fresh("item")
    with out.block(f"for {element} in {value}:"):
        item.emit_encode(out, element)
        out.flush()


def _emit_decode_items(src: DecodeSource, item: Codec[Any], count: str) -> str:
    """An announced count costs nothing: each item takes bytes that must be there."""
    result = src.fresh("items")
    if isinstance(item, Integer):
        size = struct.calcsize(f">{item.format}")
        with src.block(f"if {count} * {size} > len(data) - pos:"):
            src.line("raise ended(what)")
        unpack = src.bind(struct.unpack_from, "unpack")
        src.line(f'{result} = {unpack}(f">{{{count}}}{item.format}", data, pos)')
        src.line(f"pos += {count} * {size}")
        return result
    src.line(f"{result} = []")
    with src.block(f"for {src.fresh('unused')} in range({count}):"):
        _emit_append(src, result, item)
    return f"tuple({result})"


def _emit_append(src: DecodeSource, result: str, item: Codec[Any]) -> None:
    value = item.emit_decode(src)
    src.flush()
    src.line(f"{result}.append({value})")


@dataclass(frozen=True)
class LinkedList(Codec[list[T]]):
    """A chain of optional data whose last member is the pointer to the next (section 4.19): a list.

    `item` is the structure without that pointer."""

    item: Codec[T]

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.flush()
        element = out.fresh("item")
        with out.block(f"for {element} in {value}:"):
            out.pack("I", "1")
            self.item.emit_encode(out, element)
            out.flush()
        out.pack("I", "0")

    def emit_decode(self, src: DecodeSource) -> str:
        src.flush()
        result = src.fresh("items")
        src.line(f"{result} = []")
        with src.block("while True:"):
            flag = src.unpack("I")
            src.flush()
            with src.block(f"if {flag} != 1:"):
                with src.block(f"if {flag} != 0:"):
                    src.line(f"raise unknown(what, {flag})")
                src.line("break")
            _emit_append(src, result, self.item)
        return result


@dataclass(frozen=True)
class Choice(Codec[Any]):
    """A union (section 4.15) with void arms but one: a constant per void arm, or a value."""

    constants: Mapping[IntEnum, object]  # by discriminant, told by identity
    member: IntEnum
    item: Codec[Any]

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.flush()
        word = "if"
        for discriminant, constant in self.constants.items():
            with out.block(f"{word} {value} is {out.bind(constant, 'constant')}:"):
                out.line(f"put({out.bind(struct.pack('>i', discriminant), 'arm')})")
            word = "elif"
        with out.block("else:"):
            out.pack("i", str(int(self.member)))
            self.item.emit_encode(out, value)
            out.flush()

    def emit_decode(self, src: DecodeSource) -> str:
        table = {int(key): constant for key, constant in self.constants.items()}
        flag, result = src.unpack("i"), src.fresh("choice")
        src.flush()
        with src.block(f"if {flag} == {int(self.member)}:"):
            emit_assign(src, result, self.item)
        with src.block("else:"):
            src.line(f"{result} = {src.bind(table, 'constants')}[{flag}]")
        return result
