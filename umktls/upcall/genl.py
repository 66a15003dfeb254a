"""Generic netlink as Linux has it, from tables of families: bytes and values, no sockets.

A family is data: its commands, and for each the attributes that a request may have. From that
follow nlctrl's answers (`encode_family`), what is wrong with a request (`read_untrusted`), and the
bytes of what is sent (`encode`). Values go by the attributes' names::

    {"HANDLER_CLASS": 1}          {"STATUS": 0, "SOCKFD": 7, "REMOTE_AUTH": (1234,)}

An attribute that can come several times has a tuple, a nest a mapping of its own.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from umktls.abi import handshake as linux
from umktls.abi import netlink as nl
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc.xdr import Buffer
from umktls.upcall.netlink import Message, aligned, encode_attribute

__all__ = [
    "NLCTRL",
    "Attribute",
    "Command",
    "GenericFamily",
    "acknowledge",
    "attributes_untrusted",
    "decode_untrusted",
    "encode",
    "encode_done",
    "encode_error",
    "encode_family",
    "error_of_untrusted",
    "messages_untrusted",
    "read_untrusted",
    "text_of",
    "wanted_family_untrusted",
]

Kind = Literal["u16", "u32", "s32", "string", "nest"]
NUMBERS = {
    kind: struct.Struct(form) for kind, form in (("u16", "<H"), ("u32", "<I"), ("s32", "<i"))
}
_ERROR = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. `most` is the greatest number that is taken, or the greatest length of a
    string; `many`: it can come several times; `inside` are those of a nest."""

    name: str
    number: int
    kind: Kind = "u32"
    most: int | None = None
    many: bool = False
    inside: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `takes` are the attributes of a request (its policy), `gives` those of the
    answer, or of a notification, in the kernel's order. `strict`: what is not in the policy is
    refused, otherwise passed over."""

    name: str
    number: int
    flags: int = 0
    takes: tuple[Attribute, ...] = ()
    gives: tuple[Attribute, ...] = ()
    strict: bool = True

    @property
    def admin(self) -> bool:
        """Whether it takes CAP_NET_ADMIN."""
        return bool(self.flags & linux.GENL_ADMIN_PERM)


@dataclass(frozen=True, slots=True)
class GenericFamily:
    """A family with its numbers. `groups` are in their order. Commands without flags are
    notifications: nobody can ask for them."""

    name: str
    number: int
    version: int
    commands: tuple[Command, ...]
    groups: Mapping[str, int]
    maxattr: int = 0

    def command(self, number: int) -> Command:
        """The command that a request is for. Raises `CallerError` EOPNOTSUPP."""
        for command in self.commands:
            if command.number == number and command.flags:
                return command
        raise CallerError(f"family {self.name} has no command {number}", errno.EOPNOTSUPP)

    def named(self, name: str) -> Command:
        """The command of that name; there is one."""
        return next(command for command in self.commands if command.name == name)


NLCTRL = GenericFamily(
    "nlctrl",
    nl.GENL_ID_CTRL,
    linux.CTRL_VERSION,
    (
        Command(
            "GETFAMILY",
            nl.CTRL_CMD_GETFAMILY,
            linux.GENL_CMD_CAP_DO | linux.GENL_CMD_CAP_DUMP | linux.GENL_CMD_CAP_HASPOL,
            (
                Attribute("FAMILY_ID", nl.CTRL_ATTR_FAMILY_ID, "u16"),
                Attribute("FAMILY_NAME", nl.CTRL_ATTR_FAMILY_NAME, "string", linux.GENL_NAMSIZ - 1),
            ),
            strict=False,
        ),
    ),
    {"notify": nl.GENL_ID_CTRL},
    linux.CTRL_ATTR_MAX,
)


# ---- what comes


def messages_untrusted(datagram: Buffer) -> Iterator[Message]:
    """The messages of a datagram, one behind the other. A length that does not fit ends it, and
    nobody is told (netlink_rcv_skb)."""
    rest = memoryview(datagram)
    while len(rest) >= nl.NLMSGHDR.size:
        length, kind, flags, seq, pid = nl.NLMSGHDR.unpack_from(rest)
        if not nl.NLMSGHDR.size <= length <= len(rest):
            return
        yield Message(kind, flags, seq, rest[nl.NLMSGHDR.size : length], pid)
        rest = rest[aligned(length) :]


def command_untrusted(family: GenericFamily, message: Message) -> Command:
    """Which command a request is for. Raises `CallerError`: EINVAL, EOPNOTSUPP."""
    if len(message.payload) < nl.GENLMSGHDR.size:
        raise CallerError(f"family {family.name}: a message without its header")
    return family.command(message.payload[0])


def read_untrusted(command: Command, message: Message) -> dict[str, Any]:
    """The attributes of a request, by the command's policy.

    Raises `CallerError` as Linux does: EINVAL for an attribute that is not in it, or is of another
    length than its kind, ERANGE for a number that is too great, EINVAL for bytes left over.
    """
    return _read_untrusted(command.takes, message.payload[nl.GENLMSGHDR.size :], command.strict)


def decode_untrusted(command: Command, message: Message) -> dict[str, Any]:
    """The attributes of the kernel's answer or notification; unknown ones are passed over.
    Raises `CallerError` for what makes no sense."""
    return _read_untrusted(command.gives, message.payload[nl.GENLMSGHDR.size :], strict=False)


def _read_untrusted(policy: Sequence[Attribute], data: memoryview, strict: bool) -> dict[str, Any]:
    known = {attribute.number: attribute for attribute in policy}
    found: dict[str, Any] = {}
    for kind, value in attributes_untrusted(data, strict):
        attribute = known.get(kind & nl.NLA_TYPE_MASK)
        if attribute is None:
            if strict:
                raise CallerError(f"no attribute {kind & nl.NLA_TYPE_MASK} is known here")
            continue
        if strict and kind & linux.NLA_F_NESTED and attribute.kind != "nest":
            raise CallerError(f"{attribute.name} is no nest")
        read = _value_untrusted(attribute, value, strict)
        found[attribute.name] = (*found.get(attribute.name, ()), read) if attribute.many else read
    return found


def attributes_untrusted(
    data: memoryview, strict: bool = False
) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each attribute. Raises `CallerError` for bytes left over, where `strict`;
    they are passed over otherwise."""
    while len(data) >= nl.NLATTR.size:
        length, kind = nl.NLATTR.unpack_from(data)
        if not nl.NLATTR.size <= length <= len(data):
            break
        yield kind, data[nl.NLATTR.size : length]
        data = data[aligned(length) :]
    if data and strict:
        raise CallerError(f"{len(data)} bytes are left behind the last attribute")


