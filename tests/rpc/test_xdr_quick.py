"""XDR where it has to be quick: encodings in the place of values, values known by their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from tests.rpc.laws import encoded
from tests.rpc.test_xdr import SILLYPROG, file
from umktls.rpc import xdr


@xdr.ready_struct
class Made(xdr.Struct):
    """As what each reply of a server has."""

    number: xdr.Uint
    name: Annotated[bytes, xdr.string(10)]


@xdr.struct
class Holder(xdr.Struct):
    before: xdr.Uint
    made: Made
    maybe: Made | None
    behind: xdr.Uint


def test_an_encoding_may_stand_for_a_value() -> None:
    made = Made(7, b"seven")
    ready: Any = b"".join(Made.xdr.encode(made))
    whole = encoded(xdr.codec(Holder), Holder(1, made, made, 2))
    assert encoded(xdr.codec(Holder), Holder(1, ready, ready, 2)) == whole
    assert encoded(Made.xdr, ready) == ready
    assert Holder.xdr.decode_untrusted(whole) == Holder(1, made, made, 2)


@xdr.struct
class Tail(xdr.Struct):
    number: xdr.Uint
    kind: Annotated[file, xdr.recurring(file)]


def test_what_recurs_is_known_by_its_bytes() -> None:
    codec = xdr.codec(Tail)
    first, again = (codec.decode_untrusted(encoded(codec, Tail(n, SILLYPROG))) for n in (1, 2))
    assert (first, again) == (Tail(1, SILLYPROG), Tail(2, SILLYPROG))
    assert first.kind is again.kind
    other = replace(SILLYPROG, owner=b"jane")
    assert codec.decode_untrusted(encoded(codec, Tail(3, other))) == Tail(3, other)


def test_what_recurs_is_not_kept_when_it_is_long() -> None:
    codec, long = xdr.codec(Tail), replace(SILLYPROG, data=bytes(129))
    first, again = (codec.decode_untrusted(encoded(codec, Tail(1, long))) for _ in range(2))
    assert first == again == Tail(1, long)
    assert first.kind is not again.kind
