"""Version 2's messages: RPC inside generic netlink, one message per datagram.

::

    nlmsghdr    length, type (the family's number), flags, seq (the RPC's xid), pid 0
    genlmsghdr  RPCNL_REQUEST or RPCNL_REPLY, version 1
    nlattr 1    u32: the group, that is the kernel's RPC client for which this is (3 in a reply)
    nlattr 2    the RPC message in XDR, without a record mark (4 in a reply)
    nlattr 256  ours, of a call: the type and the content of the record that it is about

A daemon finds the family's and its group's number by CTRL_CMD_GETFAMILY. What the kernel does not
take it answers with NLMSG_ERROR and an errno in FreeBSD's numbers (positive, as FreeBSD has it).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from umktls.abi.netlink import (
    CTRL_ATTR_FAMILY_ID,
    CTRL_ATTR_FAMILY_NAME,
    CTRL_ATTR_MCAST_GROUPS,
    CTRL_ATTR_MCAST_GRP_ID,
    CTRL_ATTR_MCAST_GRP_NAME,
    CTRL_CMD_GETFAMILY,
    CTRL_CMD_NEWFAMILY,
    GENL_ID_CTRL,
    GENLMSGHDR,
    NLA_ALIGNTO,
    NLA_TYPE_MASK,
    NLATTR,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSGERR,
    NLMSGHDR,
    RPC_FAMILY_ID,
    RPC_FAMILY_VERSION,
    RPCNL_REPLY,
    RPCNL_REPLY_BODY,
    RPCNL_REPLY_GROUP,
    RPCNL_REQUEST_BODY,
    RPCNL_REQUEST_GROUP,
    UMKTLS_REQUEST_RECORD,
    UMKTLS_REQUEST_REPLIES,
)
from umktls.abi.rpctls import RPC_MAXDATASIZE
from umktls.dataclass import dataclass
from umktls.errors import PeerError
from umktls.rpc.frozen import frozen, maker
from umktls.rpc.xdr import Buffer

__all__ = [
    "MAX_DATAGRAM",
    "Family",
    "Message",
    "NetlinkFormatError",
    "RpcPart",
    "aligned",
    "encode_attribute",
    "encode_error",
    "encode_family",
    "encode_get_family",
    "encode_message",
    "encode_rpc",
    "parse_error_untrusted",
    "parse_family_untrusted",
    "parse_get_family_untrusted",
    "parse_rpc_untrusted",
    "parse_untrusted",
]

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
# All that stands in front of an RPC message: the headers, the group, the attribute that holds it.
_RPC_HEAD = struct.Struct("<IHHII BBH HHI HH".replace(" ", ""))
# The kinds of attributes that hold the group and the RPC message.
_OF_REQUEST = RPCNL_REQUEST_GROUP, RPCNL_REQUEST_BODY
_OF_REPLY = RPCNL_REPLY_GROUP, RPCNL_REPLY_BODY
# What it says of a reply: family, flags, command, and the attributes' kinds and the first's length.
_PLAIN_REPLY = (
    *(RPC_FAMILY_ID, NLM_F_REQUEST, RPCNL_REPLY),
    *(NLATTR.size + 4, *_OF_REPLY),
)
# No datagram is longer: the receive buffer of both ends.
MAX_DATAGRAM = _RPC_HEAD.size + RPC_MAXDATASIZE + NLA_ALIGNTO


class NetlinkFormatError(PeerError):
    """Bytes that are no netlink message."""


@frozen
class Message:
    """A netlink message, its payload not looked at."""

    type: int
    flags: int
    seq: int
    payload: memoryview
    pid: int = 0


@frozen
class RpcPart:
    """A message of the family `rpc`: `command` is RPCNL_REQUEST or RPCNL_REPLY (or unknown).
    `record` is what a HANDLERECORD is about, `replies` are those to a daemon's first calls."""

    command: int
    group: int
    body: memoryview | None
    record: memoryview | None = None
    replies: memoryview | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """What nlctrl tells of a family: its number, and its groups' by name."""

    number: int
    name: str
    groups: Mapping[str, int]


_message = maker(Message)
_rpc_part = maker(RpcPart)