def _value_untrusted(attribute: Attribute, value: memoryview, strict: bool) -> Any:
    if attribute.kind == "nest":
        return _read_untrusted(attribute.inside, value, strict)
    if attribute.kind == "string":
        return _string_untrusted(attribute, value)
    form = NUMBERS[attribute.kind]
    if len(value) != form.size and (strict or len(value) < form.size):
        raise CallerError(
            f"{attribute.name}: {len(value)} bytes, and a {attribute.kind} has {form.size}",
            errno.EINVAL if strict else errno.ERANGE,
        )
    number: int = form.unpack_from(value)[0]
    if attribute.most is not None and number > attribute.most:
        raise CallerError(f"{attribute.name}: {number} is over {attribute.most}", errno.ERANGE)
    return number


def _string_untrusted(attribute: Attribute, value: memoryview) -> str:
    content, end, _ = bytes(value).partition(b"\0")
    if not end:
        raise CallerError(f"{attribute.name}: a string without its end")
    if attribute.most is not None and len(content) > attribute.most:
        raise CallerError(f"{attribute.name}: over {attribute.most} bytes")
    return text_of(content)


def text_of(content: bytes) -> str:
    """A string's bytes, whatever they are, as Python has file names."""
    return content.decode("utf-8", "surrogateescape")


def wanted_family_untrusted(
    families: Mapping[int, GenericFamily], asked: Mapping[str, Any]
) -> GenericFamily:
    """The family that CTRL_CMD_GETFAMILY asks for; where it gives number and name, by the name.

    Raises `CallerError`: ENOENT, EINVAL where it gives neither.
    """
    if "FAMILY_NAME" in asked:
        by_name = {family.name: family for family in families.values()}
        family = by_name.get(asked["FAMILY_NAME"])
    elif "FAMILY_ID" in asked:
        family = families.get(asked["FAMILY_ID"])
    else:
        raise CallerError("CTRL_CMD_GETFAMILY names no family")
    if family is None:
        raise CallerError(f"no family {asked}", errno.ENOENT)
    return family


# ---- what goes


def encode(
    family: GenericFamily,
    command: Command,
    values: Mapping[str, Any],
    *,
    request: bool = False,
    flags: int = 0,
    seq: int = 0,
    pid: int = 0,
) -> bytes:
    """A message of a family: an answer or a notification, or, with `request`, a question."""
    attributes = _encode(command.takes if request else command.gives, values)
    if request:
        flags |= nl.NLM_F_REQUEST
    return _generic(family.number, flags, seq, pid, command.number, family.version, attributes)


