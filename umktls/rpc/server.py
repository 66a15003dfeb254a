"""The serving side of RPC without its I/O: from a parsed call to a reply that can be sent.

The order of the checks is the one of real servers: RPC version, authentication, program, its
version, procedure, the service's own gate, arguments. Calls with an AUTH_TLS credential are the
kernel's business and do not come here.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from enum import IntEnum
from functools import lru_cache, partial
from typing import Any, Protocol, cast

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.frozen import frozen, maker
from umktls.rpc.message import (
    NULL_AUTH,
    RPC_VERSION,
    AcceptStat,
    AuthFlavor,
    AuthStat,
    AuthSys,
    Call,
    MsgType,
    OpaqueAuth,
    RejectStat,
    encode_accepted,
    encode_denied,
)
from umktls.rpc.program import Procedure, Program
from umktls.rpc.replycache import (
    Asker,
    CallKey,
    Replies,
    ReplyCache,
    Running,
    call_key,
    holder,
)
from umktls.rpc.xdr import Buffer, XdrError

__all__ = [
    "CallContext",
    "Copy",
    "Dispatcher",
    "Gate",
    "Handler",
    "Job",
    "Lane",
    "NotAuthentic",
    "Peer",
    "Service",
]

logger = logging.getLogger(__name__)

# How long a repeated call may wait for the first one: a disk may be slow.
COPY_SECONDS = 60.0


class Peer(Protocol):
    """The connection that a call came over, as far as services may ask."""

    @property
    def address(self) -> Any:
        """Where it comes from; of a tuple, the first member is the host."""

    @property
    def tls(self) -> bool:
        """Whether calls arrive in a TLS session."""

    @property
    def verified(self) -> bool:
        """Whether its certificate was verified."""

    @property
    def reserved_port(self) -> bool:
        """Whether it comes from a port under 1024."""

    @property
    def certificate(self) -> PeerCertificate | None:
        """What its verified certificate says, if that is known."""

    @property
    def user(self) -> AuthSys | None:
        """As whom AUTH_SYS calls are done, whatever they say: the user in the certificate."""

    def refused(self, what: str, why: str) -> None:
        """Told by a service that does not give the peer what it asks for: `what` is, and `why`.
        The peer learns only that; this is for whoever looks after the server. In any thread."""


class NotAuthentic(Exception):
    """Raised by a handler: the call is rejected with AUTH_ERROR and this `status`."""

    def __init__(self, status: AuthStat) -> None:
        super().__init__(status.name)
        self.status = status


@frozen
class CallContext:
    """Who calls: `credential` is None for AUTH_NONE; `flavor` an AuthFlavor number."""

    credential: AuthSys | None
    flavor: int
    peer: Peer


_context = maker(CallContext)
Handler = Callable[[Any, CallContext], Any]
Gate = Callable[[Procedure[Any, Any], CallContext], AuthStat | None]
Entitled = Callable[[Any, CallContext], bool]
Blocking = Callable[[Any], int]
Entry = tuple[Procedure[Any, Any], Handler, Blocking, Handler | None]


class Lane(IntEnum):
    """Where a call is executed: on the spot, or in a thread, with how many others besides."""

    HERE = 0
    DISK = 1
    """It waits for a disk."""
    SCAN = 2
    """It goes through many files, and so computes for long."""
    COPY = 3
    """It waits for another call."""


LANES = tuple(Lane)


@dataclass(frozen=True)
class Service:
    """A program and the functions that execute its procedures, by procedure name.

    NULL needs no handler; another procedure without one is PROC_UNAVAIL. `blocking` names those
    that may take long, each with a look at the arguments that says so, and in which `Lane` (True is
    DISK). `brief` has for some of them what is tried before that, on the spot: it does little, and
    returns None where more would be needed. `gate` may reject a call
    before its arguments are looked at. With `cache`, replies of procedures that are not idempotent
    are kept and given again to a repeated call, unless `entitled` says of its arguments that the
    caller has no right to a reply any more: then it is executed, and refused. `slow` says of a
    caller that its calls may take long, whatever they are."""

    program: Program
    handlers: Mapping[str, Handler]
    blocking: Mapping[str, Blocking] = field(default_factory=dict)
    brief: Mapping[str, Handler] = field(default_factory=dict)
    gate: Gate | None = None
    cache: bool = False
    entitled: Entitled | None = None
    slow: Callable[[CallContext], bool] | None = None

    def entries(self) -> dict[int, Entry]:
        """By procedure number; CallerError for a name that the program does not have."""
        for name in self.blocking:
            if name not in self.handlers:
                raise CallerError(f"blocking procedure {name} has no handler")
        procedures = {name: self.program[name] for name in self.handlers}
        table: dict[int, Entry] = {
            procedure.number: (
                procedure,
                self.handlers[name],
                self.blocking.get(name, _never),
                self.brief.get(name),
            )
            for name, procedure in procedures.items()
        }
        null = self.program.procedures.get(0)
        if null is not None:
            table.setdefault(0, (null, _nothing, _never, None))
        return table


def _never(args: Any) -> Lane:
    """Of a procedure that does not take long."""
    return Lane.HERE


def _nothing(args: None, context: CallContext) -> None:
    """The NULL procedure: what it does, and what it returns."""


_HEAD = struct.Struct(">6I")
# Of every call, as plain numbers: to ask an enumeration for a member costs ten times as much.
_AUTH_NONE, _AUTH_SYS = int(AuthFlavor.AUTH_NONE), int(AuthFlavor.AUTH_SYS)
# Behind the transaction id of a call that was executed (RFC 5531 section 9).
_EXECUTED = (int(MsgType.REPLY), 0, 0, 0, int(AcceptStat.SUCCESS))


class Job:
    """A call that is to be executed: in its `lane`, on the spot or in a worker thread."""

    __slots__ = (
        "__weakref__",
        "_args",
        "_brief",
        "_context",
        "_handler",
        "_keep",
        "_xid",
        "lane",
        "procedure",
    )

    def __init__(
        self,
        entry: Entry,
        xid: int,
        args: Any,
        context: CallContext,
        keep: Callable[[list[Buffer]], None] | None,
    ) -> None:
        self.procedure, self._handler, blocking, self._brief = entry
        self.lane = LANES[blocking(args)]
        self._xid = xid
        self._args = args
        self._context = context
        self._keep = keep

    def wait(self) -> None:
        """The call waits for something before it is executed: it has its lane whatever it is."""
        self.lane = max(self.lane, Lane.DISK)
        self._brief = None

    def run_briefly(self) -> list[Buffer] | None:
        """Execute a call that has a lane on the spot; None if it would take long, or may."""
        brief = self._brief
        return None if brief is None else self._run(brief)

    def run(self) -> list[Buffer]:
        """Execute the call; the reply, ready to be sent. Whatever the handler raises, except
        `NotAuthentic`, is logged and answered with SYSTEM_ERR."""
        return cast(list[Buffer], self._run(self._handler))

    def reply_with(self, result: Any) -> list[Buffer]:
        """The reply with that result, for a handler that has it given before it returns."""
        return self.procedure.result.encode(result, _HEAD.pack(self._xid, *_EXECUTED))

    def _run(self, handler: Handler) -> list[Buffer] | None:
        reply: list[Buffer]
        try:
            result = handler(self._args, self._context)
            if result is None and handler is self._brief:
                return None
            reply = self.procedure.result.encode(result, _HEAD.pack(self._xid, *_EXECUTED))
        except NotAuthentic as error:
            reply = [encode_denied(self._xid, RejectStat.AUTH_ERROR, error.status)]
        except Exception:
            logger.exception("procedure %s failed", self.procedure.name)
            reply = [encode_accepted(self._xid, NULL_AUTH, AcceptStat.SYSTEM_ERR)]
        if self._keep is not None:
            self._keep(reply)
        return reply


class Copy(Job):
    """A call that repeats one that is being executed: its reply is the other's. `again` has it
    dispatched once more, where there will be none."""

    __slots__ = ("_again", "_running")

    def __init__(
        self,
        procedure: Procedure[Any, Any],
        running: Running,
        again: Callable[[], list[Buffer] | Job],
    ) -> None:
        self.procedure = procedure
        self.lane = Lane.COPY
        self._brief = None
        self._running = running
        self._again = again

    def run(self) -> list[Buffer]:
        """Wait for the reply; an empty list if it takes too long."""
        reply = self._running.wait(COPY_SECONDS)
        if reply is not None:
            return reply
        work = self._again()
        return work.run() if isinstance(work, Job) else work


class Dispatcher:
    """Finds out what a call asks for. One for all connections of a server."""

    def __init__(self, services: Iterable[Service], cache: Replies | None = None) -> None:
        self._services: set[tuple[int, int]] = set()
        self._entries: dict[tuple[int, int, int], tuple[Service, Entry]] = {}
        self._versions: dict[int, list[int]] = {}
        self._cache: Replies = ReplyCache() if cache is None else cache
        for service in services:
            self._add(service)

    def _add(self, service: Service) -> None:
        program = service.program
        if (program.number, program.version) in self._services:
            raise CallerError(f"two services for program {program.name} {program.version}")
        self._services.add((program.number, program.version))
        for number, entry in service.entries().items():
            self._entries[program.number, program.version, number] = service, entry
        self._versions.setdefault(program.number, []).append(program.version)

    def dispatch(self, call: Call, peer: Peer) -> list[Buffer] | Job:
        """A job, or at once the reply: a rejection, or a kept one."""
        if call.rpcvers != RPC_VERSION:
            return [encode_denied(call.xid, RejectStat.RPC_MISMATCH)]
        context = _authenticate(call, peer)
        if isinstance(context, AuthStat):
            return _auth_error(call, context)
        found = self._entries.get((call.program, call.version, call.procedure))
        if found is None:
            return self._not_found(call)
        service, entry = found
        procedure = entry[0]
        refused = service.gate(procedure, context) if service.gate is not None else None
        if refused is not None:
            return _auth_error(call, refused)
        try:
            args = procedure.args.decode_untrusted(call.body)
        except XdrError:
            return _failed(call, AcceptStat.GARBAGE_ARGS)
        work: list[Buffer] | Job
        if service.cache and not procedure.idempotent:
            work = self._dispatch_once(call, service, entry, args, context)
        else:
            work = Job(entry, call.xid, args, context, None)
        if service.slow is not None and isinstance(work, Job) and service.slow(context):
            work.wait()
        return work

    def _dispatch_once(
        self, call: Call, service: Service, entry: Entry, args: Any, context: CallContext
    ) -> list[Buffer] | Job:
        key: CallKey = call_key(call, context.peer.address, asker(context.peer))
        running = self._cache.begin(key)
        if running is not None:
            keep = partial(self._cache.finish, key, running)
            return Job(entry, call.xid, args, context, keep)
        if service.entitled and not service.entitled(args, context):
            return Job(entry, call.xid, args, context, None)
        known = self._cache.lookup(key)
        if isinstance(known, list):
            return known
        again = partial(self._dispatch_once, call, service, entry, args, context)
        return again() if known is None else Copy(entry[0], known, again)

    def _not_found(self, call: Call) -> list[Buffer]:
        if (call.program, call.version) in self._services:
            return _failed(call, AcceptStat.PROC_UNAVAIL)
        versions = self._versions.get(call.program)
        if versions is None:
            return _failed(call, AcceptStat.PROG_UNAVAIL)
        return _failed(call, AcceptStat.PROG_MISMATCH, min(versions), max(versions))


def asker(peer: Peer) -> Asker:
    """Who asks, as far as the right to an answer depends on it."""
    certificate = peer.certificate
    if certificate is not None:
        return ("mtls", holder(certificate), peer.user)
    if peer.verified:
        return ("mtls", None, peer.user)
    return ("tls" if peer.tls else "clear", peer.reserved_port)


def _failed(call: Call, status: AcceptStat, low: int = 0, high: int = 0) -> list[Buffer]:
    return [encode_accepted(call.xid, NULL_AUTH, status, low, high)]


def _auth_error(call: Call, status: AuthStat) -> list[Buffer]:
    return [encode_denied(call.xid, RejectStat.AUTH_ERROR, status)]


def _authenticate(call: Call, peer: Peer) -> CallContext | AuthStat:
    """Who calls, or why that cannot be believed (RFC 5531 sections 8.2 and 10, appendix A)."""
    flavor, verifier = call.credential.flavor, call.verifier
    if flavor not in (_AUTH_SYS, _AUTH_NONE):
        return AuthStat.AUTH_REJECTEDCRED
    if verifier is not NULL_AUTH and verifier.flavor != _AUTH_NONE:
        return AuthStat.AUTH_BADVERF
    if flavor == _AUTH_NONE:
        return CallContext(None, flavor, peer)
    try:
        return _context(_known_credential(call.credential.body), flavor, peer)
    except XdrError:
        return AuthStat.AUTH_BADCRED


@lru_cache(maxsize=1024)
def _known_credential(body: bytes) -> AuthSys:
    """A client sends the same few credentials again and again."""
    return AuthSys.from_opaque_untrusted(OpaqueAuth(AuthFlavor.AUTH_SYS, body))
