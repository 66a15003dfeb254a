"""Blocks of a capture file (pcapng, draft-ietf-opsawg-pcapng).

Little-endian, one section, times in microseconds. There is a library for Python that reads and
writes the format (python-pcapng), but it knows no secrets and gives a packet one comment at most.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum

__all__ = [
    "SNAPLEN",
    "Direction",
    "LinkType",
    "interface",
    "packet",
    "section",
    "statistics",
    "tls_secrets",
]

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
DECRYPTION_SECRETS = 10

BYTE_ORDER_MAGIC = 0x1A2B3C4D
LENGTH_UNKNOWN = -1
TLS_KEY_LOG = 0x544C534B

# Options: those of all blocks, and those of each.
END, COMMENT = 0, 1
SHB_USERAPPL = 4
IF_NAME, IF_DESCRIPTION = 2, 3
EPB_FLAGS = 2
ISB_STARTTIME, ISB_ENDTIME, ISB_IFRECV, ISB_IFDROP = 2, 3, 4, 5

OPTION_LIMIT = 0xFFFF
# What a packet may have of bytes: Wireshark takes 262144 for an error from there on.
SNAPLEN = 262144

Options = Iterable[tuple[int, bytes]]


class LinkType(IntEnum):
    """What an interface's packets begin with (www.tcpdump.org/linktypes.html)."""

    RAW = 101  # an IPv4 or IPv6 header
    UPPER_PDU = 252  # Wireshark's own: which dissector, addresses, and the data


class Direction(IntEnum):
    """Of a packet, as the host sees it: the lowest bits of epb_flags."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


def section(application: str, comments: Sequence[str] = ()) -> bytes:
    """Section Header Block, with which a file begins."""
    body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, LENGTH_UNKNOWN)
    options = [*_comments(comments), (SHB_USERAPPL, application.encode())]
    return _block(SECTION_HEADER, body, options)


def interface(link: LinkType, name: str, description: str) -> bytes:
    """Interface Description Block. Interfaces are numbered from 0 in the order of these blocks."""
    options = [(IF_NAME, name.encode()), (IF_DESCRIPTION, description.encode())]
    return _block(INTERFACE_DESCRIPTION, struct.pack("<HHI", link, 0, SNAPLEN), options)


def packet(
    number: int,
    seconds: float,
    data: bytes,
    length: int | None = None,
    comments: Sequence[str] = (),
    direction: Direction = Direction.UNKNOWN,
) -> bytes:
    """Enhanced Packet Block: `data` on interface `number`, at `seconds` since 1970.

    length: of the packet, where `data` is only its first bytes.
    """
    high, low = _time(seconds)
    whole = len(data) if length is None else length
    head = struct.pack("<IIIII", number, high, low, len(data), whole)
    options = _comments(comments)
    if direction:
        options.append((EPB_FLAGS, struct.pack("<I", direction)))
    return _block(ENHANCED_PACKET, head + _padded(data), options)


def tls_secrets(key_log: bytes) -> bytes:
    """Decryption Secrets Block: lines of a key log (SSLKEYLOGFILE), for the packets behind it."""
    head = struct.pack("<II", TLS_KEY_LOG, len(key_log))
    return _block(DECRYPTION_SECRETS, head + _padded(key_log))


def statistics(
    number: int, began: float, ended: float, received: int, dropped: int, comments: Sequence[str]
) -> bytes:
    """Interface Statistics Block: how many packets there were, and how many of them are not in the
    file. Times in seconds since 1970."""
    head = struct.pack("<III", number, *_time(ended))
    options = [
        *_comments(comments),
        (ISB_STARTTIME, struct.pack("<II", *_time(began))),
        (ISB_ENDTIME, struct.pack("<II", *_time(ended))),
        (ISB_IFRECV, struct.pack("<Q", received)),
        (ISB_IFDROP, struct.pack("<Q", dropped)),
    ]
    return _block(INTERFACE_STATISTICS, head, options)


def _time(seconds: float) -> tuple[int, int]:
    """The upper and the lower half of microseconds since 1970."""
    micros = round(seconds * 1_000_000)
    return micros >> 32 & 0xFFFFFFFF, micros & 0xFFFFFFFF


def _comments(comments: Sequence[str]) -> list[tuple[int, bytes]]:
    return [(COMMENT, text.encode(errors="replace")) for text in comments]


def _block(kind: int, body: bytes, options: Options = ()) -> bytes:
    """A block: its length stands at both ends, for readers that go backwards."""
    data = body + _options(options)
    length = struct.pack("<I", len(data) + 12)
    return struct.pack("<I", kind) + length + data + length


def _options(options: Options) -> bytes:
    data = b"".join(
        struct.pack("<HH", code, len(value[:OPTION_LIMIT])) + _padded(value[:OPTION_LIMIT])
        for code, value in options
    )
    return data + struct.pack("<HH", END, 0) if data else b""


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
