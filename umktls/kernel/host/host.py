"""An emulated host: one process, its run directory, its daemons, its sockets.

`booted` brings a host up in the order in which a kernel would: the run directory, the doors
(system calls, control), then the daemons. Inside its block the host runs; leaving it takes
everything down again, whatever the reason.
"""

from __future__ import annotations

import errno
import itertools
import os
import shlex
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from umktls.abi import rpctls
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.abi.rpctls import DEFAULT_CONNECTS
from umktls.errors import CallerError, WorldError
from umktls.kernel.ground.budget import REQUEST_BYTES, Budget, afterwards
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.groups import single_error
from umktls.kernel.ground.refusals import outlived
from umktls.kernel.host import knobs
from umktls.kernel.host.accepting import Serve, accept_loop, listen_unix
from umktls.kernel.host.children import Child, DaemonCommand
from umktls.kernel.host.control import ControlServer
from umktls.kernel.host.process import Process
from umktls.kernel.host.rundir import RunDirectory
from umktls.kernel.host.syscalls import SyscallServer
from umktls.kernel.host.watching import Watching
from umktls.kernel.host.workers import Workers
from umktls.kernel.owners.upcalls import DaemonGone
from umktls.kernel.sockets.card import retransmitted_pct
from umktls.kernel.sockets.detours import Means
from umktls.kernel.sockets.engines import bound, chosen_engines
from umktls.kernel.sockets.facts import Failure
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.memory import give_back, keep_large_buffers
from umktls.kernel.sockets.stat import TRAFFIC, stat, traffic
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.handover import Handover
from umktls.kernel.upcalls.hello import Clients
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.kernel.upcalls.renewal import Renewals
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Engine, Route, get_engine, route_of
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice
from umktls.ktls.session import Direction
from umktls.ktls.session.counters import Counters, Sysctls

__all__ = ["CERTS_PLACE", "Host", "HostConfig", "booted"]

