"""Several processes that are one server: workers, and the supervisor that keeps them.

Theory of operation. One process has one interpreter, and that runs on one processor at a time; a
server for more of them is several processes. The supervisor does nothing but listen, accept, and
hand each connection to a worker as a descriptor. So the port is never closed, whatever becomes of a
worker, the connections of one client (nconnect=) are spread evenly and not by chance, as with
SO_REUSEPORT or with a listening socket that all have, and so are the limits: a server's
connections and memory are divided among its workers, by as much as there are of them.

A connection goes to the worker that has the fewest of its client's address, and of these the one
that has the fewest of all; or, where a client's connections have to be `together`, to the one that
has some already. What workers need in common they have in memory (shared.py); so a repeated call
may come to another one.

To all others the workers are one host, under one name: the supervisor has its run directory, below
which each worker has one of its own, with its own handshake daemon. The supervisor's control socket
asks all workers and answers for them (gather.py), and its trace has their events.

A worker that dies is started again, after pauses that grow; its connections end, and their clients
make new ones. When the supervisor dies its workers end too.
"""

from __future__ import annotations

import array
import itertools
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.groups import single_error
from umktls.kernel.ground.refusals import outlived, refusal_text
from umktls.kernel.host.accepting import accept_loop, listen_unix, taken_from_trio
from umktls.kernel.host.children import PAUSES, STEADY, describe_end, ended, own_environment
from umktls.kernel.host.host import STAT_SCHEMA
from umktls.kernel.host.rundir import RunDirectory
from umktls.kernel.krpc.listening import listen, port_of
from umktls.kernel.krpc.post import MESSAGE_LIMIT, Post
from umktls.kernel.team import gather
from umktls.kernel.team.teamcontrol import TeamControl

__all__ = ["Team", "TeamConfig", "Worker", "boot_team"]

# The program that a worker runs: it is told where to go on, and finds what it needs on stdin.
PROGRAM = (sys.executable, "-m", "umktls.cli.worker")
# A worker ends its connections in order; it has so long for that, in seconds.
END_SECONDS = 10.0
KILL_SECONDS = 3.0
# A worker has so long to read its files again.
RELOAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TeamConfig:
    """How many workers, and what they do. `target` is "module:function" of a coroutine function,
    which is called with the worker's `Inlet` and what `argument` returns at the time, pickled.
    `shared` is the descriptor of what they share. `together`: all connections of a client's address
    go to one worker. Listening is as in `ServerConfig`."""

    count: int
    target: str
    argument: Callable[[], Any]
    shared: int
    hosts: tuple[str, ...] = ("localhost",)
    port: int = 2049
    rundir: Path | None = None
    personality: Personality = DEFAULT_PERSONALITY
    together: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


class Outgoing(NamedTuple):
    """A message to a worker, and what goes with it, which is closed afterwards."""

    content: dict[str, Any]
    close: Callable[[], None]
    descriptor: int


@dataclass(eq=False)
class Worker:
    """One of them, as its supervisor knows it. `guests`: the addresses of its connections, by
    number. `given`: connections, in all its lives. `starts`: how often it was started. `told`: of
    how many reloads it knows. `reloaded`: what it has against the last one, None until it says."""

    number: int
    rundir: Path
    pid: int | None = None
    up: bool = False
    starts: int = 0
    given: int = 0
    guests: dict[int, str] = field(default_factory=dict)
    homes: Counter[str] = field(default_factory=Counter)
    failure: WorldError | None = None
    told: int = 0
    reloaded: str | None = ""
    queue: trio.MemorySendChannel[Outgoing] | None = None

    def send(self, message: Outgoing) -> None:
        """In turn. What cannot be sent any more is closed."""
        try:
            assert self.queue is not None
            self.queue.send_nowait(message)
        except (AssertionError, trio.ClosedResourceError, trio.BrokenResourceError):
            message.close()

    def take(self, number: int, address: str, sock: socket.socket) -> None:
        """Have the worker serve a connection."""
        self.given += 1
        self.guests[number] = address
        self.homes[address] += 1
        self.send(Outgoing({"connection": number}, sock.close, sock.fileno()))

    def leave(self, number: int) -> None:
        """A connection has ended."""
        address = self.guests.pop(number, None)
        if address is not None:
            self.homes[address] -= 1
            if not self.homes[address]:
                del self.homes[address]

    def facts(self) -> dict[str, Any]:
        """For `stat`."""
        return {
            "worker": self.number,
            "pid": self.pid,
            "up": self.up,
            "starts": self.starts,
            "connections": len(self.guests),
            "rundir": str(self.rundir),
        }


