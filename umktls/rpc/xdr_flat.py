"""Structures as plain tuples, for who reads so many that an object for each counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from umktls.rpc.xdr_codecs import Codec
from umktls.rpc.xdr_source import DecodeSource, EncodeSource
from umktls.rpc.xdr_structs import StructCodec

__all__ = ["Flat"]


@dataclass(frozen=True)
class Flat(Codec[tuple[Any, ...]]):
    """The fields of a structure in a tuple, those of structures in it in their place. It is for
    reading: what is written is the structure."""

    item: StructCodec[Any]

    def __str__(self) -> str:
        return str(self.item)

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        self.item.emit_encode(out, value)

    def emit_decode(self, src: DecodeSource) -> str:
        return f"({', '.join(_fields(self.item, src))},)"


def _fields(item: StructCodec[Any], src: DecodeSource) -> list[str]:
    values: list[str] = []
    for codec in item.fields.values():
        values += (
            _fields(codec, src) if isinstance(codec, StructCodec) else [codec.emit_decode(src)]
        )
    return values
