"""Upcalls: the kernel as an ONC RPC client of the handshake daemons.

Theory of operation
===================

An upcall is tried once and has a deadline: it is not idempotent, since a CONNECT takes a socket.
FreeBSD does it so too (rpctls_impl.c: one try, 15 s). Its life is a table (umktls.upcall.states),
and every upcall goes through it, with whichever transport: this file drives it. The transports are
in files of their own:

- version 1 (`kernel/upcalls/registered.py`): the kernel connects to a path that the daemon
  registered. A daemon takes "the" pending socket, so one CONNECT is out at a time.
- version 2 (`kernel/upcalls/netlink.py`): netlink messages on a socket that the daemon has got from
  the kernel. A cookie says which socket is meant, so many CONNECTs are out at once.
- Linux's (`kernel/upcalls/agents.py`) is no RPC at all: agents come for the oldest connection that
  waits. It has the same life.

A CONNECT ends too when the peer hangs up while nobody has the socket: a daemon that does not take
it may be stopped, and there is nothing to wait for. A daemon that has taken it sees for itself what
became of the peer.

An answer that comes after its upcall's end is late, and the daemon is told so in the way that its
transport has. If it is that of a CONNECT that has gone well, the daemon has a session of which it
would never hear again: DISCONNECT ends it. What an upcall that ended without an answer leaves
behind is therefore kept for a while; in version 1 it also blocks the next CONNECT as long as the
daemon may still come for the socket of the last one: it would take the wrong one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.request import (
    EVENT_OF,
    DaemonGone,
    Offered,
    Request,
    UpcallTimeout,
    describe,
    encoded,
)
from umktls.rpc.client import CallTable, raise_for_reply
from umktls.rpc.message import AcceptedReply, Call, DeniedReply, Reply, parse_untrusted
from umktls.rpc.program import Procedure
from umktls.rpc.xdr import Buffer, Struct
from umktls.upcall.states import (
    Upcall,
    UpcallAction,
    UpcallEvent,
    UpcallState,
)
from umktls.upcall.versions import VERSIONS

__all__ = ["DaemonHandle", "Spawn", "UnderWay", "Worked"]

R = TypeVar("R")
# Whether the result of a CONNECT is a session.
Worked = Callable[[Any], bool]
# Starts a task that lives as long as the host.
Spawn = Callable[[Callable[[], Awaitable[None]]], None]

# Upcalls without an answer that are remembered, per daemon.
REMEMBERED = 1024


class UnderWay(Generic[R]):
    """An upcall between `DaemonHandle.send` and `answer`: since when, and until when."""

    __slots__ = ("began", "request", "sent", "until", "xid")

    def __init__(self, request: Request[R], xid: int, began: float) -> None:
        self.request = request
        self.xid = xid
        self.began = began
        self.until = began + request.seconds
        self.sent = False


class DaemonHandle:
    """A daemon process that serves upcalls of program `name`, whatever the transport.

    `limit` is how many CONNECTs may be out at once, `places` how many of these are given away.
    `has_room` is called when there may be a place again. `gone`: it is no daemon any more.
    """

    version: int
    path: str
    _spawn: Spawn
    attends = True  # whether it is asked about its sessions when they are made

    def __init__(self, name: str, pid: int, trace: Trace, limit: int) -> None:
        self.name = name
        self.pid = pid
        self.trace = trace
        self.limit = limit
        self.places = 0
        self.has_room: Callable[[], None] = lambda: None
        self.gone = trio.Event()
        self.offers: dict[int, Request[Any]] = {}
        self._calls: CallTable[Request[Any]] = CallTable()
        self._unanswered: dict[int, Request[Any]] = {}

    @property
    def room(self) -> bool:
        """Whether another CONNECT may go to this daemon."""
        return self.places < self.limit

    def procedure(self, name: str) -> Procedure[Any, Any]:
        """A procedure of the daemon's program, in the version that it speaks."""
        return VERSIONS[self.version].programs[self.name][name]

    def offered(self, cookie: int) -> Request[Any] | None:
        """The CONNECT that is out for the socket with that cookie."""
        return self.offers.get(cookie)

    async def connect(
        self, sock: Offered, certname: bytes, seconds: float, life: Upcall, worked: Worked
    ) -> Any:
        """The upcall that offers `sock`; its result, which `worked` judges. Raises as `call`."""
        argument = VERSIONS[self.version].connect_argument[self.name](sock.cookie, certname)
        procedure = self.procedure("CONNECT")
        return await self.call(Request(procedure, argument, seconds, sock, worked, upcall=life))

    def session(self, result: Any, cookie: int) -> Struct:
        """What later upcalls call the session that `connect` has brought."""
        return VERSIONS[self.version].session(result, cookie)

    async def call(self, request: Request[R]) -> R:
        """Make one upcall; returns its result. `request.action` says what is to be done then.

        Raises `DaemonGone`, `UpcallTimeout`, `ConnectionGone`, or `PeerError` when the daemon's
        answer is a rejection or makes no sense. What raises `CallerError` has no message, and was
        no upcall.
        """
        return await self.answer(await self.send(request))

    async def send(self, request: Request[R]) -> UnderWay[R]:
        """The first half of `call`; `answer` is to follow, also for who is cancelled in between."""
        name = request.procedure.name
        if self.trace.steps.kinds:
            await self.trace.steps.stop("upcall", request.connection, name)
        xid = self._calls.new_xid()
        message = encoded(request, xid)
        way = UnderWay(request, xid, trio.current_time())
        self.trace.emit(
            "upcall", request.connection, procedure=name, daemon=self.name, xid=xid, pid=self.pid
        )
        if self.trace.close:
            request.upcall.watcher = partial(self._tell_state, request, xid)
        request.upcall.on(UpcallEvent.START)
        self._calls.add(xid, request)
        self._offer(request)
        try:
            way.sent = await self._send(xid, message, request, way.until)
        except (UmktlsError, trio.Cancelled) as error:
            self._over(way, EVENT_OF.get(type(error), UpcallEvent.ANSWER_FAILED), str(error))
            raise
        return way

    async def answer(self, way: UnderWay[R]) -> R:
        """The second half: wait for the result."""
        request = way.request
        event, outcome = UpcallEvent.ANSWER_FAILED, "no answer"
        try:
            if way.sent:
                await request.ended(way.until)
            reply = self._reply_of(request)
            result = request.procedure.decode_result_untrusted(raise_for_reply(reply))
            if request.worked(result):
                event = UpcallEvent.ANSWER_OK
            outcome = describe(result)
        except (UmktlsError, trio.Cancelled) as error:
            event = EVENT_OF.get(type(error), event)
            outcome = str(error)
            if request.reply is not None:
                self._end_unwanted(request, request.reply)
            raise
        finally:
            self._over(way, event, outcome)
        return result

    def _over(self, way: UnderWay[Any], event: UpcallEvent, outcome: str) -> None:
        """The upcall is over, however that has come."""
        request = way.request
        self._calls.remove(way.xid)
        if way.sent and not request.done.is_set():
            self._remember(way.xid, request)
        self._withdraw(request)
        request.upcall.on(event)
        self._tell_answer(request, way.xid, outcome, trio.current_time() - way.began)

    def _tell_answer(self, request: Request[Any], xid: int, result: str, seconds: float) -> None:
        name = request.procedure.name
        self.trace.emit(
            "upcall-answered",
            request.connection,
            procedure=name,
            result=result,
            seconds=seconds,
            xid=xid,
        )

    def _tell_state(self, request: Request[Any], xid: int, state: UpcallState) -> None:
        if self.trace.close:
            name, step = request.procedure.name, state.value
            self.trace.step("upcall-state", request.connection, procedure=name, xid=xid, state=step)

    def _offer(self, request: Request[Any]) -> None:
        """From now on the daemon may take the socket of `request`, if it is a CONNECT, and ask how
        much of the upcall's time is left."""
        sock = request.sock
        if sock is not None and request.offers:
            sock.deadline = trio.current_time() + request.seconds
            self.offers[sock.cookie] = request

    def _withdraw(self, request: Request[Any]) -> None:
        """It may no more."""
        if request.sock is not None and request.offers:
            del self.offers[request.sock.cookie]

    def _reply_of(self, request: Request[Any]) -> AcceptedReply | DeniedReply:
        name = request.procedure.name
        if not request.done.is_set():
            raise UpcallTimeout(
                f"{self.name} (process {self.pid}) did not answer {name} "
                f"within {request.seconds:g} s"
            )
        if request.reply is None:
            raise DaemonGone(
                f"{self.name} (process {self.pid}) went away before it answered {name}"
            )
        return request.reply

    def _remember(self, xid: int, request: Request[Any]) -> None:
        self._unanswered[xid] = request
        if len(self._unanswered) > REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]

    def _answer(self, message: Buffer) -> bool:
        """A reply of the daemon; False if nobody waits for it any more, or ever did.

        Raises `PeerError` for what is no reply.
        """
        matched = self._calls.match_untrusted(message)
        if matched is not None:
            request, reply = matched[0], matched[1]
            request.end(reply)
            return True
        late = parse_untrusted(message)
        assert not isinstance(late, Call), "that was refused"
        self._answer_late(late)
        self.has_room()
        return False

    def _answer_late(self, reply: Reply) -> None:
        late = self._unanswered.pop(reply.xid, None)
        if late is None or late.upcall.on(UpcallEvent.ANSWER_OK) is UpcallAction.LATE:
            self._tell_late(late)
        if late is not None:
            self._end_unwanted(late, reply)

    def _end_unwanted(self, request: Request[Any], reply: Reply) -> None:
        """The session that a CONNECT has made, if it has, is nobody's: have the daemon end it."""
        if request.sock is None or not request.taken:
            return
        with contextlib.suppress(UmktlsError):
            result = request.procedure.decode_result_untrusted(raise_for_reply(reply))
            if request.worked(result):
                session = self.session(result, request.sock.cookie)
                self._spawn(partial(self._disconnect, session, request))

    async def _disconnect(self, session: Struct, request: Request[Any]) -> None:
        procedure = self.procedure("DISCONNECT")
        with contextlib.suppress(UmktlsError):
            await self.call(Request(procedure, session, request.seconds, request.sock))

    def _tell_late(self, late: Request[Any] | None) -> None:
        self.trace.emit(
            "late-answer",
            late.connection if late is not None else None,
            daemon=self.name,
            pid=self.pid,
            procedure=late.procedure.name if late is not None else "an upcall",
        )

    def _end_all(self) -> None:
        """The daemon is gone: nobody will answer what is under way."""
        self._unanswered.clear()
        for request in self._calls.drain():
            request.end(None)

    async def _send(self, xid: int, message: bytes, request: Request[Any], until: float) -> bool:
        """Send a call to the daemon, with what it is about (a record, a socket) where the transport
        can; whether that was possible up to this time of trio's clock. Raises `DaemonGone`."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop calling this daemon; upcalls under way end with `DaemonGone`."""
        raise NotImplementedError