class Team:
    """A running server of several workers. Made by `boot_team`."""

    def __init__(
        self,
        config: TeamConfig,
        nursery: trio.Nursery,
        listeners: Sequence[trio.socket.SocketType],
    ) -> None:
        port = port_of(listeners)
        self.config = config
        self.port = port
        self.listeners = listeners
        self.rundir = RunDirectory("server", config.rundir)
        self.name = self.rundir.path.name
        self.trace = Trace(self.name, "server")
        self.started = time.time()
        self.facts = {**config.facts, "port": port, "workers": config.count}
        self.knobs: dict[str, Any] = {}  # that were turned, for workers that are started again
        self.workers = [
            Worker(number, self.rundir.path / f"w{number}") for number in range(1, config.count + 1)
        ]
        self._reloads = 0
        self._reload_value: Any = None
        self._nursery = nursery
        self._changed = trio.Event()
        self._lives = itertools.count(1)
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
        """Raises `WorldError`."""
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

    async def place(self, sock: trio.socket.SocketType) -> None:
        """Give a connection to a worker, as soon as there is one."""
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
        worker.take(next(self._numbers), address, plain)

    def _chosen(self, address: str) -> Worker | None:
        """The worker for one more connection from there."""
        sign = -1 if self.config.together else 1

        def rank(worker: Worker) -> tuple[int, int]:
            return sign * worker.homes[address], len(worker.guests)

        return min((worker for worker in self.workers if worker.up), key=rank, default=None)

    # ---- workers

    async def keep(self, worker: Worker) -> None:
        """Start a worker, wait for its end, and start it again, until this is cancelled."""
        pauses = iter(PAUSES)
        while True:
            started = trio.current_time()
            reason = await self._live(worker)
            self._change()
            if trio.current_time() - started > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, PAUSES[-1])
            what = {"worker": worker.number, "pid": worker.pid, "reason": reason}
            self.trace.emit("worker-gone", None, **what, pause=pause)
            await trio.sleep(pause)

    async def _live(self, worker: Worker) -> str:
        """One life of a worker; why it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = trio.socket.from_stdlib_socket(ours)
        with channel:
            try:
                with theirs:
                    await self.mend_door()
                    process = self._start(worker, theirs.fileno())
            except (OSError, UmktlsError) as error:
                worker.failure = WorldError(f"a worker cannot be started: {refusal_text(error)}")
                return refusal_text(error)
            try:
                await self._attend(worker, channel, process)
            finally:
                worker.up = False
                with trio.CancelScope(shield=True):
                    await end_process(process)
                worker.guests.clear()
                worker.homes.clear()
        how = describe_end(process.returncode)
        if worker.failure is not None:
            return f"{how}: {worker.failure}"
        worker.failure = WorldError(f"worker {worker.number} {how}")
        return how

    def _start(self, worker: Worker, channel: int) -> subprocess.Popen[bytes]:
        post = Post(
            worker.number,
            self.config.count,
            next(self._lives),
            worker.number + worker.given * self.config.count,
            self.name,
            worker.rundir,
            self.port,
            channel,
            self.config.shared,
        )
        worker.told = self._reloads
        told = pickled((post, self.config.argument()))
        try:
            # A session of its own: Ctrl-C on the terminal is for the supervisor.
            process = subprocess.Popen(
                [*PROGRAM, self.config.target],
                env=own_environment(),
                stdin=told,
                stdout=subprocess.DEVNULL,
                pass_fds=(channel, self.config.shared),
                start_new_session=True,
            )
        finally:
            os.close(told)
        worker.pid, worker.failure = process.pid, None
        worker.starts += 1
        self.trace.emit("worker-started", None, worker=worker.number, pid=process.pid)
        return process

    async def _attend(
        self, worker: Worker, channel: trio.socket.SocketType, process: subprocess.Popen[bytes]
    ) -> None:
        """Talk with a worker until it ends."""
        queue, messages = trio.open_memory_channel[Outgoing](math.inf)
        worker.queue = queue
        with messages:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, messages, channel)
                    nursery.start_soon(self._hear, worker, channel, nursery)
                    await ended(process)
                    nursery.cancel_scope.cancel()
            finally:
                worker.queue = None
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    while True:
                        messages.receive_nowait().close()

    async def _hear(
        self, worker: Worker, channel: trio.socket.SocketType, nursery: trio.Nursery
    ) -> None:
        """What a worker says, until it ends."""
        with suppress(OSError):
            while data := await channel.recv(MESSAGE_LIMIT):
                message = json.loads(data)
                if "ended" in message:
                    worker.leave(int(message["ended"]))
                elif "up" in message:
                    worker.up = True
                    nursery.start_soon(gather.events, worker.rundir, self._relay(worker))
                    nursery.start_soon(self._turn_knobs, worker)
                    if worker.told < self._reloads:
                        self._reload(worker)
                elif "reloaded" in message:
                    worker.reloaded = str(message["reloaded"])
                elif "failed" in message:
                    worker.failure = WorldError(str(message["failed"]), message["errno"])
                self._change()

    def _relay(self, worker: Worker) -> Callable[[dict[str, Any]], None]:
        return lambda event: self.trace.relay({**event, "worker": worker.number})

    async def _turn_knobs(self, worker: Worker) -> None:
        if self.knobs:
            with suppress(WorldError):
                await gather.ask(worker.rundir, {"op": "sysctl", "set": self.knobs}, RELOAD_SECONDS)

    def _change(self) -> None:
        """Something is known of a worker that was not."""
        self._changed.set()
        self._changed = trio.Event()

    async def all_up(self) -> None:
        """Wait until all workers are. Raises why one has ended before."""
        while not all(worker.up for worker in self.workers):
            await self._changed.wait()
            failed = next((one for one in self.workers if one.failure and not one.up), None)
            if failed is not None and failed.failure is not None:
                raise failed.failure

    def _reload(self, worker: Worker) -> None:
        """One that has started before the last reload."""
        worker.reloaded, worker.told = None, self._reloads
        told = pickled(self._reload_value)
        worker.send(Outgoing({"reload": True}, partial(os.close, told), told))

    async def reload(self, value: Any) -> list[str]:
        """Have the workers read their files again, and do what this value, pickled, says; what
        they have against it. One that is being started hears of it when it is up."""
        self._reloads += 1
        self._reload_value = value
        asked = [worker for worker in self.workers if worker.up]
        for worker in asked:
            self._reload(worker)
        with trio.move_on_after(RELOAD_SECONDS):
            while any(worker.up and worker.reloaded is None for worker in asked):
                await self._changed.wait()
        return list(dict.fromkeys(one.reloaded for one in asked if one.up and one.reloaded))


def pickled(value: Any) -> int:
    """A file in memory with it, to be read from its begin."""
    descriptor = os.memfd_create("umktls")
    with open(descriptor, "wb", closefd=False) as file:
        pickle.dump(value, file)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def send_all(
    messages: trio.MemoryReceiveChannel[Outgoing], channel: trio.socket.SocketType
) -> None:
    """Send what is to be sent, in turn; a worker that has ended hears nothing any more."""
    async for message in messages:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.descriptor]))
        try:
            await channel.sendmsg([json.dumps(message.content).encode()], [rights])
        except OSError:
            return
        finally:
            message.close()


async def end_process(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM, or at last by SIGKILL."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        if process.poll() is not None:
            return
        with suppress(OSError):
            process.send_signal(number)
        with trio.move_on_after(seconds):
            await ended(process)


@asynccontextmanager
async def boot_team(config: TeamConfig) -> AsyncIterator[Team]:
    """A server of several workers inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    listeners = await listen(config.hosts, config.port)
    team = None
    try:
        with single_error():
            async with trio.open_nursery() as nursery:
                team = Team(config, nursery, listeners)
                team.rundir.make()
                await team.open_door()
                up = {"role": "server", "rundir": str(team.rundir.path)}
                team.trace.emit("host-up", None, **up)
                for worker in team.workers:
                    nursery.start_soon(team.keep, worker)
                await team.all_up()
                for listener in listeners:
                    nursery.start_soon(accept_loop, listener, team.spawn, team.place, team.trace)
                yield team
                team.trace.emit("host-down")
                nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.close()
        if team is not None:
            team.rundir.remove()
