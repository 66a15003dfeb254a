"""IP packets with TCP segments in them, as they could have been on the wire.

Addresses, ports, sequence numbers and payload are a socket's; the rest of the headers is made up.
Checksums are right.
"""

from __future__ import annotations

import ipaddress
import struct
from enum import IntFlag
from typing import NamedTuple

__all__ = ["MAX_PAYLOAD", "Endpoint", "Flags", "endpoint", "tcp_packet"]

TCP = 6
TTL = 64
WINDOW = 65535
IPV4_HEADER, IPV6_HEADER, TCP_HEADER = 20, 40, 20
# So that an IPv4 packet has no more than 65535 bytes.
MAX_PAYLOAD = 65535 - IPV4_HEADER - TCP_HEADER
DO_NOT_FRAGMENT = 0x4000


class Flags(IntFlag):
    """Of a TCP segment (RFC 9293 section 3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10


class Endpoint(NamedTuple):
    """An address, packed (4 bytes for IPv4, 16 for IPv6), and a port."""

    address: bytes
    port: int


def endpoint(host: str, port: int) -> Endpoint:
    """The endpoint of an address in text. A socket for both families writes an IPv4 address in the
    shape of an IPv6 one (RFC 4291 section 2.5.5.2); that becomes an IPv4 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return Endpoint((mapped or address).packed, port)


def tcp_packet(
    source: Endpoint,
    target: Endpoint,
    sequence: int,
    acknowledged: int,
    flags: Flags,
    payload: bytes = b"",
) -> bytes:
    """One segment in one IP packet. Numbers are taken modulo 2**32; `payload` has at most
    `MAX_PAYLOAD` bytes."""
    head = (
        *(source.port, target.port, sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF),
        *(TCP_HEADER // 4 << 4, flags, WINDOW),
    )
    length = TCP_HEADER + len(payload)
    bare = struct.pack(">HHIIBBHHH", *head, 0, 0)
    pseudo = source.address + target.address + struct.pack(">II", length, TCP)
    check = checksum(pseudo + bare + payload)
    tcp = struct.pack(">HHIIBBHHH", *head, check, 0)
    return _ip_header(source.address, target.address, length) + tcp + payload


def _ip_header(source: bytes, target: bytes, length: int) -> bytes:
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, length, TCP, TTL) + source + target
    whole = IPV4_HEADER + length
    fixed = (0x45, 0, whole, 0, DO_NOT_FRAGMENT, TTL, TCP)
    check = checksum(struct.pack(">BBHHHBBH", *fixed, 0) + source + target)
    return struct.pack(">BBHHHBBH", *fixed, check) + source + target


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071). A sum of 16-bit words whose carries are added at the end is
    the remainder modulo 65535, so one division does in place of a loop in Python."""
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    left = number % 0xFFFF
    # Of a sum that is not zero, ones' complement has 65535 where the division has 0.
    return 0xFFFF - (left or (0xFFFF if number else 0))
