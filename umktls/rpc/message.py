"""RPC messages (RFC 5531 section 9) and their authentication (section 8; RFC 9289 section 4.1).

A message is a header and a body: arguments or results, which stay undecoded here because only the
procedure knows their type. `encode_*` make the header alone; the body goes behind it as further
parts.
"""

from __future__ import annotations

import struct
from dataclasses import field
from enum import IntEnum
from functools import lru_cache
from typing import Annotated

from umktls.dataclass import dataclass
from umktls.errors import PeerError
from umktls.rpc import xdr
from umktls.rpc.frozen import frozen, maker

__all__ = [
    "MAX_AUTH_BYTES",
    "NULL_AUTH",
    "RPC_VERSION",
    "STARTTLS_VERIFIER",
    "AcceptStat",
    "AcceptedReply",
    "AuthFlavor",
    "AuthStat",
    "AuthSys",
    "Call",
    "DeniedReply",
    "MsgType",
    "OpaqueAuth",
    "RejectStat",
    "Reply",
    "RpcFormatError",
    "encode_accepted",
    "encode_call",
    "encode_denied",
    "parse_untrusted",
]

RPC_VERSION = 2
MAX_AUTH_BYTES = 400  # RFC 5531 section 8.2


class RpcFormatError(PeerError):
    """Bytes that are no RPC message. After it nothing on the connection can be trusted."""


class MsgType(IntEnum):
    CALL = 0
    REPLY = 1


class ReplyStat(IntEnum):
    MSG_ACCEPTED = 0
    MSG_DENIED = 1


class AcceptStat(IntEnum):
    SUCCESS = 0
    PROG_UNAVAIL = 1
    PROG_MISMATCH = 2
    PROC_UNAVAIL = 3
    GARBAGE_ARGS = 4
    SYSTEM_ERR = 5


class RejectStat(IntEnum):
    RPC_MISMATCH = 0
    AUTH_ERROR = 1


class AuthStat(IntEnum):
    AUTH_OK = 0
    AUTH_BADCRED = 1
    AUTH_REJECTEDCRED = 2
    AUTH_BADVERF = 3
    AUTH_REJECTEDVERF = 4
    AUTH_TOOWEAK = 5
    AUTH_INVALIDRESP = 6
    AUTH_FAILED = 7
    AUTH_KERB_GENERIC = 8
    AUTH_TIMEEXPIRE = 9
    AUTH_TKT_FILE = 10
    AUTH_DECODE = 11
    AUTH_NET_ADDR = 12
    RPCSEC_GSS_CREDPROBLEM = 13
    RPCSEC_GSS_CTXPROBLEM = 14


class AuthFlavor(IntEnum):
    AUTH_NONE = 0
    AUTH_SYS = 1
    AUTH_SHORT = 2
    RPCSEC_GSS = 6
    AUTH_TLS = 7


_WORD = struct.Struct(">I")
_WORDS2 = struct.Struct(">2I")
_WORDS3 = struct.Struct(">3I")
_WORDS4 = struct.Struct(">4I")
_WORDS6 = struct.Struct(">6I")
# A call's transaction id, its type, and the length of its credential.
_GLANCE = struct.Struct(">2I20xI")
# Looked at for every message: as plain numbers, since to ask an enumeration for a member costs as
# much as ten steps of a function.
_CALL, _REPLY = int(MsgType.CALL), int(MsgType.REPLY)
_ACCEPTED, _SUCCESS = int(ReplyStat.MSG_ACCEPTED), AcceptStat.SUCCESS
_auth_codec = xdr.opaque(MAX_AUTH_BYTES)


@dataclass(frozen=True, slots=True)
class OpaqueAuth:
    """A credential or verifier: flavor (any number) and at most 400 bytes that belong to it.

    Make one and use it for many calls: its encoding is made once."""

    flavor: int
    body: bytes
    wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        head = xdr.UINT.encode(self.flavor)
        object.__setattr__(self, "wire", b"".join(head + _auth_codec.encode(self.body)))


NULL_AUTH = OpaqueAuth(AuthFlavor.AUTH_NONE, b"")
STARTTLS_VERIFIER = OpaqueAuth(AuthFlavor.AUTH_NONE, b"STARTTLS")


