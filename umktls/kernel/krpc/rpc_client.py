"""An RPC client that outlives its connections.

Theory of operation. Calls are matched to replies by xid. A call is encoded once and kept until its
reply is there, so when a connection breaks, the calls that were waiting are sent again on the next
one, with the same xid: the server's duplicate request cache then answers what it has done already,
and nothing is done twice. One task makes connections and reads from them, where no caller does
(reading.py); a second one looks after deadlines, because a cancel scope per call costs more than
the rest of the call, and after connections on which no call is out.

A connection is made when a call needs one. Failures that may pass (refused, reset, timed out) are
tried again with growing pauses as long as calls wait (reachable.py), and a call has a deadline,
which is infinite for a mount that is `hard`. Failures that would not pass (TLS refused) end all
waiting calls at once. So does a server that has answered nothing yet and ends one connection after
another: what it does not understand it will not understand next time.

Several clients of one server (nconnect.py) share what is known of it, and transaction ids. One that
gets no connection hands its calls on to another one (`relief`).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.hostclock import real_pause
from umktls.kernel.ground.refusals import refusal_text
from umktls.kernel.krpc.pending import PendingCall
from umktls.kernel.krpc.posted import Posted
from umktls.kernel.krpc.reachable import SILENT_SECONDS, Reachable
from umktls.kernel.krpc.reading import Reading
from umktls.kernel.krpc.telling import tell_answer, tell_call
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE
from umktls.rpc.client import AuthRejected, CallTable, raise_for_reply
from umktls.rpc.message import NULL_AUTH, DeniedReply, OpaqueAuth, encode_call
from umktls.rpc.program import Procedure
from umktls.rpc.record import mark

__all__ = ["Connector", "Control", "Disconnector", "RpcClient"]

A = TypeVar("A")
R = TypeVar("R")

# So many connections may end before the first answer.
FIRST_TRIES = 3
DEADLINE_TICK = 0.25
# What was asked on a connection that is to be replaced has so long to be answered.
RETIRE_SECONDS = 15.0

# Makes a connection and returns it ready for calls; the second is called when it ends, and why; the
# third when there is a control record at the head of its receive queue.
Connector = Callable[[], Awaitable[KernelSocket]]
Disconnector = Callable[[KernelSocket, str], Awaitable[None]]
Control = Callable[[KernelSocket], Awaitable[None]]
# Which client takes the calls of one that has no connection, if any does.
Relief = Callable[["RpcClient"], "RpcClient | None"]


def nobody(client: RpcClient) -> None:
    """The relief of a client that is the only one."""


class RpcClient:
    """Calls to one server. `run` must be running while calls are made."""

    def __init__(
        self,
        connect: Connector,
        disconnect: Disconnector,
        control: Control,
        trace: Trace,
        deadline: float,
        server: str,
        xids: Iterator[int] | None = None,
        reachable: Reachable | None = None,
        relief: Relief = nobody,
        dwell: Dwell | None = None,
    ) -> None:
        self._connect = connect
        self._disconnect = disconnect
        self._control = control
        self._trace = trace
        self._server = server
        self.deadline = deadline
        self.calls = 0
        self._table: CallTable[PendingCall] = CallTable(xids)
        self._wanted = trio.Event()
        self._last_error: UmktlsError | None = None
        self._answered = False
        self._heard = False  # since the last tick
        self._sealed = False  # whether the last connection had TLS
        self._fruitless = 0  # connections, as long as nothing was answered
        self._reachable = reachable or Reachable(trace, server)
        self._relief = relief
        self.dwell = dwell or Dwell()
        self.socket: KernelSocket | None = None
        self._offered: KernelSocket | None = None
        self._retiring = ""  # why the connection is to be replaced, if it is
        self._retire_by = 0.0
        self._reading: Reading | None = None
        self._life = trio.CancelScope()  # of the reading

    async def call(self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth) -> R:
        """One call; returns the decoded result.

        Raises what `call_counted` raises.
        """
        return (await self.call_counted(procedure, argument, credential))[0]

    async def call_counted(
        self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth
    ) -> tuple[R, int]:
        """One call; returns the decoded result, and how many times the call had to be sent.

        Raises `WorldError` ETIMEDOUT when the deadline passes, `PeerError` for rejections and for
        results that make no sense, and what ended the connection when no new one can be made.
        """
        pending = self._begin(procedure, argument, credential)
        return await self._result(procedure, pending), pending.sends

    def post(self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth) -> Posted[R]:
        """Make a call and do not wait. What it comes to is read together with other replies."""
        pending = self._begin(procedure, argument, credential)
        return Posted(pending, partial(self._result, procedure), self._look)

    def _look(self, pending: PendingCall) -> None:
        """Read the reply of a call if it comes shortly."""
        sock = pending.sent_on
        if sock is not None and sock.rpc.unattended and self._reading is not None:
            self._reading.look(pending)

    def _begin(
        self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth
    ) -> PendingCall:
        """Make a call."""
        xid = self._table.new_xid()
        header = encode_call(
            xid, procedure.program, procedure.version, procedure.number, credential, NULL_AUTH
        )
        parts = procedure.args.encode(argument, header)
        parts[0] = mark(len(parts[0]) if len(parts) == 1 else sum(map(len, parts))) + parts[0]
        pending = PendingCall(
            xid,
            procedure.name,
            parts,
            trio.lowlevel.current_task(),
            (now := trio.current_time()),
            now + self.deadline,
            self._table,
        )
        self._table.add(xid, pending)
        self.calls += 1
        self._send(pending)
        return pending

    async def _result(self, procedure: Procedure[A, R], pending: PendingCall) -> R:
        """Wait for the result of a call and decode it."""
        sock = pending.sent_on
        if (
            pending.result is None
            and sock is not None
            and sock.rpc.unattended
            and self._reading is not None
        ):
            await self._reading.lead(pending)
        reply = pending.result or await pending.settled()
        if isinstance(reply, UmktlsError):
            raise reply
        try:
            body = raise_for_reply(reply)
        except AuthRejected as error:
            error.args = (f"{error} [connection {pending.denied_on}]",)
            raise
        return procedure.decode_result_untrusted(body)

    def _send(self, pending: PendingCall) -> None:
        sock = self.socket
        if sock is None or self._retiring:
            self._wanted.set()
            return
        pending.sends += 1
        pending.sent_on = sock
        if self._trace.close:
            what = pending.name, pending.parts, pending.sends, pending.task
            tell_call(self._trace, sock.name, *what)
        try:
            sock.rpc.send(pending.parts)
        except WorldError:
            # The reading task sees the same broken connection and makes a new one, on which this
            # call is sent again.
            sock.hang_up()
        sock.rpc.calls += 1

    # ---- beside others

    @property
    def waiting(self) -> int:
        """Calls that have no answer yet."""
        return len(self._table)

    def take_over(self, calls: CallTable[PendingCall]) -> None:
        """Make the calls that wait in the table of another client. They keep their transaction ids:
        by these the server knows what it has done already."""
        for xid, pending in calls.items():
            calls.remove(xid)
            pending.table = self._table
            self._table.add(xid, pending)
            self._send(pending)
        if self.socket is not None:
            self.socket.rpc.resume()

    def _relieved(self, reason: str) -> bool:
        """Hand the calls on to a client that can do better, if there is one."""
        other = self._relief(self)
        if other is None:
            return False
        self._trace.emit(
            "handed-on", None, server=self._server, reason=reason, waiting=len(self._table)
        )
        other.take_over(self._table)
        return True

    # ---- connections

    def offer(self, sock: KernelSocket) -> None:
        """Use `sock`, which is ready for calls, as the first connection."""
        self._offered = sock

    async def run(self) -> None:
        """Make connections and read replies until cancelled; then the last one is ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_deadlines)
            while True:
                sock, self._offered = self._offered, None
                if sock is None:
                    if not len(self._table):
                        await self._wanted.wait()
                    self._wanted = trio.Event()
                    sock = await self._connected()
                if sock is not None:
                    await self._live(sock)

    async def _connected(self) -> KernelSocket | None:
        """A new connection; None when there will be none, or nobody waits for it any more."""
        while len(self._table):
            self._reachable.trying()
            try:
                return await self._connect()
            except TlsRefused as error:
                if self._relieved(str(error)):
                    return None
                self._reachable.refused(str(error), len(self._table))
                self._fail_all(error)
                return None
            except (UmktlsError, OSError) as error:
                if not isinstance(error, UmktlsError):
                    error = WorldError(f"no connection: {refusal_text(error)}", error.errno)
                if self._relieved(str(error)):
                    return None
                self._last_error = error
                pause = self._reachable.failed(str(error), len(self._table))
            await trio.sleep(pause)
        return None

    async def _live(self, sock: KernelSocket) -> None:
        """One connection's life: send what waits, read replies, and end it in order."""
        reason = "the mount ended"
        try:
            self.socket = sock
            answer = partial(self._answer, sock)
            self._reading = Reading(sock, self._table, answer, self._control, self.dwell)
            self._sealed = sock.session is not None
            sock.rpc.retire = self.retire
            self._last_error = None
            self._reachable.heard = trio.current_time()
            self._reachable.connected()
            for pending in self._table.waiting():
                self._send(pending)
            with trio.CancelScope() as self._life:
                reason = await self._reading.run()
            retired = self._life.cancelled_caught
            reason = self._retiring if retired else reason
        finally:
            self.socket, self._reading, self._retiring = None, None, ""
            with trio.CancelScope(shield=True):
                await self._disconnect(sock, reason)
        failure = sock.failure
        if failure is not None and failure.phase == "alert" and failure.final:
            self._fail_all(ended_by_alert(sock))
        elif len(self._table) and not retired:
            self._note_fruitless(sock, reason)
            self._trace.emit(
                "reconnect", sock.name, peer=sock.peer, reason=reason, waiting=len(self._table)
            )

    def retire(self, reason: str) -> None:
        """Have a new connection take the place of this one: it ends when all that was asked on it
        is answered, or RETIRE_SECONDS later; calls made meanwhile wait for the new one."""
        if self.socket is not None and not self._retiring:
            self._retiring = reason
            self._retire_by = trio.current_time() + RETIRE_SECONDS
            self._leave()

    def _leave(self) -> None:
        """End the connection that is to be replaced, if it is time."""
        asked = any(pending.sent_on is self.socket for pending in self._table.waiting())
        if not asked or trio.current_time() >= self._retire_by:
            self._life.cancel()

    def _note_fruitless(self, sock: KernelSocket, reason: str) -> None:
        """Give up where no connection has brought an answer, and this was one more."""
        if self._answered or self._relieved(reason):
            return
        self._fruitless += 1
        if self._fruitless == FIRST_TRIES:
            self._fruitless = 0
            what = f"{sock.peer} ends every connection before it answers a call: {reason}"
            self._fail_all(WorldError(self._with_doubt(what), errno.ECONNRESET))

    def _with_doubt(self, what: str) -> str:
        """A failure, and what may be its cause where TLS was made and nothing was ever answered."""
        known = self._answered or not self._sealed or NULL_ON_ONE_SIDE in what
        return what if known else f"{what}; {NULL_ON_ONE_SIDE}"

    def _answer(self, sock: KernelSocket, message: memoryview) -> None:
        matched = self._table.match_untrusted(message)
        if matched is None:
            return
        pending, reply = matched
        if self._trace.close:
            waited = trio.current_time() - pending.since
            what = pending.name, reply.xid, len(message), waited, pending.task
            tell_answer(self._trace, sock.name, *what)
        sock.rpc.replies += 1
        self._answered = self._heard = True
        if self._reachable.since is not None:
            self._reachable.answered()
        if isinstance(reply, DeniedReply):
            sock.rpc.rejected += 1
            pending.denied_on = sock.name
        pending.answer(reply)
        if self._retiring:
            self._leave()

    # ---- failures

    def _fail_all(self, error: UmktlsError) -> None:
        for pending in self._table.drain():
            pending.fail(type(error)(str(error), error.errno))

    async def _watch_deadlines(self) -> None:
        while True:
            await real_pause(DEADLINE_TICK)
            now = trio.current_time()
            if self.socket is not None:
                self.socket.rpc.resume()
            if self._heard:
                self._heard, self._reachable.heard = False, now
            self._watch_silence(now)
            if self._retiring:
                self._leave()
            for xid, pending in self._table.items():
                if pending.expires <= now:
                    self._table.remove(xid)
                    pending.fail(self._expired(pending))

    def _watch_silence(self, now: float) -> None:
        """Say once that a server has a connection and does not answer."""
        if self.socket is None or not len(self._table) or self._reachable.since is not None:
            return
        _, oldest = self._table.items()[0]
        seconds = now - max(self._reachable.heard, oldest.since)
        if seconds >= SILENT_SECONDS:
            self._reachable.silent(seconds, len(self._table))

    def facts(self) -> dict[str, Any]:
        """What `umktls stat` shows: whether the server answers, and what waits for it."""
        waiting = self._table.waiting()
        seconds = trio.current_time() - waiting[0].since if waiting else 0.0
        return {
            "what": self._server,
            **self._reachable.facts(),
            "connected": self.socket is not None,
            "waiting": len(waiting),
            "waiting_seconds": round(seconds, 3),
        }

    def _expired(self, pending: PendingCall) -> WorldError:
        why = f": {self._last_error}" if self._last_error is not None else ""
        number = errno.ETIMEDOUT if self._last_error is None else self._last_error.errno
        what = f"{pending.name}: no answer from {self._server} within {self.deadline:g} s{why}"
        return WorldError(self._with_doubt(what), number)


def ended_by_alert(sock: KernelSocket) -> TlsRefused:
    """The error for a fatal alert: so a TLS 1.3 server refuses a client's certificate, behind the
    end of the handshake."""
    where = f"TLS with {sock.peer} failed in phase alert"
    return TlsRefused(f"{where}: {sock.failure} [connection {sock.name}]")
