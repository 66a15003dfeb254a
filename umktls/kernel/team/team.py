"""Several processes that are one server: workers, and the supervisor that keeps them.

Theory of operation. One process has one interpreter, and that runs on one processor at a time; a
server for more of them is several processes. The supervisor does nothing but listen, accept, and
hand each connection to a worker as a descriptor. So the port is never closed, whatever becomes of a
worker. The connections of one client (nconnect=) are spread evenly; with SO_REUSEPORT, or with a
listening socket that all workers have, chance would spread them. And a server's limits, of
connections and of memory, can be divided evenly among its workers.

A connection goes to the worker that has the fewest connections from its client's address, and among
equals to the one that has the fewest of all. Where a client's connections have to be `together`, it
goes to the worker that has some already. What workers need in common they have in memory
(shared.py); so a repeated call may come to another one.

To all others the workers are one host, under one name: the supervisor has its run directory, below
which each worker has one of its own, with its own handshake daemon. The supervisor's control socket
asks all workers and answers for them (gather.py), and its trace has their events.

A worker that dies is started again, after pauses that grow; its connections end, and their clients
make new ones. One that hangs, stopped or in a loop, is killed for it (lives.py). When the
supervisor dies its workers end too.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.groups import single_error
from umktls.kernel.ground.refusals import outlived
from umktls.kernel.host.accepting import accept_loop, listen_unix, taken_from_trio
from umktls.kernel.host.host import STAT_SCHEMA
from umktls.kernel.host.rundir import RunDirectory
from umktls.kernel.krpc.listening import listen, mount_listeners, port_of
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.lives import RELOAD_SECONDS, Lives
from umktls.kernel.team.teamcontrol import TeamControl
from umktls.kernel.team.worker import Reloads, Worker

__all__ = ["Team", "boot_team"]


class Team:
    """A running server of several workers. Made by `boot_team`."""

    def __init__(
        self,
        config: TeamConfig,
        nursery: trio.Nursery,
        listeners: Sequence[trio.socket.SocketType],
        mount_listeners: Sequence[trio.socket.SocketType],
    ) -> None:
        port = port_of(listeners)
        self.config = config
        self.port = port
        self.listeners = listeners
        self.mount_listeners = mount_listeners
        self.rundir = RunDirectory("server", config.rundir)
        self.name = self.rundir.path.name
        self.trace = Trace(self.name, "server")
        self.started = time.time()
        self.facts = {**config.facts, "port": port, "workers": config.count}
        if mount_listeners:
            self.facts["mount_port"] = port_of(mount_listeners)
        self.knobs: dict[str, Any] = {}  # that were turned, for workers that are started again
        self.workers = [
            Worker(number, self.rundir.path / f"w{number}") for number in range(1, config.count + 1)
        ]
        self.reloads = Reloads()
        self.lives = Lives(self)
        self._nursery = nursery
        self._changed = trio.Event()
        self._numbers = itertools.count(1)
        self._door = trio.CancelScope()

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task whose failure the server outlives."""
        self._nursery.start_soon(outlived, self.trace, function, *args)

    def describe(self) -> dict[str, Any]:
        return {
            "role": "server",
            "pid": os.getpid(),
            "name": self.name,
            "rundir": str(self.rundir.path),
            "personality": self.config.personality.name,
            "rpctls_versions": list(self.config.personality.rpctls_versions),
            "handshake_family": self.config.personality.handshake_family,
            "started": self.started,
        }

    def own_stat(self) -> dict[str, Any]:
        """What `stat` says of all together."""
        return {
            "schema": STAT_SCHEMA,
            "host": self.describe(),
            "exports": self.facts.get("exports", []),
            "workers": [worker.facts() for worker in self.workers],
        }

    # ---- the control socket

    async def open_door(self) -> None:
        """Open the control socket, and serve it. Raises `WorldError`."""
        control = TeamControl(self)

        async def serve(sock: trio.socket.SocketType) -> None:
            await control.serve_client(trio.SocketStream(sock))

        listener = await listen_unix(self.rundir.control_socket, socket.SOCK_STREAM)
        self.rundir.describe({**self.describe(), **self.facts})
        self._door = scope = trio.CancelScope()

        async def accept() -> None:
            with scope:
                await accept_loop(listener, self.spawn, serve, self.trace)

        self._nursery.start_soon(accept)

    async def mend_door(self) -> None:
        """Where somebody has removed the run directory, make it anew. Raises `UmktlsError`."""
        if self.rundir.control_socket.exists():
            return
        self._door.cancel()
        self.rundir.make()
        await self.open_door()
        reason = f"run directory {self.rundir.path} was removed: it was made anew"
        self.trace.emit("warning", None, reason=reason)

    # ---- connections

    async def place(self, sock: trio.socket.SocketType, mount: bool = False) -> None:
        """Give a connection to a worker, as soon as there is one. mount: it came to the port for
        MOUNT alone."""
        plain = taken_from_trio(sock)
        try:
            address = str(plain.getpeername()[0])
            while (worker := self._chosen(address)) is None:
                await self._changed.wait()
        except BaseException as error:
            plain.close()
            if isinstance(error, OSError):  # it is gone already
                return
            raise
        worker.take(next(self._numbers), address, plain, mount)

    def _chosen(self, address: str) -> Worker | None:
        """The worker for one more connection from there."""
        sign = -1 if self.config.together else 1

        def rank(worker: Worker) -> tuple[int, int]:
            return sign * worker.homes[address], len(worker.guests)

        return min((worker for worker in self.workers if worker.up), key=rank, default=None)

    # ---- workers

    def change(self) -> None:
        """Something is known of a worker that was not."""
        self._changed.set()
        self._changed = trio.Event()

    async def all_up(self) -> None:
        """Wait until all workers are. Raises why one has ended before."""
        while not all(worker.up for worker in self.workers):
            await self._changed.wait()
            ended = (one.failure for one in self.workers if not one.up)
            failure = next(filter(None, ended), None)
            if failure is not None:
                raise failure

    async def reload(self, value: Any) -> list[str]:
        """Have the workers read their files again, and do what this value, pickled, says; what
        they have against it. One that is being started hears of it when it is up."""
        self.reloads.count += 1
        self.reloads.value = value
        asked = [worker for worker in self.workers if worker.up]
        for worker in asked:
            self.reloads.tell(worker)
        with trio.move_on_after(RELOAD_SECONDS):
            while any(worker.up and worker.reloaded is None for worker in asked):
                await self._changed.wait()
        return list(dict.fromkeys(one.reloaded for one in asked if one.up and one.reloaded))


@asynccontextmanager
async def boot_team(config: TeamConfig) -> AsyncIterator[Team]:
    """A server of several workers inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    listeners = await listen(config.hosts, config.port)
    team = None
    try:
        with single_error():
            async with (
                mount_listeners(config.hosts, config.mount_port) as mounting,
                trio.open_nursery() as nursery,
            ):
                team = Team(config, nursery, listeners, mounting)
                team.rundir.make()
                await team.open_door()
                up = {"role": "server", "rundir": str(team.rundir.path)}
                team.trace.emit("host-up", None, **up)
                for worker in team.workers:
                    nursery.start_soon(team.lives.keep, worker)
                await team.all_up()
                place_mount = partial(team.place, mount=True)
                for place, sockets in ((team.place, listeners), (place_mount, mounting)):
                    for listener in sockets:
                        nursery.start_soon(accept_loop, listener, team.spawn, place, team.trace)
                yield team
                team.trace.emit("host-down")
                nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.close()
        if team is not None:
            team.rundir.remove()
