"""The calling side of RPC without its I/O: which reply belongs to which call, and what it says."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

from umktls.errors import CallerError, PeerError
from umktls.rpc.message import (
    AcceptStat,
    AuthStat,
    Call,
    DeniedReply,
    RejectStat,
    Reply,
    RpcFormatError,
    parse_untrusted,
)
from umktls.rpc.xdr import Buffer

__all__ = [
    "AuthRejected",
    "CallTable",
    "GarbageArguments",
    "ProcedureUnavailable",
    "ProgramUnavailable",
    "RpcRejected",
    "SystemFailure",
    "VersionMismatch",
    "new_xids",
    "raise_for_reply",
]

T = TypeVar("T")

# Looked at for every reply: to ask an enumeration for a member costs ten times as much.
_SUCCESS = AcceptStat.SUCCESS


class RpcRejected(PeerError):
    """The server understood a call and did not execute it."""

    default_errno = errno.EIO


class ProgramUnavailable(RpcRejected):
    default_errno = errno.EOPNOTSUPP


class ProcedureUnavailable(RpcRejected):
    default_errno = errno.EOPNOTSUPP


class GarbageArguments(RpcRejected):
    """The server could not decode the arguments."""


class SystemFailure(RpcRejected):
    """The server failed while it executed the call."""


class VersionMismatch(RpcRejected):
    """The server knows the versions from `low` to `high` only, of the program or of RPC itself."""

    default_errno = errno.EPROTONOSUPPORT

    def __init__(self, text: str, low: int, high: int) -> None:
        super().__init__(text)
        self.low = low
        self.high = high


class AuthRejected(RpcRejected):
    """The server does not take the credential or the verifier; `auth_status` says why."""

    default_errno = errno.EACCES

    def __init__(self, text: str, auth_status: AuthStat) -> None:
        super().__init__(text)
        self.auth_status = auth_status


REJECTIONS: dict[AcceptStat, tuple[type[RpcRejected], str]] = {
    AcceptStat.PROG_UNAVAIL: (ProgramUnavailable, "the server does not offer this program"),
    AcceptStat.PROC_UNAVAIL: (ProcedureUnavailable, "the server does not offer this procedure"),
    AcceptStat.GARBAGE_ARGS: (GarbageArguments, "the server could not decode the arguments"),
    AcceptStat.SYSTEM_ERR: (SystemFailure, "the server failed while it executed the call"),
}

# What a person can do about an authentication error, where anything is known.
ADVICE = {
    AuthStat.AUTH_TOOWEAK: "; it asks for more security: for TLS, or for the client's certificate",
    AuthStat.AUTH_REJECTEDCRED: "; it does not take credentials of this flavor, or takes none from "
    "this client, whose certificate does not name its host (-h of the server's rpctlssd): the "
    "server's trace says which",
}


def raise_for_reply(reply: Reply) -> memoryview:
    """The undecoded results of a successful call; raises a subclass of RpcRejected otherwise."""
    if isinstance(reply, DeniedReply):
        raise _denial(reply)
    if reply.status == _SUCCESS:
        return reply.body
    if reply.status == AcceptStat.PROG_MISMATCH:
        known = f"the server knows versions {reply.low} to {reply.high} of this program only"
        raise VersionMismatch(known, reply.low, reply.high)
    kind, text = REJECTIONS[reply.status]
    raise kind(text)


def _denial(reply: DeniedReply) -> RpcRejected:
    if reply.status == RejectStat.RPC_MISMATCH:
        text = f"the server knows versions {reply.low} to {reply.high} of RPC only"
        return VersionMismatch(text, reply.low, reply.high)
    status = reply.auth_status
    text = f"the server rejected the credential: {status.name}{ADVICE.get(status, '')}"
    return AuthRejected(text, status)


def new_xids(first: int | None = None) -> Iterator[int]:
    """Transaction ids, one after the other. The first is random, so that a new client on an old
    port is not taken for the old one."""
    return count(secrets.randbits(32) if first is None else first)


class CallTable(Generic[T]):
    """The calls that wait for their replies, by transaction id, each with whatever belongs to it.

    xids: where ids come from. Tables that share them never give one id twice: a server tells the
    calls of one host by their ids, whatever connection they come over."""

    def __init__(self, xids: Iterator[int] | None = None) -> None:
        self._pending: dict[int, T] = {}
        self._xids = new_xids() if xids is None else xids

    def __len__(self) -> int:
        return len(self._pending)

    def new_xid(self) -> int:
        """An id that no waiting call has."""
        while True:
            xid = next(self._xids) & 0xFFFFFFFF
            if xid not in self._pending:
                return xid

    def add(self, xid: int, call: T) -> None:
        if xid in self._pending:
            raise CallerError(f"a call with transaction id {xid:#x} is waiting already")
        self._pending[xid] = call

    def match_untrusted(self, message: Buffer) -> tuple[T, Reply] | None:
        """Take out the call that a message answers; None if none waits for it (any more).

        Raises RpcFormatError only: also for a call, because nobody here takes calls."""
        reply = parse_untrusted(message)
        if isinstance(reply, Call):
            raise RpcFormatError("a call arrived where replies are expected")
        xid = reply.xid
        return (self._pending.pop(xid), reply) if xid in self._pending else None

    def remove(self, xid: int) -> T | None:
        """Give up on a call; None if it does not wait. A late reply to it will match nothing."""
        return self._pending.pop(xid, None)

    def items(self) -> list[tuple[int, T]]:
        """All waiting calls with their ids, oldest first."""
        return list(self._pending.items())

    def waiting(self) -> list[T]:
        """All waiting calls, oldest first: what has to be sent again on a new connection."""
        return list(self._pending.values())

    def drain(self) -> list[T]:
        """Take out all waiting calls."""
        calls = self.waiting()
        self._pending.clear()
        return calls