@xdr.struct
class AuthSys(xdr.Struct):
    """The body of an AUTH_SYS credential (RFC 5531 appendix A)."""

    stamp: xdr.Uint
    machinename: Annotated[bytes, xdr.string(255)]
    uid: xdr.Uint
    gid: xdr.Uint
    gids: Annotated[tuple[int, ...], xdr.array(xdr.UINT, 16)]

    def to_opaque(self) -> OpaqueAuth:
        """The credential; CallerError for more than 16 gids."""
        return OpaqueAuth(AuthFlavor.AUTH_SYS, b"".join(_auth_sys.encode(self)))

    @classmethod
    def from_opaque_untrusted(cls, credential: OpaqueAuth) -> AuthSys:
        """Raises XdrError only, also for another flavor."""
        if credential.flavor != AuthFlavor.AUTH_SYS:
            raise xdr.XdrError(f"a credential of flavor {credential.flavor} is not AUTH_SYS")
        return _auth_sys.decode_untrusted(credential.body)


_auth_sys = xdr.codec(AuthSys)


@frozen
class Call:
    """A call; `body` is its undecoded arguments, a view into the message.

    With an `rpcvers` other than 2 nothing behind that number is known: all else is zero."""

    xid: int
    rpcvers: int
    program: int
    version: int
    procedure: int
    credential: OpaqueAuth
    verifier: OpaqueAuth
    body: memoryview


NO_BODY = memoryview(b"")


@frozen
class AcceptedReply:
    """MSG_ACCEPTED: `low` and `high` with PROG_MISMATCH only, `body` (results) with SUCCESS."""

    xid: int
    verifier: OpaqueAuth
    status: AcceptStat
    low: int = 0
    high: int = 0
    body: memoryview = NO_BODY


@frozen
class DeniedReply:
    """MSG_DENIED; `auth_status` with AUTH_ERROR only, `low` and `high` with RPC_MISMATCH only."""

    xid: int
    status: RejectStat
    auth_status: AuthStat = AuthStat.AUTH_OK
    low: int = 0
    high: int = 0


Reply = AcceptedReply | DeniedReply
_make_call = maker(Call)
_make_accepted = maker(AcceptedReply)


def encode_call(
    xid: int,
    program: int,
    version: int,
    procedure: int,
    credential: OpaqueAuth,
    verifier: OpaqueAuth = NULL_AUTH,
) -> bytes:
    """The header of a call; the arguments follow it."""
    head = _WORDS6.pack(xid, _CALL, RPC_VERSION, program, version, procedure)
    return head + credential.wire + verifier.wire


def encode_accepted(
    xid: int, verifier: OpaqueAuth, status: AcceptStat, low: int = 0, high: int = 0
) -> bytes:
    """The header of an accepted reply; the results follow it if `status` is SUCCESS."""
    head = _WORDS3.pack(xid, MsgType.REPLY, ReplyStat.MSG_ACCEPTED) + verifier.wire
    if status == AcceptStat.PROG_MISMATCH:
        return head + _WORDS3.pack(status, low, high)
    return head + status.to_bytes(4)


def encode_denied(
    xid: int,
    status: RejectStat,
    auth_status: AuthStat = AuthStat.AUTH_OK,
    low: int = RPC_VERSION,
    high: int = RPC_VERSION,
) -> bytes:
    """A whole denied reply: the versions for RPC_MISMATCH, the reason for AUTH_ERROR."""
    head = _WORDS4.pack(xid, MsgType.REPLY, ReplyStat.MSG_DENIED, status)
    if status == RejectStat.RPC_MISMATCH:
        return head + _WORDS2.pack(low, high)
    return head + auth_status.to_bytes(4)


