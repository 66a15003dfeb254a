"""The state of a host that the rest of the kernel is given."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from umktls.kernel.ground.budget import Budget
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import outlived
from umktls.kernel.ground.unread import Unread
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.rundir import RunDirectory
from umktls.kernel.host.workers import Workers
from umktls.kernel.sockets.card import retransmitted_pct
from umktls.kernel.sockets.detours import Means
from umktls.kernel.sockets.engines import chosen_engines
from umktls.ktls.session.counters import Counters, Sysctls

__all__ = ["HostState"]

COUNTED = ("connections", "handshakes", "handshakes_failed", "resumed")


class HostState:
    """What a host is: whose kernel, where, with what means, and what has been counted.

    `views` is what else `umktls stat` shows, by its name there. `rexmit_pct` is what share of its
    bytes each connection is taken to have sent again; None: TCP is asked.
    """

    def __init__(self, config: HostConfig, nursery: trio.Nursery) -> None:
        self.config = config
        self.personality = config.personality
        self.rundir = RunDirectory(config.role, config.rundir)
        self.name = config.name or self.rundir.path.name
        self.trace = Trace(self.name, config.role)
        self.nursery = nursery
        self.started = time.time()
        self.sysctls = Sysctls()
        self.counters = Counters()
        self.rexmit_pct: float | None = None
        self.means = Means(
            chosen_engines(config.engine),
            config.bounce,
            self.spawn,
            trio.CapacityLimiter(os.cpu_count() or 1),
            self._retransmitted_pct,
        )
        self.requests = Budget(config.request_bytes)
        self.unread = Unread(config.request_bytes)
        self.workers = Workers()
        self.totals = dict.fromkeys(COUNTED, 0)
        self.views: dict[str, Callable[[], Any]] = {}

    @property
    def upcall_seconds(self) -> float:
        """The deadline of an upcall."""
        chosen = self.config.upcall_seconds
        return self.personality.upcall_seconds(self.config.role) if chosen is None else chosen

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task that lives as long as the host, and whose failure the host outlives."""
        self.nursery.start_soon(outlived, self.trace, function, *args)

    def _retransmitted_pct(self, sock: socket.socket) -> float:
        return retransmitted_pct(sock) if self.rexmit_pct is None else self.rexmit_pct

    def describe(self) -> dict[str, Any]:
        """Who the host is, as host.json and `umktls stat --json` have it."""
        return {
            "role": self.config.role,
            "pid": os.getpid(),
            "name": self.name,
            "rundir": str(self.rundir.path),
            "personality": self.personality.name,
            "rpctls_versions": list(self.personality.rpctls_versions),
            "handshake_family": self.personality.handshake_family,
            "started": self.started,
        }

    def write_description(self) -> None:
        """Say so in host.json, with what is to be known of a host of this kind. Raises
        `WorldError`."""
        self.rundir.describe({**self.describe(), **self.config.facts})

    def by_hand(self, name: str, arguments: tuple[str, ...] | None = None) -> str:
        """What to type to start a daemon for this host, with these arguments or the host's own."""
        if arguments is None:
            arguments = self.config.by_hand.get(name, ())
        return shlex.join((name, "--rundir", str(self.rundir.path), *arguments))

    def agent_by_hand(self) -> str:
        """What may be started in a daemon's place, an agent of Linux's handshake upcall; empty
        where this kernel has none."""
        if not self.personality.handshake_family:
            return ""
        command = shlex.join(("umktls", "run", "--host", str(self.rundir.path), "--", "tlshd"))
        return f"{command} -s -c FILE"
