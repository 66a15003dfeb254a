"""What of a netlink message belongs to the socket which it came by: who has sent it, under which
number it is answered, and descriptors, which are other numbers for the program and for the host.

What a message means is the host's business: nothing else of it is looked at, or changed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from umktls.abi.handshake import NLMSG_DONE, NLMSG_MIN_TYPE
from umktls.abi.netlink import (
    GENLMSGHDR,
    NLA_TYPE_MASK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
)
from umktls.upcall import genl
from umktls.upcall.handshake import DONE, HANDSHAKE
from umktls.upcall.netlink import Message

__all__ = [
    "command_of",
    "done_message",
    "ends_an_answer",
    "is_request",
    "sockfd_untrusted",
    "with_sockfd",
]

_INT = struct.Struct("<i")


def is_request(message: Message) -> bool:
    """What is none is acknowledged at best, and nobody looks into it."""
    return bool(message.flags & NLM_F_REQUEST) and message.type >= NLMSG_MIN_TYPE


def ends_an_answer(message: Message) -> bool:
    return message.type in (NLMSG_ERROR, NLMSG_DONE)


def command_of(message: Message) -> int:
    """Of a generic netlink message; 0 where there is none."""
    return message.payload[0] if message.payload else 0


def done_message(family: int, number: int, status: int) -> Message:
    """DONE with STATUS (an errno) about the socket with that number."""
    values = {"STATUS": status, "SOCKFD": number}
    made = genl.encode(replace(HANDSHAKE, number=family), DONE, values, request=True)
    return next(genl.messages_untrusted(made))


def sockfd_untrusted(message: Message, kind: int) -> int | None:
    """The descriptor in the attribute `kind`, the last one where there are several; None where
    there is none."""
    found = list(_descriptors(message.payload, kind))
    return int(_INT.unpack_from(found[-1])[0]) if found else None


def with_sockfd(message: Message, kind: int, number: int) -> Message:
    """The same with another descriptor there, where there is one."""
    payload = memoryview(bytearray(message.payload))
    for value in _descriptors(payload, kind):
        _INT.pack_into(value, 0, number)
    return replace(message, payload=payload)


def _descriptors(payload: memoryview, kind: int) -> Iterator[memoryview]:
    for type_, value in genl.attributes_untrusted(payload[GENLMSGHDR.size :]):
        if type_ & NLA_TYPE_MASK == kind and len(value) >= _INT.size:
            yield value