def parse_untrusted(message: xdr.Buffer) -> Call | Reply:
    """Split a message (without record marks) into header and body. Raises RpcFormatError only."""
    view = message if type(message) is memoryview else memoryview(message)
    if len(view) >= _GLANCE.size:
        xid, kind, length = _GLANCE.unpack_from(view)
        if kind == _CALL and length <= MAX_AUTH_BYTES:
            end = _GLANCE.size + (length + 3 & -4) + 8
            head = _known_head(view[8:end].tobytes())
            if head is not None:
                program, version, procedure, auth = head
                return _make_call(
                    xid, RPC_VERSION, program, version, procedure, auth, NULL_AUTH, view[end:]
                )
    try:
        xid, kind, word = _WORDS3.unpack_from(view)
        if kind == _CALL:
            return _parse_call(view, xid, word)
        if kind == _REPLY:
            return _parse_reply(view, xid, word)
    except struct.error:
        raise RpcFormatError(f"an RPC message of {len(view)} bytes ends in its header") from None
    except ValueError as error:
        raise RpcFormatError(f"an RPC reply has an unknown status: {error}") from None
    raise RpcFormatError(f"an RPC message of type {kind} is neither call nor reply")


def _parse_call(view: memoryview, xid: int, rpcvers: int) -> Call:
    if rpcvers != RPC_VERSION:
        return Call(xid, rpcvers, 0, 0, 0, NULL_AUTH, NULL_AUTH, view[12:])
    program, version, procedure = _WORDS3.unpack_from(view, 12)
    credential, pos = _parse_auth(view, 24)
    verifier, pos = _parse_auth(view, pos)
    return _make_call(xid, rpcvers, program, version, procedure, credential, verifier, view[pos:])


def _parse_auth(view: memoryview, pos: int) -> tuple[OpaqueAuth, int]:
    flavor, length = _WORDS2.unpack_from(view, pos)
    pos += 8
    if not length and not flavor:
        return NULL_AUTH, pos
    end = pos + ((length + 3) & -4)
    if length > MAX_AUTH_BYTES or end > len(view):
        raise RpcFormatError(f"a credential or verifier announces {length} bytes")
    return _known_auth(flavor, view[pos : pos + length].tobytes()), end


@lru_cache(maxsize=1024)
def _known_auth(flavor: int, body: bytes) -> OpaqueAuth:
    """A peer sends the same few credentials again and again."""
    return OpaqueAuth(flavor, body)


@lru_cache(maxsize=1024)
def _known_head(wire: bytes) -> tuple[int, int, int, OpaqueAuth] | None:
    """Program, version, procedure and credential of a call, out of what is between its type and its
    arguments; None if it is not as nearly all are, with an empty verifier. The same ones come again
    and again."""
    rpcvers, *what = _WORDS4.unpack_from(wire)
    credential, end = wire[16:-8], 24 + (int.from_bytes(wire[20:24]) + 3 & -4)
    if rpcvers != RPC_VERSION or len(wire) != end + 8 or wire[end:] != NULL_AUTH.wire:
        return None
    program, version, procedure = what
    return program, version, procedure, _parse_auth(memoryview(credential), 0)[0]


def _parse_reply(view: memoryview, xid: int, reply_stat: int) -> Reply:
    if reply_stat != _ACCEPTED and ReplyStat(reply_stat):
        return _parse_denied(view, xid)
    flavor, length, number = _WORDS3.unpack_from(view, 12)
    if not (flavor or length or number):
        return _make_accepted(xid, NULL_AUTH, _SUCCESS, 0, 0, view[24:])
    verifier, pos = _parse_auth(view, 12)
    (number,) = _WORD.unpack_from(view, pos)
    if number == _SUCCESS:
        return _make_accepted(xid, verifier, _SUCCESS, 0, 0, view[pos + 4 :])
    status = AcceptStat(number)
    low = high = 0
    if status == AcceptStat.PROG_MISMATCH:
        low, high = _WORDS2.unpack_from(view, pos + 4)
        pos += 8
    _check_end(view, pos + 4)
    return AcceptedReply(xid, verifier, status, low, high)


def _parse_denied(view: memoryview, xid: int) -> DeniedReply:
    status = RejectStat(_WORD.unpack_from(view, 12)[0])
    if status == RejectStat.AUTH_ERROR:
        auth_status = AuthStat(_WORD.unpack_from(view, 16)[0])
        _check_end(view, 20)
        return DeniedReply(xid, status, auth_status)
    low, high = _WORDS2.unpack_from(view, 16)
    _check_end(view, 24)
    return DeniedReply(xid, status, AuthStat.AUTH_OK, low, high)


def _check_end(view: memoryview, pos: int) -> None:
    if pos != len(view):
        raise RpcFormatError(f"{len(view) - pos} bytes too many behind an RPC reply")
