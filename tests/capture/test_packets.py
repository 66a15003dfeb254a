"""IP and TCP headers: known numbers, sums that add up, and the edges of what fits."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.capture.packets import MAX_PAYLOAD, Endpoint, Flags, checksum, endpoint, tcp_packet

CLIENT, SERVER = endpoint("192.0.2.1", 700), endpoint("192.0.2.2", 2049)
SIX, OTHER_SIX = endpoint("2001:db8::1", 700), endpoint("2001:db8::2", 2049)


def summed(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    data += bytes(len(data) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack(">H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_checksum_of_the_rfc() -> None:
    """RFC 1071 section 3: the sum is ddf2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=99))
def test_the_division_is_the_loop(data: bytes) -> None:
    assert checksum(data) == 0xFFFF - summed(data)


@pytest.mark.parametrize(("data", "expected"), [(b"", 0xFFFF), (b"\0\0", 0xFFFF), (b"\xff\xff", 0)])
def test_both_zeros_of_ones_complement(data: bytes, expected: int) -> None:
    assert checksum(data) == expected


@given(st.binary(max_size=64), st.integers(0, 2**33), st.integers(0, 2**33))
def test_a_receiver_finds_the_sums_right(payload: bytes, sequence: int, acknowledged: int) -> None:
    """A sum over what has its checksum in it is all ones (RFC 1071 section 1)."""
    packet = tcp_packet(CLIENT, SERVER, sequence, acknowledged, Flags.ACK, payload)
    assert summed(packet[:20]) == 0xFFFF
    pseudo = CLIENT.address + SERVER.address + struct.pack(">HH", 6, len(packet) - 20)
    assert summed(pseudo + packet[20:]) == 0xFFFF
    assert struct.unpack_from(">II", packet, 24) == (sequence % 2**32, acknowledged % 2**32)
    assert packet[40:] == payload


def test_the_longest_fits_into_both() -> None:
    for source, target in ((CLIENT, SERVER), (SIX, OTHER_SIX)):
        packet = tcp_packet(source, target, 1, 1, Flags.ACK, bytes(MAX_PAYLOAD))
        assert packet.endswith(bytes(MAX_PAYLOAD))
    with pytest.raises(struct.error):
        tcp_packet(CLIENT, SERVER, 1, 1, Flags.ACK, bytes(MAX_PAYLOAD + 1))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", bytes((127, 0, 0, 1))),
        ("::ffff:127.0.0.1", bytes((127, 0, 0, 1))),
        ("::1", bytes(15) + b"\1"),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(13) + b"\1"),
    ],
)
def test_addresses_as_sockets_name_them(text: str, address: bytes) -> None:
    assert endpoint(text, 2049) == Endpoint(address, 2049)
