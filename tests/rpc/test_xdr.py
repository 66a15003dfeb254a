"""XDR: known answers by hand and from RFC 4506, refusals, and laws for all codecs."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.laws import (
    check_exact_length,
    check_flipped,
    check_round_trip,
    decoded_or_none,
    encoded,
)
from tests.rpc.strategies import values_of
from umktls.errors import CallerError, PeerError
from umktls.rpc import xdr


class filekind(IntEnum):
    TEXT = 0
    DATA = 1
    EXEC = 2


@xdr.union(
    {filekind.TEXT: (), filekind.DATA: ("creator",), filekind.EXEC: ("interpretor",)},
)
class filetype(xdr.Struct):
    kind: filekind
    creator: Annotated[bytes | None, xdr.string(255)] = None
    interpretor: Annotated[bytes | None, xdr.string(255)] = None


@xdr.struct
class file(xdr.Struct):
    """The example of RFC 4506 section 7."""

    filename: Annotated[bytes, xdr.string(255)]
    type: filetype
    owner: Annotated[bytes, xdr.string(32)]
    data: Annotated[bytes, xdr.opaque(65535)]


class Status(IntEnum):
    OK = 0
    BAD = -1
    WORSE = 7


@xdr.struct
class Point(xdr.Struct):
    x: xdr.Int
    y: xdr.Hyper


@xdr.struct
class Good(xdr.Struct):
    status: ClassVar[Status] = Status.OK
    point: Point


@xdr.struct
class Bad(xdr.Struct):
    status: Status
    reason: Annotated[bytes, xdr.string(20)] = b""


ANYTIME, NEVER = object(), object()


class When(IntEnum):
    NEVER = 0
    ANYTIME = 1
    AT = 2


@xdr.union({When.AT: ("point", "points")}, default=("word",))
class Defaulted(xdr.Struct):
    when: When
    point: Point | None = None
    points: Annotated[tuple[Point, ...] | None, xdr.array(Point, 2)] = None
    word: xdr.Uint | None = None


@xdr.struct
class Everything(xdr.Struct):
    """Each codec once, so that runs of fixed fields meet all others."""

    number: xdr.Int
    natural: xdr.Uint
    wide: xdr.Hyper
    huge: xdr.Uhyper
    flag: bool
    status: Status
    tag: Annotated[bytes, xdr.fixed(5)]
    name: Annotated[bytes, xdr.string(10)]
    body: Annotated[xdr.Buffer, xdr.opaque_view()]
    point: Point
    maybe: Point | None
    maybe_name: Annotated[bytes | None, xdr.optional(xdr.string(6))]
    numbers: Annotated[tuple[int, ...], xdr.array(xdr.UHYPER, 4)]
    points: Annotated[tuple[Point, ...], xdr.array(Point, 4)]
    triple: Annotated[tuple[int, ...], xdr.fixed_array(xdr.INT, 3)]
    pair: Annotated[tuple[bytes, ...], xdr.fixed_array(xdr.string(3), 2)]
    chain: Annotated[list[Point], xdr.linked(Point)]
    when: Annotated[
        object,
        xdr.Choice({When.NEVER: NEVER, When.ANYTIME: ANYTIME}, When.AT, xdr.codec(Point)),
    ]
    kind: filetype
    other: Defaulted
    nothing: Annotated[None, xdr.VOID]
    outcome: Annotated[Good | Bad, xdr.result(Good, Bad)]
    recurring: Annotated[Point, xdr.recurring(Point)]


SILLYPROG = file(b"sillyprog", filetype(filekind.EXEC, interpretor=b"lisp"), b"john", b"(quit)")
SILLYPROG_BYTES = bytes.fromhex(
    """
    00000009 73696c6c 7970726f 67000000  00000002
    00000004 6c697370  00000004 6a6f686e  00000006 28717569 74290000
    """
)


def test_the_example_of_the_rfc() -> None:
    codec = xdr.codec(file)
    assert encoded(codec, SILLYPROG) == SILLYPROG_BYTES
    assert codec.decode_untrusted(SILLYPROG_BYTES) == SILLYPROG


def test_a_structure_encodes_itself_among_others() -> None:
    encoder = xdr.Encoder()
    encoder.uint(1)
    SILLYPROG.encode(encoder)
    assert encoder.getvalue() == b"\0\0\0\1" + SILLYPROG_BYTES
    decoder = xdr.Decoder(encoder.getvalue())
    assert decoder.uint() == 1
    assert file.decode(decoder) == SILLYPROG
    decoder.done()


KNOWN: list[tuple[xdr.Codec[Any], Any, str]] = [
    (xdr.INT, -2, "fffffffe"),
    (xdr.UINT, 0xFFFFFFFE, "fffffffe"),
    (xdr.HYPER, -2, "fffffffffffffffe"),
    (xdr.UHYPER, 1 << 63, "8000000000000000"),
    (xdr.BOOL, True, "00000001"),
    (xdr.BOOL, False, "00000000"),
    (xdr.codec(Status), Status.BAD, "ffffffff"),
    (xdr.VOID, None, ""),
    (xdr.fixed(3), b"abc", "61626300"),
    (xdr.fixed(0), b"", ""),
    (xdr.opaque(), b"", "00000000"),
    (xdr.opaque(), b"abcd", "0000000461626364"),
    (xdr.string(5), b"abcde", "000000056162636465000000"),
    (xdr.opaque_view(), b"a", "0000000161000000"),
    (xdr.optional(xdr.UINT), None, "00000000"),
    (xdr.optional(xdr.UINT), 5, "0000000100000005"),
    (xdr.optional(xdr.string()), b"ab", "000000010000000261620000"),
    (xdr.array(xdr.UINT), (1, 2), "000000020000000100000002"),
    (xdr.array(xdr.string()), (b"a", b""), "00000002000000016100000000000000"),
    (xdr.fixed_array(xdr.INT, 2), (1, -1), "00000001ffffffff"),
    (xdr.linked(xdr.codec(Point)), [], "00000000"),
    (
        xdr.linked(Point),
        [Point(1, 2), Point(3, 4)],
        "00000001 00000001 0000000000000002 00000001 00000003 0000000000000004 00000000",
    ),
    (xdr.result(Good, Bad), Good(Point(1, 2)), "00000000 00000001 0000000000000002"),
    (xdr.result(Good, Bad), Bad(Status.WORSE, b"no"), "00000007 00000002 6e6f0000"),
    (xdr.codec(filetype), filetype(filekind.TEXT), "00000000"),
    (xdr.codec(Defaulted), Defaulted(When.NEVER, word=9), "00000000 00000009"),
]


@pytest.mark.parametrize(("codec", "value", "expected"), KNOWN, ids=[k[2] for k in KNOWN])
def test_known_answers(codec: xdr.Codec[Any], value: Any, expected: str) -> None:
    assert encoded(codec, value) == bytes.fromhex(expected)
    assert codec.decode_untrusted(bytes.fromhex(expected)) == value


def test_a_choice_gives_back_the_very_constants() -> None:
    codec = xdr.Choice({When.NEVER: NEVER, When.ANYTIME: ANYTIME}, When.AT, xdr.codec(Point))
    assert encoded(codec, ANYTIME).hex() == "00000001"
    assert codec.decode_untrusted(bytes.fromhex("00000000")) is NEVER
    assert codec.decode_untrusted(bytes.fromhex("00000001")) is ANYTIME
    data = bytes.fromhex("00000002 00000001 0000000000000002")
    assert codec.decode_untrusted(data) == Point(1, 2)


REFUSED: list[tuple[str, xdr.Codec[Any], str]] = [
    ("bool of 2", xdr.BOOL, "00000002"),
    ("unknown enum", xdr.codec(Status), "00000001"),
    ("optional flag of 2", xdr.optional(xdr.UINT), "0000000200000005"),
    ("list flag of 2", xdr.linked(Point), "00000002"),
    ("opaque over its limit", xdr.opaque(3), "0000000461626364"),
    ("opaque with a huge length", xdr.opaque(), "ffffffff61626364"),
    ("opaque without its padding", xdr.opaque(), "0000000161"),
    ("array over its limit", xdr.array(xdr.UINT, 1), "000000020000000100000002"),
    ("array with a huge count", xdr.array(xdr.UINT), "ffffffff00000001"),
    ("array of structures with a huge count", xdr.array(Point), "ffffffff00000001"),
    ("discriminant without an arm", xdr.codec(filetype), "00000003"),
    ("choice without an arm", xdr.codec(Everything).fields["when"], "00000003"),  # type: ignore[attr-defined]
    ("status that does not exist", xdr.result(Good, Bad), "0000000100000000"),
    ("too short", xdr.UHYPER, "00000000"),
    ("too long", xdr.UINT, "0000000000000000"),
    ("something where nothing is", xdr.VOID, "00000000"),
]


@pytest.mark.parametrize(("codec", "data"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_by_decoding(codec: xdr.Codec[Any], data: str) -> None:
    with pytest.raises(xdr.XdrError) as caught:
        codec.decode_untrusted(bytes.fromhex(data))
    assert isinstance(caught.value, PeerError)
    assert caught.value.errno_name == "EBADMSG"


UNENCODABLE: list[tuple[str, xdr.Codec[Any], Any]] = [
    ("negative unsigned", xdr.UINT, -1),
    ("too large", xdr.INT, 1 << 31),
    ("not a number", xdr.UINT, "1"),
    ("fixed opaque of another length", xdr.fixed(3), b"ab"),
    ("opaque over its limit", xdr.opaque(3), b"abcd"),
    ("array over its limit", xdr.array(xdr.UINT, 1), (1, 2)),
    ("array with a bad item", xdr.array(xdr.UINT), (1, -2)),
    ("fixed array of another length", xdr.fixed_array(xdr.UINT, 2), (1,)),
    ("a value where nothing is", xdr.VOID, 0),
    ("an arm that is missing", xdr.codec(filetype), filetype(filekind.DATA)),
    ("a failure with the status of success", xdr.result(Good, Bad), Bad(Status.OK)),
    ("another structure", xdr.result(Good, Bad), Point(1, 2)),
]


@pytest.mark.parametrize(
    ("codec", "value"), [u[1:] for u in UNENCODABLE], ids=[u[0] for u in UNENCODABLE]
)
def test_refused_by_encoding(codec: xdr.Codec[Any], value: Any) -> None:
    with pytest.raises(CallerError):
        codec.encode(value)


def test_padding_is_written_as_zeros_and_not_looked_at() -> None:
    assert xdr.opaque().decode_untrusted(bytes.fromhex("00000001 61ffffff")) == b"a"
    assert xdr.fixed(1).decode_untrusted(bytes.fromhex("61ffffff")) == b"a"


@pytest.mark.parametrize("size", [4096, 4097, 1 << 20])
def test_bulk_data_is_not_copied(size: int) -> None:
    data = bytearray(size)
    codec = xdr.opaque_view()
    parts = codec.encode(memoryview(data))
    assert [len(part) for part in parts] == [4, size] + [-size % 4] * bool(size % 4)
    assert isinstance(parts[1], memoryview)
    assert parts[1].obj is data
    message = bytearray(b"".join(parts))
    view = codec.decode_untrusted(message)
    assert isinstance(view, memoryview)
    assert view.obj is message
    data[0] = message[4] = 9
    assert parts[1][0] == view[0] == 9


@pytest.mark.parametrize("lengths", [(), (5,), (4096, 4096), (5000, 1, 7000), (0, 4097, 2)])
def test_bulk_data_in_pieces_is_encoded_as_if_it_were_joined(lengths: tuple[int, ...]) -> None:
    parts = [bytes([number]) * length for number, length in enumerate(lengths, 1)]
    codec, pieces = xdr.opaque_view(), xdr.Pieces(parts)
    assert len(pieces) == sum(lengths)
    encoded = codec.encode(cast(bytes, pieces))
    assert b"".join(encoded) == b"".join(codec.encode(bytes(pieces)))
    long = [part for part in parts if len(part) >= 4096]
    assert [part for part in encoded if any(part is one for one in long)] == long


def test_small_data_is_joined_and_copied() -> None:
    assert len(xdr.opaque_view().encode(bytes(4095))) == 1
    message = bytearray(bytes.fromhex("0000000161000000"))
    value = xdr.opaque().decode_untrusted(message)
    message[4] = 0
    assert value == b"a"


@settings(max_examples=60)
@given(values_of(xdr.codec(Everything)))
def test_every_codec_round_trips(value: Everything) -> None:
    check_round_trip(xdr.codec(Everything), value)


@settings(max_examples=60)
@given(values_of(xdr.codec(Everything)), st.integers(0, 10_000))
def test_every_codec_takes_exactly_its_bytes(value: Everything, cut: int) -> None:
    check_exact_length(xdr.codec(Everything), value, cut)


@settings(max_examples=60)
@given(values_of(xdr.codec(Everything)), st.integers(0, 10_000), st.integers(1, 255))
def test_every_codec_notices_a_changed_byte(value: Everything, place: int, mask: int) -> None:
    check_flipped(xdr.codec(Everything), value, place, mask)


@given(st.sampled_from([k[0] for k in KNOWN]), st.binary(max_size=64))
def test_arbitrary_bytes_raise_only_xdr_errors(codec: xdr.Codec[Any], data: bytes) -> None:
    decoded_or_none(codec, data)


READERS: list[tuple[str, Any]] = [
    ("uint", st.integers(0, 2**32 - 1)),
    ("int_", st.integers(-(2**31), 2**31 - 1)),
    ("uhyper", st.integers(0, 2**64 - 1)),
    ("hyper", st.integers(-(2**63), 2**63 - 1)),
    ("bool_", st.booleans()),
    ("opaque", st.binary(max_size=20)),
    ("string", st.binary(max_size=20)),
]


@given(st.data())
def test_encoder_and_decoder_by_hand(data: st.DataObject) -> None:
    encoder, expected = xdr.Encoder(), []
    for name, strategy in data.draw(st.lists(st.sampled_from(READERS), max_size=8)):
        value = data.draw(strategy)
        getattr(encoder, name)(value)
        expected.append((name, value))
    encoder.fixed(b"tail!")
    joined = b"".join(encoder.parts())
    assert joined == encoder.getvalue()
    decoder = xdr.Decoder(joined)
    assert [(name, getattr(decoder, name)()) for name, _ in expected] == expected
    assert decoder.remaining == 8
    assert decoder.fixed(5) == b"tail!"
    decoder.done()


@given(st.binary(max_size=24), st.lists(st.sampled_from([r[0] for r in READERS]), min_size=1))
def test_the_decoder_raises_only_xdr_errors(data: bytes, names: list[str]) -> None:
    decoder = xdr.Decoder(data)
    try:
        for name in names:
            getattr(decoder, name)()
        decoder.done()
    except xdr.XdrError:
        return
    assert decoder.remaining == 0


@pytest.mark.parametrize(
    ("method", "value"), [("uint", -1), ("int_", 1 << 31), ("uhyper", -1), ("hyper", 1 << 63)]
)
def test_the_encoder_refuses_numbers_out_of_range(method: str, value: int) -> None:
    with pytest.raises(CallerError):
        getattr(xdr.Encoder(), method)(value)


@pytest.mark.parametrize(
    ("method", "size"), [("uint", 4), ("int_", 4), ("uhyper", 8), ("hyper", 8)]
)
def test_a_number_that_is_cut_off_is_none(method: str, size: int) -> None:
    """Not the one that the bytes that are there would make."""
    for length in range(size):
        with pytest.raises(xdr.XdrError, match=f"{size} bytes wanted, {length} left"):
            getattr(xdr.Decoder(b"\1" * length), method)()


def test_opaque_data_that_is_cut_off_is_none() -> None:
    for tail in (b"", b"ab", b"abc"):  # of three bytes and their padding
        with pytest.raises(xdr.XdrError, match="the data ended"):
            xdr.Decoder(b"\0\0\0\3" + tail).opaque()


def test_the_decoder_minds_limits() -> None:
    data = bytes.fromhex("0000000461626364")
    assert xdr.Decoder(data).opaque(4) == b"abcd"
    for method in ("opaque", "opaque_view", "string"):
        with pytest.raises(xdr.XdrError):
            getattr(xdr.Decoder(data), method)(3)


@pytest.mark.parametrize("declared", [int, bytes, Annotated[int, "no codec"], int | str])
def test_a_type_that_does_not_say_how_it_is_encoded(declared: Any) -> None:
    with pytest.raises(CallerError):
        xdr.codec(declared)
