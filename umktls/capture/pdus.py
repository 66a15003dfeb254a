"""Packets that are no packets: messages above TCP, and what a host does, for Wireshark to show.

Link type 252, "exported PDU": tags say which dissector the data is for and which connection it
belongs to (epan/exported_pdu.h of Wireshark), the data follows. RPC messages are for Wireshark's
own dissector `rpc`. What a host does is text, a line `name: value` for each field, so that it can
be read by whoever has not loaded umktls.lua, whose dissector `umktls` it is for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from umktls.capture.packets import Endpoint

__all__ = ["MESSAGE_LIMIT", "host_pdu", "rpc_pdu"]

# Tags, each with a length of two bytes; values are padded to four.
END = 0
DISSECTOR_NAME = 12
IPV4_SOURCE, IPV4_TARGET, IPV6_SOURCE, IPV6_TARGET = 20, 21, 22, 23
PORT_TYPE, SOURCE_PORT, TARGET_PORT = 24, 25, 26
# Of UDP, not of TCP: else Wireshark took these messages and the packets of the connection, in which
# the same are again, for one conversation.
PORT_TYPE_UDP = 3

# What a message may have of bytes here: a READ's or WRITE's data can be cut, what is in front of it
# is what Wireshark shows.
MESSAGE_LIMIT = 65535


def rpc_pdu(source: Endpoint, target: Endpoint, message: bytes) -> bytes:
    """An RPC message without its record mark, or its first bytes."""
    return _tags("rpc", source, target) + message


def host_pdu(
    source: Endpoint | None, target: Endpoint | None, fields: Mapping[str, object]
) -> bytes:
    """Something that the host did. The endpoints are those of the connection that it is about, if
    any. Fields that are None are left out."""
    said = {name: value for name, value in fields.items() if value is not None}
    text = "".join(f"{name}: {_one_line(value)}\n" for name, value in said.items())
    return _tags("umktls", source, target) + text.encode(errors="replace")


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _tags(dissector: str, source: Endpoint | None, target: Endpoint | None) -> bytes:
    tags = _tag(DISSECTOR_NAME, dissector.encode())
    if source is not None and target is not None:
        six = len(source.address) == 16
        tags += _tag(IPV6_SOURCE if six else IPV4_SOURCE, source.address)
        tags += _tag(IPV6_TARGET if six else IPV4_TARGET, target.address)
        tags += _tag(PORT_TYPE, struct.pack(">I", PORT_TYPE_UDP))
        tags += _tag(SOURCE_PORT, struct.pack(">I", source.port))
        tags += _tag(TARGET_PORT, struct.pack(">I", target.port))
    return tags + _tag(END, b"")


def _tag(kind: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return struct.pack(">HH", kind, len(padded)) + padded
