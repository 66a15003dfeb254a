"""How XDR types become Python functions.

Theory of operation. A type is a tree of codecs (xdr_codecs.py). Walking that tree for every
message would cost a call per field, so each top-level type is turned once, at its first use, into
the source of two plain functions, just as `dataclasses` makes an ``__init__``:

    write(put, value)       puts the pieces of the value's encoding, in order: put(piece)
    read(data, pos)         returns (value, position behind it); data is a memoryview of bytes

Nested types are written out in place. Neighbouring fields of fixed size, across the borders of
nested structures, join one run and cost one `struct.Struct` call: the 84 bytes of an fattr3 are one
unpack. A codec therefore *announces* a fixed-size field with `pack` or `unpack`, and the run is
written out by `flush` before anything whose place or existence depends on a value: variable data,
loops and branches. What `emit_decode` returns is an expression that is good once the run has been
flushed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from umktls.errors import CallerError, PeerError

__all__ = ["Buffer", "DecodeSource", "EncodeSource", "Pieces", "Put", "Read", "Write", "XdrError"]

Buffer = bytes | bytearray | memoryview
Put = Callable[[Buffer], object]
Write = Callable[[Put, Any], None]
Read = Callable[[memoryview, int], tuple[Any, int]]


class Pieces:
    """Bulk data in several buffers, in their order: it is encoded without being joined before."""

    __slots__ = ("_length", "parts")

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.parts = parts
        self._length = sum(map(len, parts))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


class XdrError(PeerError):
    """Bytes that are not the encoding of the type they should be: the one error of all decoding."""


class _Source:
    """The lines of one function and the objects that they name."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._lines: list[str] = []
        self._depth = 2
        self._serial = 0
        self._names: dict[str, Any] = {"what": what, "struct_error": struct.error}

    def bind(self, value: object, hint: str = "k") -> str:
        """A name under which the function finds `value`."""
        name = self.fresh(hint)
        self._names[name] = value
        return name

    def fresh(self, hint: str = "v") -> str:
        """A name that nothing else uses, for a local variable."""
        self._serial += 1
        return f"{hint}{self._serial}"

    def line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def _compile(self, head: str, tail: list[str]) -> Any:
        body = self._lines or ["        pass"]
        text = "\n".join([f"def {head}:", "    try:", *body, *tail])
        exec(compile(text, f"<xdr {self.what}>", "exec"), self._names)
        return self._names[head.partition("(")[0]]


class EncodeSource(_Source):
    """Builds write(put, value)."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._names.update(unencodable=unencodable)
        self._formats: list[str] = []
        self._values: list[str] = []

    def pack(self, fmt: str, value: str) -> None:
        """Add one field of fixed size to the current run; `fmt` without byte order."""
        self._formats.append(fmt)
        self._values.append(value)

    def flush(self) -> None:
        if not self._formats:
            return
        pack = struct.Struct(">" + "".join(self._formats)).pack
        if all(map(str.isdecimal, self._values)):
            self.line(f"put({self.bind(pack(*map(int, self._values)), 'constant')})")
        else:
            self.line(f"put({self.bind(pack, 'pack')}({', '.join(self._values)}))")
        self._formats.clear()
        self._values.clear()

    def finish(self) -> Write:
        self.flush()
        tail = [
            "    except struct_error as error:",
            "        raise unencodable(what, error) from error",
        ]
        write: Write = self._compile("write(put, value)", tail)
        return write


class DecodeSource(_Source):
    """Builds read(data, pos)."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._names.update(ended=ended, unknown=unknown, too_long=too_long)
        self._formats: list[str] = []
        self._targets: list[str] = []

    def unpack(self, fmt: str) -> str:
        """Add one field of fixed size to the current run; the variable that will hold it."""
        target = self.fresh()
        self._formats.append(fmt)
        self._targets.append(target)
        return target

    def flush(self) -> None:
        if not self._formats:
            return
        layout = struct.Struct(">" + "".join(self._formats))
        unpacker = self.bind(layout.unpack_from, "unpack")
        self.line(f"{', '.join(self._targets)}, = {unpacker}(data, pos)")
        self.line(f"pos += {layout.size}")
        self._formats.clear()
        self._targets.clear()

    def finish(self, result: str) -> Read:
        self.flush()
        self.line(f"return {result}, pos")
        tail = [
            "    except struct_error:",
            "        raise ended(what) from None",
            "    except KeyError as error:",
            "        raise unknown(what, error.args[0]) from None",
        ]
        read: Read = self._compile("read(data, pos)", tail)
        return read


def unencodable(what: str, reason: object) -> CallerError:
    return CallerError(f"cannot encode {what}: {reason}")


def ended(what: str) -> XdrError:
    return XdrError(f"the data ended inside {what}")


def unknown(what: str, value: object) -> XdrError:
    return XdrError(f"{value} inside {what} is not a value of its enumeration")


def too_long(what: str, length: int, limit: int) -> XdrError:
    return XdrError(f"a length of {length} inside {what} is over its limit of {limit}")
