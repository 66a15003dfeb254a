"""What holds for every XDR type, as functions that tests call."""

from __future__ import annotations

from typing import Any

import pytest

from umktls.rpc import xdr


def encoded(codec: xdr.Codec[Any], value: Any) -> bytes:
    return b"".join(codec.encode(value))


def check_round_trip(codec: xdr.Codec[Any], value: Any) -> None:
    """A value comes back from its encoding, which is whole words and the same from the part list
    and from an Encoder."""
    data = encoded(codec, value)
    assert len(data) % 4 == 0
    assert codec.decode_untrusted(data) == value
    encoder = xdr.Encoder()
    encoder.write(codec, value)
    assert encoder.getvalue() == data
    assert encoder.length == len(data)
    decoder = xdr.Decoder(b"\0\0\0\7" + data)
    assert decoder.uint() == 7
    assert decoder.read(codec) == value
    decoder.done()


def check_exact_length(codec: xdr.Codec[Any], value: Any, cut: int) -> None:
    """Neither fewer nor more bytes are taken for the encoding of a value."""
    data = encoded(codec, value)
    with pytest.raises(xdr.XdrError):
        codec.decode_untrusted(data + bytes(4))
    if data:
        with pytest.raises(xdr.XdrError):
            codec.decode_untrusted(data[: cut % len(data)])


def check_flipped(codec: xdr.Codec[Any], value: Any, place: int, mask: int) -> None:
    """A changed byte is an error, another value, or padding, which is all that may get lost."""
    data = encoded(codec, value)
    if not data:
        return
    changed = bytearray(data)
    changed[place % len(data)] ^= mask
    other = decoded_or_none(codec, bytes(changed))
    if other is not None:
        again = encoded(codec, other)
        assert len(again) == len(changed)
        assert all(new in (0, old) for new, old in zip(again, changed, strict=True))
        assert codec.decode_untrusted(again) == other
        assert (other == value) == (again == data)


def decoded_or_none(codec: xdr.Codec[Any], data: bytes) -> Any:
    """None for bytes that are refused; anything but XdrError goes through and fails the test."""
    try:
        return codec.decode_untrusted(data)
    except xdr.XdrError:
        return None
