"""The facts of a peer's certificate, as they go from the daemon to the kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.rpc.certificate import MAX_NAMES, MAX_TEXT, PeerCertificate
from umktls.rpc.xdr import XdrError

FACTS = PeerCertificate(
    fingerprint=bytes(range(32)),
    subject=b"CN=ann",
    issuer=b"CN=staff CA",
    serial=b"1f",
    names=(b"DNS:ws1.example.org", b"email:ann@example.org"),
    authorities=(bytes(32),),
)


def test_the_wire() -> None:
    """XDR: fixed, strings, arrays."""
    expected = bytes(range(32)) + bytes.fromhex("00000006") + b"CN=ann\0\0"
    assert FACTS.to_bytes().startswith(expected)
    assert FACTS.to_bytes().endswith(bytes.fromhex("00000001") + bytes(32))
    assert PeerCertificate.from_bytes_untrusted(FACTS.to_bytes()) == FACTS


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        facts = PeerCertificate.from_bytes_untrusted(data)
    except XdrError:
        return
    assert facts.to_bytes() == data


@given(st.integers(0, len(FACTS.to_bytes()) - 1))
def test_what_is_cut_off_is_no_certificate(length: int) -> None:
    with pytest.raises(XdrError):
        PeerCertificate.from_bytes_untrusted(FACTS.to_bytes()[:length])


def test_too_much() -> None:
    text = (MAX_TEXT + 1).to_bytes(4, "big") + bytes(MAX_TEXT + 4)
    with pytest.raises(XdrError):
        PeerCertificate.from_bytes_untrusted(bytes(32) + text)
    empty = bytes(32) + bytes(12)
    with pytest.raises(XdrError):
        PeerCertificate.from_bytes_untrusted(empty + (MAX_NAMES + 1).to_bytes(4, "big"))
