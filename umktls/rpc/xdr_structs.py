"""Structures and discriminated unions (RFC 4506 sections 4.14, 4.15) as frozen dataclasses.

    @struct
    class nfstime3(Struct):
        seconds: Uint
        nseconds: Uint

The annotations are the declaration: `Annotated[type, codec]`, another structure, an IntEnum, bool,
or `X | None` for optional data. They are read at the first use, so importing many types is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import IntEnum
from functools import cached_property
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc.frozen import frozen, maker
from umktls.rpc.xdr_codecs import Boolean, Codec, Enumeration, Optional, emit_assign
from umktls.rpc.xdr_coders import Decoder, Encoder
from umktls.rpc.xdr_source import DecodeSource, EncodeSource

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
OkT = TypeVar("OkT")
FailT = TypeVar("FailT")
S = TypeVar("S", bound="Struct")


class Struct:
    """Base of all declared structures and unions."""

    __slots__ = ()
    xdr: ClassVar[Codec[Any]]

    def encode(self, encoder: Encoder) -> None:
        self.xdr.write(encoder.put, self)

    @classmethod
    def decode(cls, decoder: Decoder) -> Self:
        """The next value; raises XdrError only."""
        value: Self = decoder.read(cls.xdr)
        return value


@dataclass_transform(frozen_default=True)
def struct(cls: type[S]) -> type[S]:
    """Make a frozen, slotted dataclass with a codec out of a declaration."""
    made = frozen(cls)
    made.xdr = StructCodec(made)
    return made


@dataclass_transform(frozen_default=True)
def ready_struct(cls: type[S]) -> type[S]:
    """As `struct`. In the place of a value that is to be encoded its encoding may stand, as bytes:
    for who makes so many that one pack in place of an object and its pack counts."""
    made = frozen(cls)
    made.xdr = StructCodec(made, may_be_ready=True)
    return made


Arms = Mapping[IntEnum, tuple[str, ...]]


@dataclass_transform(frozen_default=True)
def union(arms: Arms, default: tuple[str, ...] | None = None) -> Callable[[type[S]], type[S]]:
    """Make a discriminated union out of a declaration whose first field is the discriminant.

    `arms` names the fields that each discriminant has; the others are None and take no bytes. A
    discriminant without an arm has the `default` one; without a default it is an error."""

    def make(cls: type[S]) -> type[S]:
        made = frozen(cls)
        made.xdr = UnionCodec(made, arms, default)
        return made

    return make


def codec_of(declared: Any) -> Codec[Any]:
    """The codec of what may stand as an annotation (or of a codec: itself)."""
    if isinstance(declared, Codec):
        return declared
    if get_origin(declared) is Annotated:
        return _codec_among(declared.__metadata__, declared)
    if get_origin(declared) in (Union, UnionType) and len(_without_none(declared)) == 1:
        return Optional(codec_of(_without_none(declared)[0]))
    if declared is bool:
        return Boolean()
    if isinstance(declared, type) and issubclass(declared, Struct):
        return declared.xdr
    if isinstance(declared, type) and issubclass(declared, IntEnum):
        return Enumeration(declared)
    raise CallerError(f"{declared!r} does not say how it is encoded")


def _codec_among(metadata: tuple[Any, ...], declared: Any) -> Codec[Any]:
    for item in metadata:
        if isinstance(item, Codec):
            return item
    raise CallerError(f"{declared!r} has no codec among its annotations")


def _without_none(declared: Any) -> list[Any]:
    return [arg for arg in get_args(declared) if arg is not NoneType]


def _declared_fields(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _emit_local(out: EncodeSource, value: str) -> str:
    """A local variable for an attribute that will be looked into more than once."""
    if value.isidentifier():
        return value
    local = out.fresh()
    out.line(f"{local} = {value}")
    return local


@dataclass(frozen=True)
class StructCodec(Codec[S]):
    """struct (section 4.14): the fields in their order."""

    cls: type[S]
    may_be_ready: bool = False

    def __str__(self) -> str:
        return self.cls.__name__

    @cached_property
    def fields(self) -> dict[str, Codec[Any]]:
        return {name: codec_of(hint) for name, hint in _declared_fields(self.cls).items()}

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        local = _emit_local(out, value)
        if not self.may_be_ready:
            self._emit_encode_fields(out, local)
            return
        out.flush()
        with out.block(f"if {local}.__class__ is {out.bind(bytes, 'bytes')}:"):
            out.line(f"put({local})")
        with out.block("else:"):
            self._emit_encode_fields(out, local)
            out.flush()

    def _emit_encode_fields(self, out: EncodeSource, local: str) -> None:
        for name, codec in self.fields.items():
            codec.emit_encode(out, f"{local}.{name}")

    def emit_decode(self, src: DecodeSource) -> str:
        values = [codec.emit_decode(src) for codec in self.fields.values()]
        return f"{src.bind(maker(self.cls), 'make')}({', '.join(values)})"


@dataclass(frozen=True)
class UnionCodec(Codec[S]):
    """union (section 4.15): see `union` for how the arms are told."""

    cls: type[S]
    arms: Arms
    default: tuple[str, ...] | None

    def __str__(self) -> str:
        return self.cls.__name__

    @cached_property
    def fields(self) -> dict[str, Codec[Any]]:
        """The discriminant, then the fields of the arms (without the None of the other arms)."""
        hints = _declared_fields(self.cls)
        return {name: codec_of(_arm_type(hint)) for name, hint in hints.items()}

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.flush()
        local, (name, discriminant) = _emit_local(out, value), next(iter(self.fields.items()))
        word = "if"
        for number, arm in self.arms.items():
            with out.block(f"{word} {local}.{name} == {int(number)}:"):
                discriminant.emit_encode(out, f"{local}.{name}")
                self._emit_encode_arm(out, local, arm)
            word = "elif"
        with out.block("else:"):
            if self.default is None:
                out.line('raise unencodable(what, "a discriminant without an arm")')
            else:
                discriminant.emit_encode(out, f"{local}.{name}")
                self._emit_encode_arm(out, local, self.default)

    def _emit_encode_arm(self, out: EncodeSource, local: str, arm: tuple[str, ...]) -> None:
        for name in arm:
            with out.block(f"if {local}.{name} is None:"):
                out.line(f'raise unencodable(what, "{name} is missing")')
            self.fields[name].emit_encode(out, f"{local}.{name}")
        out.flush()

    def emit_decode(self, src: DecodeSource) -> str:
        names = list(self.fields)
        flag, number, result = src.fresh("flag"), src.fresh("number"), src.fresh("union")
        emit_assign(src, flag, self.fields[names[0]])
        src.line(f"{number} = int({flag})")
        word = "if"
        for value, arm in self.arms.items():
            with src.block(f"{word} {number} == {int(value)}:"):
                self._emit_decode_arm(src, result, flag, arm)
            word = "elif"
        with src.block("else:"):
            if self.default is None:
                src.line(f"raise unknown(what, {number})")
            else:
                self._emit_decode_arm(src, result, flag, self.default)
        return result

    def _emit_decode_arm(
        self, src: DecodeSource, result: str, flag: str, arm: tuple[str, ...]
    ) -> None:
        values = {name: self.fields[name].emit_decode(src) for name in arm}
        src.flush()
        rest = [values.get(name, "None") for name in list(self.fields)[1:]]
        src.line(f"{result} = {src.bind(maker(self.cls), 'make')}({', '.join([flag, *rest])})")


def _arm_type(declared: Any) -> Any:
    if get_origin(declared) in (Union, UnionType) and len(_without_none(declared)) == 1:
        return _without_none(declared)[0]
    return declared


@dataclass(frozen=True)
class ResultCodec(Codec[OkT | FailT]):
    """A union over a status with one arm for success and one for all else, as two structures.

    `ok` has the status as a class attribute, `fail` as its first field, both named `status`."""

    ok: type[OkT]
    fail: type[FailT]

    def __str__(self) -> str:
        return f"{self.ok.__name__} or {self.fail.__name__}"

    def emit_encode(self, out: EncodeSource, value: str) -> None:
        out.flush()
        good, bad = out.bind(self.ok, "ok"), out.bind(self.fail, "fail")
        success = int(self.ok.status)  # type: ignore[attr-defined]
        with out.block(f"if {value}.__class__ is {good}:"):
            out.pack("i", str(success))
            codec_of(self.ok).emit_encode(out, value)
            out.flush()
        with out.block(f"elif {value}.__class__ is {bad} and {value}.status != {success}:"):
            codec_of(self.fail).emit_encode(out, value)
            out.flush()
        with out.block("else:"):
            out.line(f"raise unencodable(what, {value}.__class__.__name__)")

    def emit_decode(self, src: DecodeSource) -> str:
        flag, result = src.unpack("i"), src.fresh("result")
        src.flush()
        with src.block(f"if {flag} == {int(self.ok.status)}:"):  # type: ignore[attr-defined]
            emit_assign(src, result, codec_of(self.ok))
        with src.block("else:"):
            src.line("pos -= 4")
            emit_assign(src, result, codec_of(self.fail))
        return result
