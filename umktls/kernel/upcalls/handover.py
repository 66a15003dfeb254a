"""What becomes of the sessions of a daemon that has gone.

Theory of operation
===================

A daemon goes when it says so, when it dies (its system-call connection ends), or when another one
takes its place. The keys of its sessions are in the kernel, so RPC does not notice; but nobody is
left to answer for what is not RPC. There are two ways on:

    the daemon has deposited the session      it is an orphan: RPC goes on, and the next daemon of
    (UMKTLS_SESSION)                          that name adopts it (umktls_adopt, UMKTLS_ADOPTED)
    it has not, or could not, because a       it is cut off: close_notify if the kernel can seal
    direction goes through the daemon         one, and the connection ends; the client makes a new
                                              one, and what was under way is sent again

                     daemon goes                umktls_adopt           UMKTLS_ADOPTED
    with a daemon ---------------> orphan ------------------> asked for ------------> with a daemon
                                     ^                            |
                                     '------ that one goes -------'

A daemon asks for orphans when it has registered, and those that are there already when the kernel
calls their NULL procedure: which is how it tells them that there are some.

An upcall about an orphan waits until it is adopted, as long as an upcall may take; HANDLERECORD
then comes to its end as for a daemon that does not answer. Only for DISCONNECT nobody is needed:
the kernel says close_notify itself.

Real kernels do not have this. FreeBSD's sessions live on without a daemon until something comes
that needs one.

The deposit holds secrets. It is in memory only, nothing shows it, and only who has a descriptor of
the socket gets it back: the daemon that took it, and then a daemon of the same name and user.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

import trio

from umktls.abi import rpctls
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.orphan import Orphan
from umktls.kernel.owners.request import Request
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.calls import send_alert
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.daemons import Daemons
from umktls.rpc import xdr
from umktls.rpc.xdr import XdrError
from umktls.upcall.rpctls import rpctls_session_arg
from umktls.upcall.versions import VERSIONS

__all__ = ["Handover", "say_goodbye"]

DAEMONS = {rpctls.RPCTLSCD: "rpctlscd", rpctls.RPCTLSSD: "rpctlssd"}
CLOSE_NOTIFY = b"\x01\x00"  # warning, close_notify
# A daemon that has hung up is about to go, most likely; so long we wait to see.
GOING_SECONDS = 1.0
# A connection that is cut off may take so long to send what is queued.
CUT_SECONDS = 1.0

_session_name = xdr.codec(rpctls_session_arg)


class Successor(Protocol):
    """A daemon's process, which gives sessions up and asks for those of others."""

    pid: int
    uid: int

    def forget(self, sock: KernelSocket) -> None: ...


class Processes(Protocol):
    """The processes of all daemons."""

    @property
    def processes(self) -> Sequence[Successor]: ...


class SessionHost(Protocol):
    """What the handover needs of the host."""

    trace: Trace
    sockets: dict[str, KernelSocket]
    daemons: dict[str, Daemons]

    @property
    def syscalls(self) -> Processes: ...

    @property
    def upcall_seconds(self) -> float: ...

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


