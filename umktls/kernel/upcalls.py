"""Upcalls: the kernel as an ONC RPC client of the handshake daemons.

A daemon listens on an AF_UNIX stream socket and registers its path by a system call; from then on
the kernel calls it. Each upcall is tried once and has a deadline: it is not idempotent, since a
CONNECT takes a socket. FreeBSD does it so too (rpctls_impl.c: one try, 15 s).

A CONNECT publishes its socket in the handle's single slot, from which the daemon's next
CLSOCKET or SRVSOCKET takes it; so CONNECTs to one daemon process are serial. FreeBSD 13 has one
slot for all daemons of a direction, where two upcalls to two daemons can cross over; here each
daemon process has a slot of its own. A daemon that did not come to take the socket in time may come
later, and would take the next one: so before the next CONNECT it has to answer the last.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import trio

from umktls.abi import rpctls
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.kernel.control import allowed, peer_credentials
from umktls.kernel.events import Trace
from umktls.rpc.client import CallTable, raise_for_reply
from umktls.rpc.message import NULL_AUTH, AcceptedReply, DeniedReply, encode_call, parse_untrusted
from umktls.rpc.program import Procedure
from umktls.rpc.record import RecordReader, mark
from umktls.upcall.states import CONNECT_TRANSITIONS, Upcall, UpcallAction, UpcallEvent, UpcallState

if TYPE_CHECKING:
    from umktls.kernel.ktls_socket import KernelSocket

__all__ = ["DaemonGone", "DaemonHandle", "Pending", "UpcallTimeout"]

A = TypeVar("A")
R = TypeVar("R")

# RPC_MAXDATASIZE of FreeBSD's krpc, for both directions of an upcall.
UPCALL_LIMIT = 9000


class DaemonGone(WorldError):
    """The daemon is not there, or went away before it answered."""

    default_errno = errno.ESRCH


class UpcallTimeout(WorldError):
    """The daemon did not answer within the upcall's deadline."""

    default_errno = errno.ETIMEDOUT