def parse_untrusted(datagram: Buffer) -> Message:
    """Raises `NetlinkFormatError` only."""
    view = memoryview(datagram)
    if len(view) < NLMSGHDR.size:
        raise NetlinkFormatError(f"a netlink message of {len(view)} bytes")
    length, kind, flags, seq, pid = NLMSGHDR.unpack_from(view)
    if length != len(view):
        raise NetlinkFormatError(f"a netlink message of {len(view)} bytes says it has {length}")
    return _message(kind, flags, seq, view[NLMSGHDR.size :], pid)


def _generic_untrusted(payload: memoryview) -> tuple[int, dict[int, memoryview]]:
    """Command and attributes; of an attribute that comes twice, the last."""
    if len(payload) < GENLMSGHDR.size:
        raise NetlinkFormatError("a generic netlink message without its header")
    return payload[0], _attributes_untrusted(payload[GENLMSGHDR.size :])


def _attributes_untrusted(data: memoryview) -> dict[int, memoryview]:
    found: dict[int, memoryview] = {}
    while data:
        if len(data) < NLATTR.size:
            raise NetlinkFormatError("bytes behind the last netlink attribute")
        length, kind = NLATTR.unpack_from(data)
        if not NLATTR.size <= length <= len(data):
            raise NetlinkFormatError(f"a netlink attribute of {length} bytes in {len(data)}")
        found[kind & NLA_TYPE_MASK] = data[NLATTR.size : length]
        data = data[length + -length % NLA_ALIGNTO :]
    return found


def _u32_untrusted(data: memoryview | None) -> int:
    if data is None:
        return 0
    if len(data) != _U32.size:
        raise NetlinkFormatError(f"a u32 of {len(data)} bytes")
    number: int = _U32.unpack(data)[0]
    return number


def _name_untrusted(data: memoryview | None) -> str:
    return bytes(data or b"").partition(b"\0")[0].decode("ascii", "replace")


def parse_rpc_untrusted(message: Message) -> RpcPart:
    """A message of the family `rpc`. Raises `NetlinkFormatError` only."""
    command, attributes = _generic_untrusted(message.payload)
    group_kind, body_kind = _OF_REPLY if command == RPCNL_REPLY else _OF_REQUEST
    group = _u32_untrusted(attributes.get(group_kind))
    return _rpc_part(
        command,
        group,
        attributes.get(body_kind),
        attributes.get(UMKTLS_REQUEST_RECORD),
        attributes.get(UMKTLS_REQUEST_REPLIES),
    )


def plain_reply_untrusted(datagram: Buffer) -> tuple[int, memoryview] | None:
    """Group and body of an RPCNL_REPLY that is as `encode_rpc` makes it, as nearly all are. None
    for any other message, good or bad: that is taken apart piece by piece (`parse_untrusted`)."""
    size = len(datagram)
    if size < _RPC_HEAD.size:
        return None
    length, kind, flags, _, _, command, _, _, first, group_kind, group, second, body_kind = (
        _RPC_HEAD.unpack_from(datagram)
    )
    end = _RPC_HEAD.size - NLATTR.size + second
    whole = length == size == aligned(end) and end >= _RPC_HEAD.size
    if not whole or (kind, flags, command, first, group_kind, body_kind) != _PLAIN_REPLY:
        return None
    return group, memoryview(datagram)[_RPC_HEAD.size : end]


def parse_get_family_untrusted(message: Message) -> str | None:
    """The name that CTRL_CMD_GETFAMILY asks for; None for another command.

    Raises `NetlinkFormatError` only.
    """
    command, attributes = _generic_untrusted(message.payload)
    if command != CTRL_CMD_GETFAMILY:
        return None
    return _name_untrusted(attributes.get(CTRL_ATTR_FAMILY_NAME))


def parse_family_untrusted(message: Message) -> Family:
    """nlctrl's answer. Raises `NetlinkFormatError` only."""
    command, attributes = _generic_untrusted(message.payload)
    number = attributes.get(CTRL_ATTR_FAMILY_ID)
    if command != CTRL_CMD_NEWFAMILY or number is None or len(number) != _U16.size:
        raise NetlinkFormatError("nlctrl does not tell a family's number")
    groups = {}
    for nested in _attributes_untrusted(attributes.get(CTRL_ATTR_MCAST_GROUPS, _NOTHING)).values():
        group = _attributes_untrusted(nested)
        name = _name_untrusted(group.get(CTRL_ATTR_MCAST_GRP_NAME))
        groups[name] = _u32_untrusted(group.get(CTRL_ATTR_MCAST_GRP_ID))
    name = _name_untrusted(attributes.get(CTRL_ATTR_FAMILY_NAME))
    return Family(_U16.unpack(number)[0], name, groups)


