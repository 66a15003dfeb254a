"""Every number in a value of a declared type, each put to the limits of what the wire can say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from umktls.rpc import xdr

__all__ = ["LIMITS", "lies"]

LIMITS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_BITS = {"i": 32, "I": 32, "q": 64, "Q": 64}


def lies(codec: xdr.Codec[Any], value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a value in each of which one number is another: where and what, the copy.

    Enumerations are numbers too, also those that have no member for it. Discriminants of unions
    are not: another one needs other fields.
    """
    match codec:
        case xdr.Integer(format):
            yield from _numbers(format)
        case xdr.Enumeration():
            yield from _numbers("i")
        case xdr.Optional(item):
            yield from lies(item, value) if value is not None else ()
        case xdr.Recurring(item):
            yield from lies(item, value)
        case xdr.Choice(_, _, item):
            yield from lies(item, value) if isinstance(value, xdr.Struct) else ()
        case xdr.LinkedList(item):
            yield from _in_list(item, value)
        case xdr.ResultCodec(ok, fail):
            yield from lies(ok.xdr if type(value) is ok else fail.xdr, value)
        case xdr.UnionCodec() | xdr.StructCodec():
            yield from _in_fields(codec, value)


def _numbers(layout: str) -> Iterator[tuple[str, int]]:
    bits = _BITS[layout]
    for number in LIMITS:
        if number < 1 << bits:
            signed = layout.islower() and number >> (bits - 1)
            yield f"={number}", number - (1 << bits) if signed else number


def _in_list(item: xdr.Codec[Any], value: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, one in enumerate(value):
        for where, lie in lies(item, one):
            yield f"[{index}]{where}", [*value[:index], lie, *value[index + 1 :]]


def _in_fields(
    codec: xdr.UnionCodec[Any] | xdr.StructCodec[Any], value: Any
) -> Iterator[tuple[str, Any]]:
    names = [field.name for field in fields(value)]
    for name in names[1:] if isinstance(codec, xdr.UnionCodec) else names:
        inner = getattr(value, name)
        for where, lie in lies(codec.fields[name], inner) if inner is not None else ():
            made = {other: lie if other == name else getattr(value, other) for other in names}
            yield f".{name}{where}", type(value)(**made)
