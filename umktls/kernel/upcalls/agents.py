"""Linux's handshake upcall: whoever is a member of the group `tlshd`, and what waits for them.

Theory of operation
===================

The third kind of upcall, beside versions 1 and 2, and no RPC: net/handshake of Linux. The kernel
asks nobody in particular::

    the kernel                              agents
      the connection waits (at most 50) --> READY to every member of the group
                                        <-- ACCEPT: the oldest that waits, for whoever is first
      the socket is the agent's         --> the socket, and what is to be done
                                            handshake, keys by TCP_ULP and SOL_TLS
                                        <-- DONE: a status, and whether the peer has shown itself

The life of a handshake is the table of all upcalls (`umktls.upcall.states`): ACCEPT is its TAKE,
DONE its answer. What is Linux's own:

- With no member nothing waits: ESRCH at once. When too many wait: EAGAIN.
- A connection that ends before ACCEPT is taken out. One that is accepted belongs to the agent: an
  agent that dies costs it the whole deadline, for nobody but the consumer's clock notices (10 s for
  SunRPC's client, 5 s for nfsd).
- DONE about a handshake that has ended already is taken, and means nothing.
- Of the status SunRPC's client keeps EACCES and ETIMEDOUT; all others are EACCES.
- Behind DONE the agent hears nothing more: the kernel deals with alerts, renews no keys, and says
  close_notify itself.
"""

from __future__ import annotations

import errno
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import trio

from umktls.abi import rpctls
from umktls.abi.handshake import HANDSHAKE_GROUP, HANDSHAKE_PENDING_MAX, HANDSHAKE_VERSION
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.handshake import Handshake, Outcome
from umktls.kernel.owners.request import EVENT_OF, DaemonGone, Offered, UpcallTimeout
from umktls.kernel.owners.upcalls import DaemonHandle, Worked
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.rpc.xdr import Struct
from umktls.upcall.handshake import task_of
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.rpctls2 import rpctls_socket_arg, rpctlssd_connect_res2
from umktls.upcall.states import Upcall, UpcallEvent, UpcallState

__all__ = ["Agent", "Handshakes", "Member"]

# What a verified certificate is to the versions' server daemons: XPT_PEER_AUTH.
SHOWN = rpctls.RPCTLS_FLAGS_GOTCERT | rpctls.RPCTLS_FLAGS_VERIFIED
# What the trace calls it.
NAME = "HANDSHAKE"


class Member(Protocol):
    """A netlink socket that hears of READY, if it has room for that."""

    pid: int

    def notify(self) -> None: ...


