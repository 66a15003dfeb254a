"""XDR, the External Data Representation (RFC 4506): what the rest of the project imports.

Types are declared as dataclasses (`struct`, `union`) out of the codecs below; values go through
`Codec.encode` and `Codec.decode_untrusted`. `Encoder` and `Decoder` are for what is written by
hand.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, overload

from umktls.rpc.xdr_codecs import (
    MAX_LENGTH,
    Array,
    Boolean,
    Choice,
    Codec,
    Enumeration,
    FixedArray,
    FixedOpaque,
    Integer,
    LinkedList,
    Opaque,
    OpaqueView,
    Optional,
    Void,
)
from umktls.rpc.xdr_coders import BOOL, Decoder, Encoder
from umktls.rpc.xdr_flat import Flat
from umktls.rpc.xdr_recurring import Recurring
from umktls.rpc.xdr_source import Buffer, Pieces, XdrError
from umktls.rpc.xdr_structs import (
    ResultCodec,
    Struct,
    StructCodec,
    UnionCodec,
    codec_of,
    ready_struct,
    struct,
    union,
)

__all__ = [
    "BOOL",
    "HYPER",
    "INT",
    "MAX_LENGTH",
    "UHYPER",
    "UINT",
    "VOID",
    "Array",
    "Boolean",
    "Buffer",
    "Choice",
    "Codec",
    "Decoder",
    "Encoder",
    "Enumeration",
    "FixedArray",
    "FixedOpaque",
    "Flat",
    "Hyper",
    "Int",
    "Integer",
    "LinkedList",
    "Opaque",
    "OpaqueView",
    "Optional",
    "Pieces",
    "Recurring",
    "ResultCodec",
    "Struct",
    "StructCodec",
    "Uhyper",
    "Uint",
    "UnionCodec",
    "Void",
    "XdrError",
    "array",
    "codec",
    "fixed",
    "fixed_array",
    "linked",
    "opaque",
    "opaque_view",
    "optional",
    "ready_struct",
    "recurring",
    "result",
    "string",
    "struct",
    "union",
]

T = TypeVar("T")
OkT = TypeVar("OkT", bound=Struct)
FailT = TypeVar("FailT", bound=Struct)
S = TypeVar("S", bound=Struct)

INT = Integer("i")
UINT = Integer("I")
HYPER = Integer("q")
UHYPER = Integer("Q")
VOID = Void()

Int = Annotated[int, INT]
Uint = Annotated[int, UINT]
Hyper = Annotated[int, HYPER]
Uhyper = Annotated[int, UHYPER]


def fixed(length: int) -> FixedOpaque:
    """opaque[length]: bytes of exactly that length."""
    return FixedOpaque(length)


def opaque(limit: int = MAX_LENGTH) -> Opaque:
    """opaque<limit>: bytes."""
    return Opaque(limit)


def opaque_view(limit: int = MAX_LENGTH) -> OpaqueView:
    """opaque<limit> for bulk data: reading gives a memoryview into the message, without a copy."""
    return OpaqueView(limit)


def string(limit: int = MAX_LENGTH) -> Opaque:
    """string<limit>: bytes, because RFC 4506 says ASCII and the world puts anything there."""
    return Opaque(limit)


def optional(item: Any) -> Optional[Any]:
    """item *: None or a value."""
    return Optional(codec_of(item))


def recurring(item: Any) -> Recurring[Any]:
    """item, at the end of a message, where the same few values recur."""
    return Recurring(codec_of(item))


def array(item: Any, limit: int = MAX_LENGTH) -> Array[Any]:
    """item<limit>: a tuple."""
    return Array(codec_of(item), limit)


def fixed_array(item: Any, length: int) -> FixedArray[Any]:
    """item[length]: a tuple."""
    return FixedArray(codec_of(item), length)


@overload
def linked(item: type[S]) -> LinkedList[S]: ...
@overload
def linked(item: Any) -> LinkedList[Any]: ...
def linked(item: Any) -> LinkedList[Any]:
    """A linked list; `item` is the node without its pointer: a list."""
    return LinkedList(codec_of(item))


def result(ok: type[OkT], fail: type[FailT]) -> ResultCodec[OkT, FailT]:
    """A union over `status`: `ok` (status as a class attribute) or `fail` (as its first field)."""
    return ResultCodec(ok, fail)


@overload
def codec(declared: type[S]) -> Codec[S]: ...
@overload
def codec(declared: Codec[T]) -> Codec[T]: ...
@overload
def codec(declared: Any) -> Codec[Any]: ...
def codec(declared: Any) -> Codec[Any]:
    """The codec of a structure, an enumeration, an annotation, or of a codec (itself)."""
    return codec_of(declared)