def parse_error_untrusted(message: Message) -> int:
    """NLMSG_ERROR's errno, FreeBSD's; 0 is an acknowledgement. Raises `NetlinkFormatError` only."""
    if len(message.payload) < _U32.size:
        raise NetlinkFormatError("an NLMSG_ERROR without an error")
    number: int = _U32.unpack_from(message.payload)[0]
    return number


_NOTHING = memoryview(b"")


def encode_message(message: Message) -> bytes:
    """The message as it is on the wire, without padding behind it."""
    length = NLMSGHDR.size + len(message.payload)
    head = NLMSGHDR.pack(length, message.type, message.flags, message.seq, message.pid)
    return head + bytes(message.payload)


def encode_rpc(
    command: int,
    family: int,
    group: int,
    xid: int,
    body: Buffer,
    *,
    record: bytes = b"",
    replies: bytes = b"",
) -> bytes:
    """A call (RPCNL_REQUEST), with what it brings besides, or an answer (RPCNL_REPLY)."""
    length = len(body)
    behind = encode_attribute(UMKTLS_REQUEST_RECORD, record) if record else b""
    if replies:
        behind += encode_attribute(UMKTLS_REQUEST_REPLIES, replies)
    padding = aligned(length) - length
    group_kind, body_kind = _OF_REPLY if command == RPCNL_REPLY else _OF_REQUEST
    head = _RPC_HEAD.pack(
        _RPC_HEAD.size + length + padding + len(behind),
        family,
        NLM_F_REQUEST if command == RPCNL_REPLY else 0,
        xid,
        0,
        command,
        RPC_FAMILY_VERSION,
        0,
        NLATTR.size + _U32.size,
        group_kind,
        group,
        NLATTR.size + length,
        body_kind,
    )
    return b"".join((head, body, bytes(padding), behind))


def encode_get_family(seq: int, name: str) -> bytes:
    """The question to nlctrl."""
    attribute = encode_attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    return _generic(GENL_ID_CTRL, NLM_F_REQUEST, seq, CTRL_CMD_GETFAMILY, attribute)


def encode_family(seq: int, family: Family) -> bytes:
    """nlctrl's answer."""
    groups = b"".join(
        encode_attribute(
            place,
            encode_attribute(CTRL_ATTR_MCAST_GRP_ID, _U32.pack(number))
            + encode_attribute(CTRL_ATTR_MCAST_GRP_NAME, name.encode() + b"\0"),
        )
        for place, (name, number) in enumerate(family.groups.items(), 1)
    )
    attributes = (
        encode_attribute(CTRL_ATTR_FAMILY_NAME, family.name.encode() + b"\0")
        + encode_attribute(CTRL_ATTR_FAMILY_ID, _U16.pack(family.number))
        + encode_attribute(CTRL_ATTR_MCAST_GROUPS, groups)
    )
    return _generic(GENL_ID_CTRL, 0, seq, CTRL_CMD_NEWFAMILY, attributes)


def encode_error(about: Message, error: int) -> bytes:
    """NLMSG_ERROR about a message; `error` is FreeBSD's errno, 0 for an acknowledgement."""
    original = NLMSGHDR.size + len(about.payload)
    payload = NLMSGERR.pack(error, original, about.type, about.flags, about.seq, 0)
    return NLMSGHDR.pack(NLMSGHDR.size + len(payload), NLMSG_ERROR, 0, about.seq, 0) + payload


def _generic(kind: int, flags: int, seq: int, command: int, attributes: bytes) -> bytes:
    length = NLMSGHDR.size + GENLMSGHDR.size + len(attributes)
    header = NLMSGHDR.pack(length, kind, flags, seq, 0)
    return header + GENLMSGHDR.pack(command, 1, 0) + attributes


def encode_attribute(kind: int, data: bytes) -> bytes:
    """One attribute, with its padding."""
    length = NLATTR.size + len(data)
    return NLATTR.pack(length, kind) + data + bytes(aligned(length) - length)


def aligned(length: int) -> int:
    """A length with the padding behind it."""
    return length + -length % NLA_ALIGNTO
