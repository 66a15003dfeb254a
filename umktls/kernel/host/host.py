"""A running host as the rest of the kernel, and people, see it. What brings it up is in boot.py."""

from __future__ import annotations

import os
import shlex
import socket
from typing import Any

import trio

from umktls.abi import rpctls
from umktls.errors import CallerError
from umktls.kernel.captures.capture import Capture
from umktls.kernel.host import knobs
from umktls.kernel.host.capturing import Capturing
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.connections import ConnectionTable
from umktls.kernel.host.meddling import meddle
from umktls.kernel.host.owndaemons import OwnDaemons, first_of
from umktls.kernel.host.process import Process
from umktls.kernel.host.state import HostState
from umktls.kernel.host.syscalls import SyscallServer
from umktls.kernel.host.watching import Watching
from umktls.kernel.owners.request import DaemonGone
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.agents import Handshakes
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.handover import Handover
from umktls.kernel.upcalls.hello import Clients
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.kernel.upcalls.renewal import Renewals
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.choice import EngineChoice
from umktls.upcall.ready import ready_to_answer

__all__ = ["STAT_SCHEMA", "Host"]

STAT_SCHEMA = 1
# What fits a sockaddr_un of Linux, with the zero byte behind it.
SUN_PATH_MAX = 108


class Host(HostState):
    """A running host: its state, and the parts of the kernel that share it.

    `handles` has the daemons that are registered, by name; `children` those that the host itself
    has started. `capture` is there while somebody captures.
    """

    def __init__(self, config: HostConfig, nursery: trio.Nursery) -> None:
        super().__init__(config, nursery)
        self.connections = ConnectionTable(self)
        self.sockets, self.closed = self.connections.sockets, self.connections.closed
        self.clients = Clients()
        self.handover = Handover(self)
        self.renewals = Renewals(self, config.rekey)
        told = config.upcall_seconds is not None  # SunRPC sets no TIMEOUT by itself
        self.handshakes = Handshakes(config.role, self.trace, seconds_asked=told)
        if self.personality.handshake_family:
            self.views["handshakes"] = self.handshakes.describe
        self.daemons = {name: self._daemons_of(name) for name in ("rpctlscd", "rpctlssd")}
        self.handles = {name: daemons.handles for name, daemons in self.daemons.items()}
        self.children = OwnDaemons(self, self.daemons)
        self.syscalls = SyscallServer(self)
        self.watching = Watching(self)
        self.capture: Capture | None = None
        self.capturing = Capturing(self, client=config.role == "client")

    # ---- sockets

    def adopt(
        self,
        sock: socket.socket,
        security: str = "none",
        peername: str = "",
        engine: EngineChoice | None = None,
        state: KtlsSocket | None = None,
    ) -> KernelSocket:
        """Make a connected TCP socket one of this kernel's. `engine`: another than the host's.
        `state`: what `ConnectionTable.new_state` has made for it before.

        Raises as `chosen_engines` for that one.
        """
        adopted = self.connections.add(sock, security, peername, engine, state)
        adopted.on_close = self._closed
        self._renew_at_limit(adopted)
        if self.trace.close:
            self.watching.begin(adopted)
        if self.capture is not None:
            self.capture.adopt(adopted)
        return adopted

    def _renew_at_limit(self, sock: KernelSocket) -> None:
        """Renew the keys before they are used up (RFC 8446 section 5.5)."""
        token = trio.lowlevel.current_trio_token()

        def renew() -> None:  # in whatever thread a record was sealed
            token.run_sync_soon(self.spawn, self.renewals.at_limit, sock)

        sock.state.tx.on_wants_rekey = sock.state.rx.on_wants_rekey = renew

    def _closed(self, sock: KernelSocket) -> None:
        self.renewals.ended(sock)
        self.connections.remember(sock)

    def established(self, connection: str | None) -> list[KernelSocket]:
        """The connection of that name, or all, with TLS. Raises `CallerError` if there is none."""
        return self.connections.established(connection)

    # ---- daemons

    def _daemons_of(self, name: str) -> Daemons:
        agent = self.agent_by_hand()
        would_do = f"; a handshake agent would do: {agent}" if agent else ""
        advice = f"(run directory {self.rundir.path}{would_do}); start one: {self.by_hand(name)}"
        patient = not self.personality.probe_needs_daemon
        return Daemons(name, self.trace, advice, self.handover.left, patient=patient)

    @property
    def offers_tls(self) -> bool:
        """Whether the AUTH_TLS probe is answered with STARTTLS, as far as daemons are concerned."""
        return bool(self.handles["rpctlssd"]) or not self.personality.probe_needs_daemon

    def register_daemon(self, process: Process, name: str, path: bytes) -> None:
        """CLSETPATH, SRVSETPATH: from now on upcalls of this direction go to `path`."""
        text = os.fsdecode(path).rstrip("\0")
        if not text or len(path) >= SUN_PATH_MAX:
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
            if not self.handles[name]:
                ready_to_answer(name)  # there is time now
            while not self.handles[name]:
                came = self.daemons[name].came
                await first_of([came, *(child.failed for child in self.children)])
                if self.children.failure is not None:
                    raise self.children.failure
            return
        agent = self.agent_by_hand()
        nor = f", nor a handshake agent ({agent})" if agent else ""
        raise DaemonGone(
            f"no {name} registered within {self.config.daemon_seconds:g} s{nor}; try again with "
            f"--rundir {shlex.quote(str(self.rundir.path))} and start one meanwhile: "
            f"{self.by_hand(name)}"
        )

    # ---- what people ask for, by the control socket

    def stat(self) -> dict[str, Any]:
        """The state of the host, as `umktls stat --json` prints it."""
        every = [handle for handles in self.handles.values() for handle in handles]
        return {
            "schema": STAT_SCHEMA,
            "host": self.describe(),
            "mount": self.config.facts.get("mount"),
            "exports": self.config.facts.get("exports", []),
            "daemons": [
                {name: getattr(handle, name) for name in ("name", "pid", "path", "version")}
                for handle in every
            ],
            **{name: view() for name, view in self.views.items()},
            "connections": self.connections.stat(),
            "totals": {**self.totals, **self.handover.totals, **self.connections.traffic()},
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
        return await self.renewals.renew_all(self.established(connection), chosen)

    def renew_sessions(self, reason: str) -> None:
        """Have the peers that have shown a certificate make new connections: what the daemon says
        of them is as of the handshake."""
        for sock in self.established(None):
            if sock.identity.flags & rpctls.RPCTLS_FLAGS_VERIFIED:
                self.handover.cut_off(sock, reason)

    def meddle(self, what: str, connection: str | None) -> int:
        """See `meddling.meddle`."""
        return meddle(self, what, connection)

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