@dataclass(eq=False)
class Waiting:
    """An upcall that waits for its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    reply: AcceptedReply | DeniedReply | None = None


@dataclass(eq=False)
class Pending:
    """A socket that a CONNECT offers to a daemon, until `deadline` (trio's time)."""

    sock: KernelSocket
    deadline: float
    upcall: Upcall = field(default_factory=lambda: Upcall(CONNECT_TRANSITIONS))

    def take(self) -> KernelSocket:
        """The daemon's CLSOCKET or SRVSOCKET. Raises `CallerError` EPERM when it is too late."""
        if self.upcall.on(UpcallEvent.TAKE) is not UpcallAction.HAND_OVER or self.sock.closed:
            raise CallerError(f"the socket of {self.sock.name} is not offered", errno.EPERM)
        return self.sock


@dataclass(eq=False)
class DaemonHandle:
    """A registered daemon process: where to call it, and the socket it may take now."""

    name: str
    path: str
    pid: int
    trace: Trace
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    slot: trio.Lock = field(default_factory=trio.Lock)
    pending: Pending | None = None
    _calls: CallTable[Waiting] = field(default_factory=lambda: CallTable())
    _stream: trio.SocketStream | None = None
    _sending: trio.Lock = field(default_factory=trio.Lock)
    # CONNECTs that are over, whose socket the daemon did not take and may still want to.
    _owed: set[int] = field(default_factory=set)
    _settled: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def published(self, sock: KernelSocket, seconds: float) -> AsyncIterator[Pending]:
        """Inside the block, the daemon may take `sock` by its system call. One at a time.

        The daemon can ask how much of `seconds` is left.
        """
        async with self.slot:
            await self._all_settled(seconds)
            self.pending = Pending(sock, trio.current_time() + seconds)
            sock.deadline = self.pending.deadline
            self.pending.upcall.on(UpcallEvent.START)
            try:
                yield self.pending
            finally:
                self.pending = None

    async def _all_settled(self, seconds: float) -> None:
        """Wait until the daemon has answered what it owes. Raises `UpcallTimeout`."""
        with trio.move_on_after(seconds):
            while self._owed:
                self._settled = trio.Event()
                await self._settled.wait()
            return
        raise UpcallTimeout(
            f"{self.name} (process {self.pid}) is still busy with an upcall whose time is over"
        )

    async def call(
        self,
        procedure: Procedure[A, R],
        argument: A,
        seconds: float,
        connection: str | None = None,
    ) -> R:
        """Make one upcall; returns its result.

        Raises `DaemonGone`, `UpcallTimeout`, or `PeerError` when the daemon's answer is a rejection
        or makes no sense.
        """
        began = trio.current_time()
        self.trace.emit("upcall", connection, procedure=procedure.name, daemon=self.name)
        outcome = "no answer"
        try:
            result = await self._call(procedure, argument, seconds)
            outcome = describe(result)
        except UmktlsError as error:
            outcome = str(error)
            raise
        finally:
            self.trace.emit(
                "upcall-answered",
                connection,
                procedure=procedure.name,
                result=outcome,
                seconds=trio.current_time() - began,
            )
        return result

    async def _call(self, procedure: Procedure[A, R], argument: A, seconds: float) -> R:
        waiting = Waiting()
        xid = self._calls.new_xid()
        try:
            with trio.move_on_after(seconds):
                await self._send(xid, waiting, procedure, argument)
                await waiting.done.wait()
        finally:
            self._calls.remove(xid)
            if procedure.name == "CONNECT" and not waiting.done.is_set() and self._offered():
                self._owed.add(xid)
        if not waiting.done.is_set():
            raise UpcallTimeout(
                f"{self.name} (process {self.pid}) did not answer {procedure.name} "
                f"within {seconds:g} s"
            )
        if waiting.reply is None:
            raise DaemonGone(
                f"{self.name} (process {self.pid}) went away before it answered {procedure.name}"
            )
        return procedure.decode_result_untrusted(raise_for_reply(waiting.reply))

    async def _send(
        self, xid: int, waiting: Waiting, procedure: Procedure[A, R], argument: A
    ) -> None:
        header = encode_call(
            xid, procedure.program, procedure.version, procedure.number, NULL_AUTH, NULL_AUTH
        )
        message = b"".join([header, *procedure.encode_args(argument)])
        async with self._sending:
            stream = self._stream or await self._connect()
            self._calls.add(xid, waiting)
            try:
                await stream.send_all(mark(len(message)) + message)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._lose(stream)
                raise DaemonGone(f"{self.name} (process {self.pid}) hung up") from error

    async def _connect(self) -> trio.SocketStream:
        try:
            stream = await trio.open_unix_socket(self.path)
        except OSError as error:
            raise DaemonGone(
                f"{self.name} (process {self.pid}) is not listening on {self.path} "
                f"({error.strerror}); start it again"
            ) from error
        pid, uid, _ = peer_credentials(stream.socket)
        if not allowed(uid):
            await stream.aclose()
            raise PeerError(f"process {pid} of user {uid} listens on {self.path}", errno.EPERM)
        self._stream = stream

        async def read() -> None:
            await self._read(stream)

        self.spawn(read)
        return stream

    async def _read(self, stream: trio.SocketStream) -> None:
        """Reads answers until the daemon hangs up; then everybody who waits is told."""
        reader = RecordReader(UPCALL_LIMIT)
        try:
            async for data in stream:
                reader.feed(data)
                for message in reader.messages():
                    self._answer(message)
        except PeerError as error:
            self.trace.emit("garbage", None, where="the upcall socket", reason=str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._lose(stream)

    def _answer(self, message: memoryview) -> None:
        matched = self._calls.match_untrusted(message)
        if matched is None:
            self._owed.discard(parse_untrusted(message).xid)
            self._settled.set()
            self.trace.emit("warning", None, reason=f"{self.name} answered an upcall too late")
            return
        waiting, waiting.reply = matched[0], matched[1]
        waiting.done.set()

    def _offered(self) -> bool:
        """Whether a socket is offered that the daemon has not taken."""
        return self.pending is not None and self.pending.upcall.state is UpcallState.OFFERED

    def _lose(self, stream: trio.SocketStream) -> None:
        if self._stream is stream:
            self._stream = None
        stream.socket.close()
        self._owed.clear()
        self._settled.set()
        for waiting in self._calls.drain():
            waiting.done.set()

    def close(self) -> None:
        """Stop calling this daemon; upcalls under way end with `DaemonGone`."""
        if self._stream is not None:
            self._lose(self._stream)


def describe(result: object) -> str:
    """An upcall's answer for people, by the names of its numbers."""
    flags = getattr(result, "flags", None)
    if flags is not None:
        names = [flag.name or "" for flag in rpctls.RpctlsFlags(flags)]
        return " ".join(name.removeprefix("RPCTLS_FLAGS_") for name in names) or "no session"
    reterr = getattr(result, "reterr", None)
    known = [error for error in rpctls.RpctlsErr if error == reterr]
    return known[0].name.removeprefix("RPCTLSERR_") if known else str(result)
