"""Hypothesis strategies for any declared XDR type, made from its codec."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from umktls.rpc import xdr

LONGEST = 40  # bytes of an opaque; crosses every padding
MOST = 3  # items of an array or list

RANGES = {
    "i": (-(2**31), 2**31 - 1),
    "I": (0, 2**32 - 1),
    "q": (-(2**63), 2**63 - 1),
    "Q": (0, 2**64 - 1),
}

Strategy = st.SearchStrategy[Any]


def values_of(codec: xdr.Codec[Any]) -> Strategy:
    """All values that the codec can carry, sizes bounded for speed."""
    return STRATEGIES[type(codec)](codec)


def _integers(codec: xdr.Integer) -> Strategy:
    assert struct.calcsize(f">{codec.format}") in (4, 8)
    return st.integers(*RANGES[codec.format])


def _opaque(codec: xdr.Opaque | xdr.OpaqueView) -> Strategy:
    return st.binary(max_size=min(codec.limit, LONGEST))


def _array(codec: xdr.Array[Any]) -> Strategy:
    return st.lists(values_of(codec.item), max_size=min(codec.limit, MOST)).map(tuple)


def _fixed_array(codec: xdr.FixedArray[Any]) -> Strategy:
    return st.tuples(*[values_of(codec.item)] * codec.length)


def _struct(codec: xdr.StructCodec[Any]) -> Strategy:
    return st.builds(codec.cls, *map(values_of, codec.fields.values()))


def _choice(codec: xdr.Choice) -> Strategy:
    return st.sampled_from(list(codec.constants.values())) | values_of(codec.item)


def _union(codec: xdr.UnionCodec[Any]) -> Strategy:
    discriminant = next(iter(codec.fields.values()))

    def arm(value: Any) -> Strategy:
        fields = codec.arms.get(value, codec.default)
        assert fields is not None
        return st.builds(
            codec.cls, st.just(value), **{f: values_of(codec.fields[f]) for f in fields}
        )

    allowed = values_of(discriminant)
    if codec.default is None:
        allowed = st.sampled_from(list(codec.arms))
    return allowed.flatmap(arm)


def _result(codec: xdr.ResultCodec[Any, Any]) -> Strategy:
    fail = values_of(codec.fail.xdr).filter(lambda value: value.status != codec.ok.status)
    return values_of(codec.ok.xdr) | fail


STRATEGIES: dict[type, Callable[[Any], Strategy]] = {
    xdr.Integer: _integers,
    xdr.Boolean: lambda codec: st.booleans(),
    xdr.Enumeration: lambda codec: st.sampled_from(list(codec.members)),
    xdr.FixedOpaque: lambda codec: st.binary(min_size=codec.length, max_size=codec.length),
    xdr.Opaque: _opaque,
    xdr.OpaqueView: _opaque,
    xdr.Void: lambda codec: st.none(),
    xdr.Optional: lambda codec: st.none() | values_of(codec.item),
    xdr.Recurring: lambda codec: values_of(codec.item),
    xdr.Array: _array,
    xdr.FixedArray: _fixed_array,
    xdr.LinkedList: lambda codec: st.lists(values_of(codec.item), max_size=MOST),
    xdr.Choice: _choice,
    xdr.StructCodec: _struct,
    xdr.UnionCodec: _union,
    xdr.ResultCodec: _result,
}