# In advice, where nobody has said which directory.
CERTS_PLACE = Path("CERTS")
STAT_SCHEMA = 1
# Closed connections that `umktls stat` still shows.
REMEMBERED = 64
# A socket's cookie looks like its address in a FreeBSD kernel, and is never used again.
FIRST_COOKIE, COOKIE_STEP = 0xFFFFF80000001000, 0x400


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How a host comes up.

    `role` is "client" or "server". `daemons` are started and kept alive by the host; with none, a
    daemon has to register by itself. `bounce` allows to bounce a direction that its engine does not
    take. `upcall_seconds` is the deadline of each upcall, None for the personality's. `connects` is
    how many CONNECTs a daemon of version 2 is given at once. `daemon_seconds` is how long is waited
    for a daemon to register. `rekey` is how keys are renewed (umktls.kernel.upcalls.renewal).
    `by_hand` has the arguments, by daemon, with which to start one by hand. Seconds are seconds.
    `name` is the host's, if it is not its run directory's. Connections have the number `first` and
    every `step`th behind it. `request_bytes` is the limit of umktls.kernel.ground.budget.
    """

    role: str
    rundir: Path | None = None
    personality: Personality = DEFAULT_PERSONALITY
    daemons: tuple[DaemonCommand, ...] = ()
    engine: EngineChoice = DEFAULT_CHOICE
    bounce: bool = False
    upcall_seconds: float | None = None
    connects: int = DEFAULT_CONNECTS
    daemon_seconds: float = 15.0
    rekey: str = "auto"
    by_hand: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    first: int = 1
    step: int = 1
    request_bytes: int = REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class Remembered:
    """What there is to say of a connection that was closed; the socket itself holds buffers."""

    stat: dict[str, Any]
    traffic: dict[str, int]
    failure: Failure | None


class Host:
    """A running host. Made by `booted`."""

    def __init__(self, config: HostConfig, nursery: trio.Nursery) -> None:
        self.config = config
        self.personality = config.personality
        self.rundir = RunDirectory(config.role, config.rundir)
        self.name = config.name or self.rundir.path.name
        self.trace = Trace(self.name, config.role)
        self.nursery = nursery
        self.means = Means(
            chosen_engines(config.engine),
            config.bounce,
            self.spawn,
            trio.CapacityLimiter(os.cpu_count() or 1),
            self._retransmitted_pct,
        )
        self.sysctls = Sysctls()
        self.counters = Counters()
        self.rexmit_pct: float | None = None  # what to believe instead of TCP
        self.started = time.time()
        self.sockets: dict[str, KernelSocket] = {}
        self.closed: dict[str, Remembered] = {}
        self.requests = Budget(config.request_bytes)
        self.workers = Workers()
        self.clients = Clients()
        self.handover = Handover(self)
        self.renewals = Renewals(self, config.rekey)
        self.daemons = {
            name: Daemons(
                name,
                self.trace,
                self._advice(name),
                self.handover.left,
                patient=not self.personality.probe_needs_daemon,
            )
            for name in ("rpctlscd", "rpctlssd")
        }
        self.handles = {name: daemons.handles for name, daemons in self.daemons.items()}
        # What else `stat` shows, by its name there.
        self.views: dict[str, Callable[[], Any]] = {}
        self.totals = dict.fromkeys(
            ("connections", "handshakes", "handshakes_failed", "resumed"), 0
        )
        self.syscalls = SyscallServer(self)
        self.watching = Watching(self)
        self.children: list[Child] = []
        self._doors: list[trio.CancelScope] = []
        self._numbers = itertools.count(config.first, config.step)
        self._cookies = itertools.count(FIRST_COOKIE, COOKIE_STEP)
        self._forgotten = dict.fromkeys(TRAFFIC, 0)

    @property
    def upcall_seconds(self) -> float:
        """The deadline of an upcall."""
        chosen = self.config.upcall_seconds
        return self.personality.upcall_seconds(self.config.role) if chosen is None else chosen

    @property
    def offers_tls(self) -> bool:
        """Whether the AUTH_TLS probe is answered with STARTTLS, as far as daemons are concerned."""
        return bool(self.handles["rpctlssd"]) or not self.personality.probe_needs_daemon

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task that lives as long as the host, and whose failure the host outlives."""
        self.nursery.start_soon(outlived, self.trace, function, *args)

    # ---- sockets

    def adopt(
        self,
        sock: socket.socket,
        security: str = "none",
        peername: str = "",
        engine: EngineChoice | None = None,
    ) -> KernelSocket:
        """Make a connected TCP socket one of this kernel's. `engine`: another than the host's.

        Raises as `chosen_engines` for that one.
        """
        name = f"{self.config.role[0]}{next(self._numbers)}"
        means = self.means
        if engine is not None:
            means = replace(means, engines=chosen_engines(engine))
        state = self._new_state(sock, means.engines)
        adopted = KernelSocket(sock, state, name, self.trace, means, security, peername)
        adopted.cookie = next(self._cookies)
        self._renew_at_limit(adopted)
        self.sockets[name] = adopted
        if self.trace.close:
            self.watching.begin(adopted)
        self.totals["connections"] += 1
        adopted.on_close = self._remember
        return adopted

    def _new_state(self, sock: socket.socket, chosen: Mapping[Direction, Engine]) -> KtlsSocket:
        engines = {way: bound(engine, sock) for way, engine in chosen.items()}
        # A card can be left for software, and come back to.
        others = [get_engine("software")] if route_of(engines["tx"]) is Route.CARD else []
        return KtlsSocket(
            engines["tx"], engines["rx"], self.personality, self.sysctls, self.counters, others
        )

    def _renew_at_limit(self, sock: KernelSocket) -> None:
        """Renew the keys before they are used up (RFC 8446 section 5.5)."""
        token = trio.lowlevel.current_trio_token()

        def renew() -> None:  # in whatever thread a record was sealed
            token.run_sync_soon(self.spawn, self.renewals.at_limit, sock)

        sock.state.tx.on_wants_rekey = sock.state.rx.on_wants_rekey = renew

    def _retransmitted_pct(self, sock: socket.socket) -> float:
        return retransmitted_pct(sock) if self.rexmit_pct is None else self.rexmit_pct

    def _remember(self, closed: KernelSocket) -> None:
        """One more is closed: keep what there is to say of it, for the last ones, and not it."""
        del self.sockets[closed.name]
        self.renewals.ended(closed)
        self.closed[closed.name] = Remembered(stat(closed), traffic(closed), closed.failure)
        if len(self.closed) > REMEMBERED:
            for key, value in self.closed.pop(next(iter(self.closed))).traffic.items():
                self._forgotten[key] += value

    # ---- daemons

    def _advice(self, name: str) -> str:
        rundir = self.rundir.path
        return f"(run directory {rundir}); start one: {self.by_hand(name)}"

    def by_hand(self, name: str, arguments: tuple[str, ...] | None = None) -> str:
        """What to type to start a daemon for this host, with these arguments or the host's own."""
        if arguments is None:
            arguments = self.config.by_hand.get(name, ())
        return shlex.join((name, "--rundir", str(self.rundir.path), *arguments))

    def register_daemon(self, process: Process, name: str, path: bytes) -> None:
        """CLSETPATH, SRVSETPATH: from now on upcalls of this direction go to `path`."""
        text = os.fsdecode(path).rstrip("\0")
        if not text or len(path) >= 108:
            raise CallerError(f"{name}: {text!r} is no address of an upcall socket")
        self.daemons[name].add(RegisteredDaemon(name, text, process.pid, self.trace, self.spawn))

    def process_gone(self, process: Process) -> None:
        """A daemon's system-call connection ended: it is no daemon any more.

        Only when it was the process's last connection.
        """
        if any(other.pid == process.pid for other in self.syscalls.processes):
            return
        for daemons in self.daemons.values():
            daemons.ended(process.pid)

    async def daemon_ready(self, name: str) -> None:
        """Wait for a daemon to register.

        Raises `WorldError` when one that the host started ended before it did, or none came in
        time.
        """
        with trio.move_on_after(self.config.daemon_seconds):
            while not self.handles[name]:
                came = self.daemons[name].came
                await first_of([came, *(child.failed for child in self.children)])
                failure = next((c.first_failure for c in self.children if c.first_failure), None)
                if failure is not None:
                    raise failure
            return
        raise DaemonGone(
            f"no {name} registered within {self.config.daemon_seconds:g} s; try again with "
            f"--rundir {shlex.quote(str(self.rundir.path))} and start one meanwhile: "
            f"{self.by_hand(name)}"
        )

    # ---- the control socket

    def describe(self) -> dict[str, Any]:
        return {
            "role": self.config.role,
            "pid": os.getpid(),
            "name": self.name,
            "rundir": str(self.rundir.path),
            "personality": self.personality.name,
            "rpctls_versions": list(self.personality.rpctls_versions),
            "started": self.started,
        }

    def stat(self) -> dict[str, Any]:
        """The state of the host, as `umktls stat --json` prints it."""
        totals = dict(self._forgotten)
        counted = [traffic(sock) for sock in self.sockets.values()]
        for each in (*counted, *(closed.traffic for closed in self.closed.values())):
            for key, value in each.items():
                totals[key] += value
        shown = [closed.stat for closed in self.closed.values()]
        shown += [stat(sock) for sock in self.sockets.values()]
        return {
            "schema": STAT_SCHEMA,
            "host": self.describe(),
            "mount": self.config.facts.get("mount"),
            "exports": self.config.facts.get("exports", []),
            "daemons": [
                {
                    "name": handle.name,
                    "pid": handle.pid,
                    "path": handle.path,
                    "version": handle.version,
                }
                for handles in self.handles.values()
                for handle in handles
            ],
            **{name: view() for name, view in self.views.items()},
            "connections": sorted(shown, key=lambda each: int(each["id"][1:])),
            "totals": {**self.totals, **self.handover.totals, **totals},
        }

    async def rekey(self, connection: str | None) -> int:
        """Have the daemons renew the keys of one connection, or of all, by a KeyUpdate; how
        many did.

        Raises `CallerError` if there is no such connection, `UnsupportedError` where this kernel
        takes no second key.
        """
        return sum([await tls.rekey(self, sock) for sock in self.established(connection)])

    async def renew(self, connection: str | None, how: str | None = None) -> dict[str, int]:
        """Renew the keys of one connection, or of all; how many were "rekeyed" by a KeyUpdate, and
        how many "reconnected". `how`: one of `renewal.POLICIES`, None for the host's. Of the first
        there may be some that have "ended" by it, or to which the peer has not yet answered.

        Raises `CallerError` if there is no such connection or way, `UnsupportedError` where this
        kernel takes no second key.
        """
        chosen = self.renewals.chosen(how)
        asked = self.established(connection)
        ways = [await self.renewals.renew(sock, chosen) for sock in asked]
        counts = {"rekeyed": ways.count("keyupdate"), "reconnected": ways.count("reconnect")}
        updated = [sock for sock, way in zip(asked, ways, strict=True) if way == "keyupdate"]
        return counts | await self.renewals.outcomes(updated)

    def established(self, connection: str | None) -> list[KernelSocket]:
        """The connection of that name, or all, with TLS. Raises `CallerError` if there is none."""
        known = connection is None or connection in self.sockets or connection in self.closed
        if not known:
            raise CallerError(f"no connection {connection!r} here", errno.ENOENT)
        return [
            sock
            for name, sock in self.sockets.items()
            if sock.session is not None and not sock.closed and connection in (None, name)
        ]

    def record(self, number: int) -> dict[str, Any]:
        """See `Watching.record`."""
        return self.watching.record(number)

    def sysctl(self, values: dict[str, Any]) -> dict[str, Any]:
        """Set knobs, and show them with the counters. Raises `CallerError`."""
        knobs.turn(self, values)
        return knobs.show(self)

    async def tx_mode(self, mode: str, connection: str | None) -> int:
        """See `knobs.tx_mode`."""
        return await knobs.tx_mode(self, mode, connection)

    # ---- doors

    async def open_doors(self) -> None:
        """Open the sockets in the run directory, and serve them. Raises `WorldError`."""
        control = ControlServer(self)

        async def serve_control(sock: trio.socket.SocketType) -> None:
            await control.serve_client(trio.SocketStream(sock))

        # First: who finds a host by its description can ask it.
        await self._open_door(self.rundir.control_socket, socket.SOCK_STREAM, serve_control)
        self.rundir.describe({**self.describe(), **self.config.facts})
        syscalls = self.syscalls.serve_process
        await self._open_door(self.rundir.syscall_socket, socket.SOCK_SEQPACKET, syscalls)

    async def _open_door(self, path: Path, kind: socket.SocketKind, serve: Serve) -> None:
        listener = await listen_unix(path, kind)
        scope = trio.CancelScope()
        self._doors.append(scope)

        async def accept() -> None:
            with scope:
                await accept_loop(listener, self.spawn, serve, self.trace)

        self.nursery.start_soon(accept)

    async def mend_doors(self) -> None:
        """Where somebody has removed the run directory, or a socket in it, make it anew: no daemon
        could find the host. Raises `UmktlsError`."""
        if self.rundir.syscall_socket.exists() and self.rundir.control_socket.exists():
            return
        while self._doors:
            self._doors.pop().cancel()
        self.rundir.make()
        await self.open_doors()
        reason = f"run directory {self.rundir.path} was removed: it was made anew"
        self.trace.emit("warning", None, reason=reason)

    def start_daemons(self) -> None:
        for command in self.config.daemons:
            command.line(self.rundir.path)  # a missing program is an error now, not in a task
            child = Child(
                command, self.rundir.path, self.trace, self.has_registered, self.mend_doors
            )
            self.children.append(child)
            self.nursery.start_soon(child.run)

    def reload_daemons(self) -> None:
        """Have the daemons that this host has started read their files again."""
        for child in self.children:
            child.send_signal(signal.SIGHUP)

    async def replace_daemons(self, commands: Sequence[DaemonCommand]) -> bool:
        """Start those anew that are to have other arguments than so far; whether there are any.

        `commands` are those of all daemons that this host has started. Sessions go on with the new
        ones. Raises `WorldError` when one does not come up; then it gets its old arguments back.
        """
        changed = False
        for child, command in zip(self.children, commands, strict=True):
            if child.command != command:
                await self._replace(child, command)
                changed = True
        return changed

    async def _replace(self, child: Child, command: DaemonCommand) -> None:
        before = child.command
        there = set(self.handles[command.name])
        child.replace(command)
        with trio.move_on_after(self.config.daemon_seconds):
            while child.first_failure is None:
                if not there.issuperset(self.handles[command.name]):
                    return
                await first_of([self.daemons[command.name].came, child.failed])
        failure = child.first_failure or f"{command.name} does not register with its new arguments"
        child.replace(before)
        raise WorldError(f"{failure}; it is started again with its old arguments")

    def renew_sessions(self, reason: str) -> None:
        """Have the peers that have shown a certificate make new connections: what the daemon says
        of them is as of the handshake."""
        for sock in self.established(None):
            if sock.identity.flags & rpctls.RPCTLS_FLAGS_VERIFIED:
                self.handover.cut_off(sock, reason)

    def has_registered(self, pid: int) -> bool:
        return any(handle.pid == pid for handles in self.handles.values() for handle in handles)


async def first_of(events: Sequence[trio.Event]) -> None:
    """Wait until one of `events` is set."""
    async with trio.open_nursery() as nursery:

        async def one(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(one, event)


@asynccontextmanager
async def booted(config: HostConfig) -> AsyncIterator[Host]:
    """A running host inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    with single_error():
        async with trio.open_nursery() as nursery:
            host = Host(config, nursery)
            host.rundir.make()
            try:
                await bring_up(host)
                yield host
            finally:
                await shut_down(host)
                nursery.cancel_scope.cancel()


async def bring_up(host: Host) -> None:
    if keep_large_buffers():
        host.spawn(afterwards, host.requests, give_back)
    await host.open_doors()
    host.trace.emit("host-up", role=host.config.role, rundir=str(host.rundir.path))
    host.start_daemons()


async def shut_down(host: Host) -> None:
    """End all connections in order, then take the run directory away."""
    host.trace.emit("host-down")
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for sock in list(host.sockets.values()):
                end = (tls.disconnect, host, sock, "the host goes down")
                nursery.start_soon(outlived, host.trace, *end)
    host.rundir.remove()