class Handover:
    """The orphans of one host."""

    def __init__(self, host: SessionHost) -> None:
        self._host = host
        self.totals = {"orphaned": 0, "adopted": 0, "cut_off": 0}

    # ---- a daemon goes

    def left(self, handle: DaemonHandle) -> None:
        """The daemon has gone: each of its sessions goes one of the two ways."""
        for sock in list(self._host.sockets.values()):
            orphan = sock.owner.orphan
            if orphan is not None and orphan.adopter is handle:
                orphan.adopter = None
                self._take_away(sock)
            elif sock.owner.handle is handle:
                self._leave(sock, handle)
        self._tell_others(handle.name)

    def left_one(self, sock: KernelSocket) -> None:
        """The daemon of this session has gone before the kernel knew that there is one."""
        handle = sock.owner.handle
        if handle is not None:
            self._leave(sock, handle)
            self._tell_others(handle.name)

    def _leave(self, sock: KernelSocket, handle: DaemonHandle) -> None:
        """One session's daemon has gone. (A handshake under way ends by its upcall.)"""
        if not handle.attends:  # the session does not need it any more
            sock.owner.handle = None
            return
        if sock.session is None or sock.phase != "established":
            return
        owner = sock.owner
        owner.handle = None
        self._take_away(sock)
        if owner.deposit is None or sock.failure is not None:
            self.cut_off(sock, f"its daemon (process {handle.pid}) has gone and left nothing")
            return
        owner.orphan = Orphan(handle.name, owner.deposit.uid)
        self.totals["orphaned"] += 1
        self._host.trace.emit("orphaned", sock.name, daemon=handle.name, pid=handle.pid)

    def _tell_others(self, daemon: str) -> None:
        """Have the daemons of that name that are left look for orphans, if there are any."""
        if any(orphan.daemon == daemon for _, orphan in self._orphans()):
            self._host.spawn(self._call_others, daemon)

    async def _call_others(self, daemon: str) -> None:
        async with trio.open_nursery() as nursery:
            for handle in self._host.daemons[daemon].handles:
                if handle.attends:
                    nursery.start_soon(self._call, handle)

    async def _call(self, handle: DaemonHandle) -> None:
        """The NULL procedure. Nobody has to know what it is for, or to answer."""
        null, seconds = handle.procedure("NULL"), self._host.upcall_seconds
        with contextlib.suppress(UmktlsError):
            await handle.call(Request(null, None, seconds, worked=lambda result: True))

    def _take_away(self, sock: KernelSocket) -> None:
        """Take the socket from the process that had it, which may live on and be no daemon."""
        for process in self._host.syscalls.processes:
            process.forget(sock)

    def cut_off(self, sock: KernelSocket, reason: str) -> None:
        """End the connection so that both sides notice at once."""
        sock.rpc.cut_off = reason
        self.end(sock)
        self.totals["cut_off"] += 1
        self._host.trace.emit("cut-off", sock.name, reason=reason)
        self._host.spawn(cut, sock)

    def end(self, sock: KernelSocket) -> None:
        """The connection ends: who waits for its adoption need not wait any more."""
        owner = sock.owner
        if owner.orphan is not None:
            owner.orphan.over.set()
            owner.orphan = None

    # ---- another one comes

    def adopt(self, process: Successor, program: int) -> KernelSocket:
        """umktls_adopt: an orphan for a registered daemon.

        Raises `CallerError`: EINVAL for another program, EPERM where the process is no daemon of
        it, EAGAIN where there is no orphan (any more).
        """
        name = DAEMONS.get(program)
        if name is None:
            raise CallerError(f"program {program:#x} has no daemons")
        mine = (one for one in self._host.daemons[name].of(process.pid) if one.attends)
        handle = next(mine, None)
        if handle is None:
            raise CallerError(f"process {process.pid} is not registered as {name}", errno.EPERM)
        for sock, orphan in self._orphans():
            if (orphan.daemon, orphan.uid) == (name, process.uid):
                orphan.adopter = handle
                return sock
        raise CallerError(f"no session waits for a {name}", errno.EAGAIN)

    def _orphans(self) -> Iterator[tuple[KernelSocket, Orphan]]:
        """The sessions for which no daemon has asked yet."""
        for sock in self._host.sockets.values():
            orphan = sock.owner.orphan
            if orphan is not None and orphan.adopter is None and not sock.closed:
                yield sock, orphan

    def adopted(self, process: Successor, sock: KernelSocket, name: bytes) -> None:
        """UMKTLS_ADOPTED: upcalls about the session go to this daemon from now on.

        `name` is the triple that it gives the session where it speaks version 1, and not looked at
        otherwise. Raises `CallerError`: EPERM where it has not asked for it, EINVAL for no name.
        """
        handle = self._adopter(process, sock)
        if handle is None:
            raise CallerError(f"{sock.name} is not to be adopted", errno.EPERM)
        triple = rpctls_session_arg(0, 0, 0)
        if handle.version == 1:
            try:
                triple = _session_name.decode_untrusted(name)
            except XdrError as error:
                raise CallerError(f"UMKTLS_ADOPTED: {error}") from error
        sock.session = VERSIONS[handle.version].session(triple, sock.cookie)
        sock.owner.handle = handle
        self.end(sock)
        self.totals["adopted"] += 1
        self._host.trace.emit("adopted", sock.name, daemon=handle.name, pid=handle.pid)

    def given_up(self, process: Successor, sock: KernelSocket) -> None:
        """close(2) of an orphan by the daemon that has asked for it, which cannot go on with it."""
        if self._adopter(process, sock) is not None:
            self.cut_off(sock, f"process {process.pid} cannot go on with the session")

    def _adopter(self, process: Successor, sock: KernelSocket) -> DaemonHandle | None:
        """The daemon that this process is, where that one has asked for the session."""
        orphan = sock.owner.orphan
        handle = orphan.adopter if orphan is not None else None
        return handle if handle is not None and handle.pid == process.pid else None

    # ---- upcalls

    async def attended(self, sock: KernelSocket, until: float) -> bool:
        """Whether the session has a daemon that is asked about it; waits for one to adopt it
        (`until`, trio's time)."""
        owner = sock.owner
        if owner.orphan is not None:
            with trio.move_on_at(until):
                await owner.orphan.over.wait()
        return owner.handle is not None and owner.handle.attends

    async def has_left(self, handle: DaemonHandle) -> bool:
        """A daemon has hung up: whether it has gone."""
        with trio.move_on_after(GOING_SECONDS):
            await handle.gone.wait()
        return handle.gone.is_set()


async def say_goodbye(sock: KernelSocket) -> None:
    """close_notify from the kernel itself, where it seals what is sent."""
    with contextlib.suppress(UmktlsError):
        await send_alert(sock, CLOSE_NOTIFY)


async def cut(sock: KernelSocket) -> None:
    """Say goodbye, and end both directions."""
    with trio.move_on_after(CUT_SECONDS):
        await say_goodbye(sock)
        await sock.queue.emptied()
    sock.detours.shut()
    with contextlib.suppress(UmktlsError):
        sock.shutdown(2)
