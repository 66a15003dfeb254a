"""What a daemon leaves with the kernel, as bytes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.errors import CallerError
from umktls.rpc.xdr import XdrError
from umktls.upcall.deposit import MAX_CERTIFICATE, MAX_DEPOSIT, Deposit, KeyState

DEPOSIT = Deposit(
    layout=1,
    version=0x0304,
    suite=b"TLS_AES_128_GCM_SHA256",
    tx_secret=b"t" * 32,
    tx_generation=1,
    rx_secret=b"r" * 32,
    rx_generation=2,
    address=b"192.0.2.1",
    chain=(b"certificate", b"authority"),
    unfinished=b"",
)


def test_the_wire() -> None:
    data = DEPOSIT.to_bytes()
    assert data[:8] == bytes.fromhex("0000000100000304")
    assert data[8:12] == (22).to_bytes(4, "big")
    assert data[36:72] == (32).to_bytes(4, "big") + b"t" * 32
    assert Deposit.from_bytes_untrusted(data) == DEPOSIT


def test_no_secret_shows() -> None:
    assert "tttt" not in repr(DEPOSIT)
    assert "rrrr" not in repr(DEPOSIT)
    assert "TLS_AES_128_GCM_SHA256" in repr(DEPOSIT)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for kind in (Deposit, KeyState):
        try:
            value = kind.from_bytes_untrusted(data)
        except XdrError:
            continue
        assert value.to_bytes() == data


@given(st.integers(0, len(DEPOSIT.to_bytes()) - 1))
def test_what_is_cut_off_is_no_deposit(length: int) -> None:
    with pytest.raises(XdrError):
        Deposit.from_bytes_untrusted(DEPOSIT.to_bytes()[:length])


def test_another_layout() -> None:
    other = dataclasses.replace(DEPOSIT, layout=2)
    with pytest.raises(XdrError, match="layout 2"):
        Deposit.from_bytes_untrusted(other.to_bytes())


def test_too_much() -> None:
    chain = (bytes(MAX_CERTIFICATE),) * 2
    with pytest.raises(CallerError, match="can be deposited"):
        dataclasses.replace(DEPOSIT, chain=chain).to_bytes()
    with pytest.raises(XdrError):
        Deposit.from_bytes_untrusted(bytes(MAX_DEPOSIT + 4))


def test_how_far_the_keys_are() -> None:
    state = KeyState(3, 1, True, False)
    assert state.to_bytes() == bytes.fromhex("00000003 00000001 00000001 00000000")
    assert KeyState.from_bytes_untrusted(state.to_bytes()) == state


def test_the_largest_deposit() -> None:
    """What setsockopt takes, and not a word more; nor is more read."""
    room = 65536 - len(DEPOSIT.to_bytes())
    largest = dataclasses.replace(DEPOSIT, unfinished=bytes(room))
    assert len(largest.to_bytes()) == 65536
    assert Deposit.from_bytes_untrusted(largest.to_bytes()) == largest
    larger = dataclasses.replace(DEPOSIT, unfinished=bytes(room + 4))
    with pytest.raises(CallerError, match="65540 bytes: 65536 can be deposited"):
        larger.to_bytes()
    whole = largest.to_bytes()
    at = len(whole) - room - 4  # where the length of what is unfinished is
    with pytest.raises(XdrError, match="a deposit of 65540 bytes"):
        Deposit.from_bytes_untrusted(whole[:at] + (room + 4).to_bytes(4, "big") + bytes(room + 4))