class Handshakes:
    """The handshakes of one host that wait, oldest first, and who hears of them (struct
    handshake_net). `seconds_asked`: whether the agent is told how long it has."""

    def __init__(self, role: str, trace: Trace, *, seconds_asked: bool = False) -> None:
        self.role = role
        self.members: list[Member] = []
        self.pending_max = HANDSHAKE_PENDING_MAX
        self._trace = trace
        self._seconds_asked = seconds_asked
        self._pending: deque[Handshake] = deque()
        self._accepted = 0
        self._number = 0

    def describe(self) -> dict[str, Any]:
        """For `umktls stat`: the agents, how many handshakes wait for one, and how many one has."""
        return {
            "agents": [member.pid for member in self.members],
            "pending": len(self._pending),
            "accepted": self._accepted,
        }

    async def make(
        self, sock: Offered, task: Mapping[str, Any], seconds: float, life: Upcall, worked: Worked
    ) -> Any:
        """Have some agent shake hands on `sock`; the result is as of CONNECT, and `worked` judges
        it.

        Raises `DaemonGone` where nobody listens, `CallerError` EAGAIN where too many wait,
        `UpcallTimeout`, `ConnectionGone`; `TlsRefused`, `WorldError` for the agent's status.
        """
        number = self._number = self._number + 1
        if self._trace.steps.kinds:
            await self._trace.steps.stop("upcall", sock.name, NAME)
        if self._trace.close:
            life.watcher = partial(self._tell_state, sock.name, number)
        life.on(UpcallEvent.START)
        if self._seconds_asked:
            task = {**task, "TIMEOUT": int(seconds * 1000)}
        handshake = Handshake(sock, task, life)
        began, event, outcome = trio.current_time(), UpcallEvent.ANSWER_FAILED, "no answer"
        self._tell(sock, "upcall", xid=number, daemon=HANDSHAKE_GROUP, pid=0)
        try:
            with self._waiting(handshake, seconds):
                await handshake.ended(began + seconds)
            result = self._result(handshake, seconds)
            event, outcome = UpcallEvent.ANSWER_OK, "ok"
            if not worked(result):
                event, outcome = UpcallEvent.ANSWER_FAILED, "no session"
            return result
        except (UmktlsError, trio.Cancelled) as error:
            event, outcome = EVENT_OF.get(type(error), event), str(error)
            raise
        finally:
            life.on(event)
            took = trio.current_time() - began
            self._tell(sock, "upcall-answered", xid=number, result=outcome, seconds=took)

    def _tell(self, sock: Offered, event: str, **fields: Any) -> None:
        self._trace.emit(event, sock.name, procedure=NAME, **fields)

    def _tell_state(self, connection: str, number: int, state: UpcallState) -> None:
        if self._trace.close:
            self._trace.step(
                "upcall-state", connection, procedure=NAME, xid=number, state=state.value
            )

    @contextmanager
    def _waiting(self, handshake: Handshake, seconds: float) -> Iterator[None]:
        """Inside the block agents can come for it (handshake_req_submit)."""
        if len(self._pending) >= self.pending_max:
            raise CallerError(
                f"{len(self._pending)} connections wait for a handshake agent: no more may",
                errno.EAGAIN,
            )
        if not self.members:
            raise DaemonGone("no handshake agent is a member of the netlink group tlshd")
        handshake.sock.deadline = trio.current_time() + seconds
        self._pending.append(handshake)
        for member in self.members:
            member.notify()
        try:
            yield
        finally:
            if handshake.taken:
                self._accepted -= 1
            elif handshake in self._pending:
                self._pending.remove(handshake)

    def accept(self, pid: int) -> Handshake:
        """ACCEPT: the oldest that waits. Raises `CallerError` EAGAIN where none does."""
        while self._pending:
            handshake = self._pending.popleft()
            if handshake.done.is_set() or handshake.sock.closed or handshake.upcall.ended:
                continue
            handshake.take()
            handshake.pid = pid
            self._accepted += 1
            return handshake
        raise CallerError("no connection waits for a handshake", errno.EAGAIN)

    def done(self, handshake: Handshake, outcome: Outcome) -> None:
        """DONE; what comes after the end is taken, and means nothing."""
        if handshake.upcall.ended:
            handshake.upcall.on(UpcallEvent.ANSWER_OK)
            self._tell(handshake.sock, "late-answer", daemon=HANDSHAKE_GROUP, pid=handshake.pid)
        elif not handshake.done.is_set():
            handshake.end(outcome)

    def _result(self, handshake: Handshake, seconds: float) -> Struct:
        """The outcome as the result of a CONNECT. Raises `UpcallTimeout`, `TlsRefused`, and
        `WorldError` ETIMEDOUT."""
        outcome = handshake.outcome
        if outcome is None:
            who = f"the handshake agent (process {handshake.pid}) did not say DONE"
            if not handshake.taken:
                who = "no handshake agent accepted the connection"
            raise UpcallTimeout(f"{who} within {seconds:g} s")
        if outcome.status:
            name = errno.errorcode.get(outcome.status, str(outcome.status))
            said = f"the handshake agent (process {handshake.pid}) says {name}: look into its log"
            if outcome.status == errno.ETIMEDOUT:
                raise WorldError(said, errno.ETIMEDOUT)
            raise TlsRefused(said)
        if self.role == "client":
            return rpctls_session_res(rpctls.RPCTLSERR_OK)
        flags = rpctls.RPCTLS_FLAGS_HANDSHAKE | (SHOWN if outcome.peer else 0)
        return rpctlssd_connect_res2(flags, 0, ())


class Agent(DaemonHandle):
    """A membership in the group, as one of the daemons of its host. Which member comes for a
    connection is not for the kernel to choose: so all of them have room for all."""

    version = HANDSHAKE_VERSION
    attends = False

    def __init__(self, member: Member, handshakes: Handshakes, trace: Trace) -> None:
        super().__init__(HANDSHAKE_GROUP, member.pid, trace, limit=sys.maxsize)
        self.path = f"netlink group {HANDSHAKE_GROUP}"
        self.member = member
        self._handshakes = handshakes
        handshakes.members.append(member)

    async def connect(
        self, sock: Offered, certname: bytes, seconds: float, life: Upcall, worked: Worked
    ) -> Any:
        """See `Handshakes.make`; the agent has its own certificates."""
        task = task_of(self._handshakes.role, sock.security, sock.peername, 0)
        return await self._handshakes.make(sock, task, seconds, life, worked)

    def session(self, result: Any, cookie: int) -> Struct:
        """Nobody ever calls it by that: the session is there, that is all."""
        return rpctls_socket_arg(cookie)

    def close(self) -> None:
        """It is no member any more. What it has accepted, and what waits, goes on."""
        if self.member in self._handshakes.members:
            self._handshakes.members.remove(self.member)
