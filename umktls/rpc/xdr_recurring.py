"""A codec that knows a value again by its bytes.

What clients wish for new files is the same mostly: a mode and nothing else. To read that field by
field, each of which may be missing, costs as much as all else of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from umktls.rpc.xdr_codecs import Codec
from umktls.rpc.xdr_source import DecodeSource, EncodeSource

__all__ = ["Recurring"]

T = TypeVar("T")
# So many values are remembered of a type, of so many bytes at most.
RECURRING_VALUES, RECURRING_BYTES = 64, 128


@dataclass(frozen=True)
class Recurring(Codec[T]):
    """A type of which the same few values come again and again, at the end of a message: which one
    it is, is told by the bytes that are left, without a look into them."""

    item: Codec[T]

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        self.item.emit_encode(out, value)

    def emit_decode(self, src: DecodeSource) -> str:
        src.flush()
        result, count = src.fresh("known"), src.fresh("count")
        read, known = src.bind(self.item.read, "read"), src.bind(self._known(), "recall")
        with src.block(f"if len(data) - pos > {RECURRING_BYTES}:"):
            src.line(f"{result}, pos = {read}(data, pos)")
        with src.block("else:"):
            src.line(f"{result}, {count} = {known}(data[pos:].tobytes())")
            src.line(f"pos += {count}")
        return result

    def _known(self) -> Callable[[bytes], tuple[Any, int]]:
        read = self.item.read
        return lru_cache(RECURRING_VALUES)(lambda wire: read(memoryview(wire), 0))
