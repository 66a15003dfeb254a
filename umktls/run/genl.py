"""Netlink messages as they pass between a program and the host, netlink(7) and linux/netlink.h.

What a message means is the host's business. Here are only the things that belong to the socket
which it came by: who has sent it, under which number it is answered, and descriptors, which are
other numbers on either side. Layout and errors are those of Linux's net/netlink/af_netlink.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from umktls.abi.handshake import (
    HANDSHAKE_A_DONE_SOCKFD,
    HANDSHAKE_A_DONE_STATUS,
    HANDSHAKE_CMD_DONE,
    NLM_F_CAPPED,
    NLMSG_DONE,
    NLMSG_MIN_TYPE,
)
from umktls.abi.netlink import (
    GENLMSGHDR,
    NLA_TYPE_MASK,
    NLATTR,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSGHDR,
)
from umktls.upcall.netlink import aligned

__all__ = [
    "Message",
    "done_message",
    "error_message",
    "messages_untrusted",
    "sockfd_untrusted",
    "with_sockfd",
]

_INT = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Message:
    """A netlink message, whole."""

    raw: bytes

    @property
    def type(self) -> int:
        return int.from_bytes(self.raw[4:6], "little")

    @property
    def flags(self) -> int:
        return int.from_bytes(self.raw[6:8], "little")

    @property
    def seq(self) -> int:
        return int.from_bytes(self.raw[8:12], "little")

    @property
    def port(self) -> int:
        return int.from_bytes(self.raw[12:16], "little")

    @property
    def command(self) -> int:
        """Of a generic netlink message; 0 where there is none."""
        return self.raw[NLMSGHDR.size] if len(self.raw) > NLMSGHDR.size else 0

    @property
    def is_request(self) -> bool:
        """What is none is acknowledged at best, and nobody looks into it."""
        return bool(self.flags & NLM_F_REQUEST) and self.type >= NLMSG_MIN_TYPE

    @property
    def wants_ack(self) -> bool:
        return bool(self.flags & NLM_F_ACK)

    @property
    def error(self) -> int:
        """The errno (positive) of an NLMSG_ERROR, 0 for an acknowledgement."""
        body = self.raw[NLMSGHDR.size :]
        return -int(_INT.unpack_from(body)[0]) if len(body) >= _INT.size else 0

    @property
    def ends_an_answer(self) -> bool:
        return self.type in (NLMSG_ERROR, NLMSG_DONE)

    def readdressed(self, seq: int, port: int, flags: int | None = None) -> bytes:
        """The same with another sequence number, port number and flags."""
        return self._head(self.flags if flags is None else flags, seq, port) + self.raw[16:]

    def _head(self, flags: int, seq: int, port: int) -> bytes:
        return NLMSGHDR.pack(len(self.raw), self.type, flags, seq, port)


def messages_untrusted(datagram: bytes) -> list[Message]:
    """The messages of a datagram, without what is behind the last whole one (netlink_rcv_skb)."""
    found, start = [], 0
    while len(datagram) - start >= NLMSGHDR.size:
        length = int.from_bytes(datagram[start : start + 4], "little")
        if not NLMSGHDR.size <= length <= len(datagram) - start:
            break
        found.append(Message(datagram[start : start + length]))
        start += aligned(length)
    return found


def error_message(about: Message, error: int, port: int, *, capped: bool) -> bytes:
    """NLMSG_ERROR about a request: `error` is an errno, 0 for an acknowledgement. With the whole
    request, but for acknowledgements and who has set NETLINK_CAP_ACK (netlink_ack)."""
    short = capped or not error
    body = _INT.pack(-error) + about.raw[: NLMSGHDR.size if short else None]
    flags = NLM_F_CAPPED if short else 0
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), NLMSG_ERROR, flags, about.seq, port) + body


def done_message(family: int, number: int, status: int) -> Message:
    """DONE with STATUS (an errno) about the socket with that number."""
    attributes = b"".join(
        NLATTR.pack(NLATTR.size + _INT.size, kind) + _INT.pack(value)
        for kind, value in (
            (HANDSHAKE_A_DONE_STATUS, status),
            (HANDSHAKE_A_DONE_SOCKFD, number),
        )
    )
    length = NLMSGHDR.size + GENLMSGHDR.size + len(attributes)
    head = NLMSGHDR.pack(length, family, NLM_F_REQUEST, 0, 0) + GENLMSGHDR.pack(
        HANDSHAKE_CMD_DONE, 0, 0
    )
    return Message(head + attributes)


def sockfd_untrusted(message: Message, kind: int) -> int | None:
    """The descriptor in the attribute `kind`; None where there is none."""
    place = _place(message, kind)
    return None if place is None else int(_INT.unpack_from(message.raw, place)[0])


def with_sockfd(message: Message, kind: int, number: int) -> Message:
    """The same with another descriptor there, where there is one."""
    place = _place(message, kind)
    if place is None:
        return message
    raw = message.raw
    return Message(raw[:place] + _INT.pack(number) + raw[place + _INT.size :])


def _place(message: Message, kind: int) -> int | None:
    """Where the value of the last such attribute is, the one that counts."""
    raw, start, found = message.raw, NLMSGHDR.size + GENLMSGHDR.size, None
    while len(raw) - start >= NLATTR.size:
        length, type_ = NLATTR.unpack_from(raw, start)
        if not NLATTR.size <= length <= len(raw) - start:
            break
        if type_ & NLA_TYPE_MASK == kind and length >= NLATTR.size + _INT.size:
            found = start + NLATTR.size
        start += aligned(length)
    return found