def _generic(
    kind: int, flags: int, seq: int, pid: int, command: int, version: int, attributes: bytes
) -> bytes:
    length = nl.NLMSGHDR.size + nl.GENLMSGHDR.size + len(attributes)
    header = nl.NLMSGHDR.pack(length, kind, flags, seq, pid)
    return header + nl.GENLMSGHDR.pack(command, version, 0) + attributes


def _encode(attributes: Sequence[Attribute], values: Mapping[str, Any]) -> bytes:
    """Those that have a value, in the table's order."""
    pieces = []
    for attribute in attributes:
        if attribute.name in values:
            value = values[attribute.name]
            for one in value if attribute.many else (value,):
                pieces.append(encode_attribute(attribute.number, _pack(attribute, one)))
    return b"".join(pieces)


def _pack(attribute: Attribute, value: Any) -> bytes:
    if attribute.kind == "nest":
        return _encode(attribute.inside, value)
    if attribute.kind == "string":
        return bytes(value.encode("utf-8", "surrogateescape")) + b"\0"
    return NUMBERS[attribute.kind].pack(value)


def encode_family(family: GenericFamily, seq: int, pid: int, flags: int = 0) -> bytes:
    """nlctrl's answer about a family (ctrl_fill_info): no NLA_F_NESTED anywhere."""
    u16, u32 = NUMBERS["u16"].pack, NUMBERS["u32"].pack
    attributes = [
        encode_attribute(nl.CTRL_ATTR_FAMILY_NAME, family.name.encode() + b"\0"),
        encode_attribute(nl.CTRL_ATTR_FAMILY_ID, u16(family.number)),
        encode_attribute(linux.CTRL_ATTR_VERSION, u32(family.version)),
        encode_attribute(linux.CTRL_ATTR_HDRSIZE, u32(0)),
        encode_attribute(linux.CTRL_ATTR_MAXATTR, u32(family.maxattr)),
    ]
    ops = [
        encode_attribute(linux.CTRL_ATTR_OP_ID, u32(command.number))
        + encode_attribute(linux.CTRL_ATTR_OP_FLAGS, u32(command.flags))
        for command in family.commands
        if command.flags
    ]
    groups = [
        encode_attribute(nl.CTRL_ATTR_MCAST_GRP_ID, u32(number))
        + encode_attribute(nl.CTRL_ATTR_MCAST_GRP_NAME, name.encode() + b"\0")
        for name, number in family.groups.items()
    ]
    for kind, nests in ((linux.CTRL_ATTR_OPS, ops), (nl.CTRL_ATTR_MCAST_GROUPS, groups)):
        if nests:
            numbered = [encode_attribute(place, nest) for place, nest in enumerate(nests, 1)]
            attributes.append(encode_attribute(kind, b"".join(numbered)))
    return _generic(
        nl.GENL_ID_CTRL,
        flags,
        seq,
        pid,
        nl.CTRL_CMD_NEWFAMILY,
        linux.CTRL_VERSION,
        b"".join(attributes),
    )


def encode_done(seq: int, pid: int) -> bytes:
    """NLMSG_DONE: a dump's last message."""
    length = nl.NLMSGHDR.size + _ERROR.size
    header = nl.NLMSGHDR.pack(length, linux.NLMSG_DONE, linux.NLM_F_MULTI, seq, pid)
    return header + _ERROR.pack(0)


def acknowledge(about: Message, pid: int | None = None) -> bytes:
    """NLMSG_ERROR with error 0: behind it, of the request there is the header only."""
    return encode_error(about, 0, pid, capped=True)


def encode_error(
    about: Message, error: int, pid: int | None = None, *, capped: bool = False
) -> bytes:
    """NLMSG_ERROR: `error` is Linux's errno, positive here and negative in the message; behind it
    is the whole request, or its header (`capped`, NETLINK_CAP_ACK). `pid`: the port to which it
    goes, where that is another one than the request says."""
    original = nl.NLMSGHDR.size + len(about.payload)
    body = nl.NLMSGERR.pack(-error, original, about.type, about.flags, about.seq, about.pid)
    if not capped:
        body += about.payload
    flags, to = linux.NLM_F_CAPPED if capped else 0, about.pid if pid is None else pid
    head = nl.NLMSGHDR.pack(nl.NLMSGHDR.size + len(body), nl.NLMSG_ERROR, flags, about.seq, to)
    return head + body


def error_of_untrusted(message: Message) -> int:
    """The errno of an NLMSG_ERROR, positive as Linux has it, 0 for an acknowledgement."""
    return -int.from_bytes(message.payload[: _ERROR.size], "little", signed=True)
