"""One upcall: what is asked of a daemon, and what became of it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import field
from typing import Any, Generic, Protocol, TypeVar

import trio

from umktls.abi import rpctls
from umktls.dataclass import dataclass
from umktls.errors import CallerError, WorldError
from umktls.kernel.ground.alarms import Completion
from umktls.kernel.owners.hangup import hangs_up
from umktls.rpc.message import NULL_AUTH, AcceptedReply, DeniedReply, encode_call
from umktls.rpc.program import Procedure
from umktls.upcall.states import (
    CONNECT_TRANSITIONS,
    SESSION_TRANSITIONS,
    Upcall,
    UpcallAction,
    UpcallEvent,
)

__all__ = [
    "EVENT_OF",
    "ConnectionGone",
    "DaemonGone",
    "Offered",
    "Request",
    "Takeable",
    "UpcallTimeout",
    "connect_life",
    "describe",
    "encoded",
]

R = TypeVar("R")

# A daemon that lives takes a socket within moments, and can tell better than the kernel how the
# peer left (it may have said why): so long a peer that has hung up is the daemon's business.
UNTAKEN_SECONDS = 1.0


class DaemonGone(WorldError):
    """The daemon is not there, or went away before it answered."""

    default_errno = errno.ESRCH


class UpcallTimeout(WorldError):
    """The daemon did not answer within the upcall's deadline."""

    default_errno = errno.ETIMEDOUT


class ConnectionGone(WorldError):
    """The connection that the upcall was about went first."""

    default_errno = errno.ECONNRESET


# What became of an upcall that raised, for the table of its life; anything else that is raised is
# an answer that says no, or makes no sense.
EVENT_OF: dict[type[BaseException], UpcallEvent] = {
    UpcallTimeout: UpcallEvent.DEADLINE,
    DaemonGone: UpcallEvent.DAEMON_GONE,
    ConnectionGone: UpcallEvent.CANCEL,
    trio.Cancelled: UpcallEvent.CANCEL,
}


RETERR_NAMES: dict[int | None, str] = {
    int(error): error.name.removeprefix("RPCTLSERR_") for error in rpctls.RpctlsErr
}
FLAG_NAMES = {
    int(flag): str(flag.name).removeprefix("RPCTLS_FLAGS_") for flag in rpctls.RpctlsFlags
}


def connect_life() -> Upcall:
    """The life of a new CONNECT."""
    return Upcall(CONNECT_TRANSITIONS)


def _answered_ok(result: Any) -> bool:
    return bool(result.reterr == rpctls.RPCTLSERR_OK)


class Offered(Protocol):
    """The socket that an upcall is about, as far as the upcall knows it."""

    name: str
    peer: str
    cookie: int
    sock: socket.socket
    deadline: float
    closed: bool
    security: str
    peername: str


class Takeable:
    """An upcall about `sock` with which a socket may be offered: what all kinds of it share.

    `upcall` is its life; `taken`, `done`, `watch` as in `Request`. `unread`, where the upcall
    brings the socket: whether the daemon has not read it yet.
    """

    sock: Offered | None
    upcall: Upcall
    taken: bool
    done: Completion
    watch: trio.CancelScope | None
    unread: Callable[[], bool] | None = None

    @property
    def offers(self) -> bool:
        """Whether a socket is offered."""
        raise NotImplementedError

    def finish(self) -> None:
        """It is over, with an answer or without."""
        self.done.set()
        if self.watch is not None:
            self.watch.cancel()

    async def ended(self, until: float) -> None:
        """Wait for that, up to this time of trio's clock. Raises `ConnectionGone` when it is no
        use: see the head of upcalls.py."""
        shortly = min(until, trio.current_time() + UNTAKEN_SECONDS) if self.offers else until
        # Most are answered in this time, which costs no scope.
        if not await self.done.wait(shortly) and shortly < until:
            with trio.move_on_at(until):
                self.watch = trio.CancelScope()
                with self.watch:
                    await self._abandoned()
                await self.done.wait()

    async def _abandoned(self) -> None:
        """Wait until the peer hangs up. Raises `ConnectionGone` if no daemon has the socket by
        then."""
        sock = self.sock
        if sock is None or sock.closed or self._with_the_daemon():
            return
        await hangs_up(sock.sock)
        if not self._with_the_daemon():
            raise ConnectionGone(f"{sock.peer} hung up before a daemon took the connection on")

    def _with_the_daemon(self) -> bool:
        return self.taken and not (self.unread is not None and self.unread())

    def take(self) -> str:
        """The daemon's system call: from here on it owns the close. Returns the socket's name.

        Raises `CallerError` EPERM when it is too late, or the socket was taken already.
        """
        assert self.sock is not None, "only a CONNECT is taken from"
        if self.upcall.on(UpcallEvent.TAKE) is not UpcallAction.HAND_OVER or self.sock.closed:
            raise CallerError(f"the socket of {self.sock.name} is not offered", errno.EPERM)
        self.taken = True
        return self.sock.name


@dataclass(eq=False)
class Request(Takeable, Generic[R]):
    """One upcall about `sock`: what is asked, and where it is in its life.

    A CONNECT offers `sock` to the daemon. `worked` judges the result. `watch` is around what is
    waited for besides the answer, if anything is. `record` is the control record that it is about,
    its type in front; b"" for none, or a long one.
    """

    procedure: Procedure[Any, R]
    argument: Any
    seconds: float
    sock: Offered | None = None
    worked: Callable[[R], bool] = _answered_ok
    upcall: Upcall = field(default_factory=lambda: Upcall(SESSION_TRANSITIONS))
    taken: bool = False
    done: Completion = field(default_factory=Completion)
    reply: AcceptedReply | DeniedReply | None = None
    watch: trio.CancelScope | None = None
    record: bytes = field(default=b"", repr=False)

    @property
    def offers(self) -> bool:
        """Whether it is a CONNECT."""
        return self.procedure.number == rpctls.RPCTLSCD_CONNECT

    @property
    def action(self) -> UpcallAction:
        """What the table said of the upcall's end."""
        return self.upcall.action

    @property
    def connection(self) -> str | None:
        return self.sock.name if self.sock is not None else None

    def end(self, reply: AcceptedReply | DeniedReply | None) -> None:
        """The daemon has answered; None: it never will."""
        self.reply = reply
        self.finish()


def encoded(request: Request[Any], xid: int) -> bytes:
    """The call as it goes to the daemon. Raises `CallerError` if it cannot hold the argument."""
    procedure = request.procedure
    header = encode_call(
        xid, procedure.program, procedure.version, procedure.number, NULL_AUTH, NULL_AUTH
    )
    return b"".join([header, *procedure.encode_args(request.argument)])


def describe(result: object) -> str:
    """An upcall's answer for people, by the names of its numbers."""
    flags = getattr(result, "flags", None)
    if flags is not None:
        names = [name for flag, name in FLAG_NAMES.items() if flags & flag]
        return " ".join(names) or "no session"
    return RETERR_NAMES.get(getattr(result, "reterr", None)) or str(result)
