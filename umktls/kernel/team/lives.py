"""The lives of workers: each is started, talked with until it ends, and started again."""

from __future__ import annotations

import array
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import refusal_text
from umktls.kernel.host.children import PAUSES, STEADY, describe_end, ended
from umktls.kernel.host.early import own_environment
from umktls.kernel.krpc.post import MESSAGE_LIMIT, Post
from umktls.kernel.team import gather
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.worker import Outgoing, Reloads, Worker, pickled

__all__ = ["RELOAD_SECONDS", "Lives", "watch"]

# The program that a worker runs: it is told where to go on, and finds what it needs on stdin.
PROGRAM = (sys.executable, "-m", "umktls.cli.worker")
# A worker ends its connections in order; it has so long for that, in seconds.
END_SECONDS = 10.0
KILL_SECONDS = 3.0
# A worker has so long to read its files again.
RELOAD_SECONDS = 60.0
# A worker is asked so often whether it lives, and killed when it has said nothing for so long.
# While it comes up it has longer: its handshake daemon may be slow.
PING_SECONDS = 5.0
SILENT_SECONDS = 30.0
BOOT_SECONDS = 180.0


class Employer(Protocol):
    """What workers need of their team. `knobs` were turned before they were started."""

    config: TeamConfig
    name: str
    port: int
    trace: Trace
    knobs: dict[str, Any]
    reloads: Reloads

    async def mend_door(self) -> None:
        """Have the run directory there. Raises `UmktlsError`."""

    def change(self) -> None:
        """Something is known of a worker that was not."""


class Lives:
    """Keeps the workers of one team alive."""

    def __init__(self, team: Employer) -> None:
        self._team = team
        self._numbers = itertools.count(1)

    async def keep(self, worker: Worker) -> None:
        """Start a worker, wait for its end, and start it again, until this is cancelled."""
        pauses = iter(PAUSES)
        while True:
            started = trio.current_time()
            reason = await self._live(worker)
            self._team.change()
            if trio.current_time() - started > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, PAUSES[-1])
            what = {"worker": worker.number, "pid": worker.pid, "reason": reason}
            self._team.trace.emit("worker-gone", None, **what, pause=pause)
            await trio.sleep(pause)

    async def _live(self, worker: Worker) -> str:
        """One life of a worker; why it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = trio.socket.from_stdlib_socket(ours)
        with channel:
            try:
                with theirs:
                    await self._team.mend_door()
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
        team = self._team
        post = Post(
            worker.number,
            team.config.count,
            next(self._numbers),
            worker.number + worker.given * team.config.count,
            team.name,
            worker.rundir,
            team.port,
            channel,
            team.config.shared,
        )
        worker.told = team.reloads.count
        told = pickled((post, team.config.argument()))
        try:
            # A session of its own: Ctrl-C on the terminal is for the supervisor.
            process = subprocess.Popen(
                [*PROGRAM, team.config.target],
                env=own_environment(),
                stdin=told,
                stdout=subprocess.DEVNULL,
                pass_fds=(channel, team.config.shared),
                start_new_session=True,
            )
        finally:
            os.close(told)
        worker.pid, worker.failure = process.pid, None
        worker.starts += 1
        team.trace.emit("worker-started", None, worker=worker.number, pid=process.pid)
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
                    nursery.start_soon(watch, worker, process.kill)
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
                worker.heard += 1
                if "ended" in message:
                    worker.leave(int(message["ended"]))
                elif "up" in message:
                    worker.up = True
                    nursery.start_soon(gather.events, worker.rundir, self._relay(worker))
                    nursery.start_soon(self._turn_knobs, worker)
                    if worker.told < self._team.reloads.count:
                        self._team.reloads.tell(worker)
                elif "reloaded" in message:
                    worker.reloaded = str(message["reloaded"])
                elif "failed" in message:
                    worker.failure = WorldError(str(message["failed"]), message["errno"])
                self._team.change()

    def _relay(self, worker: Worker) -> Callable[[dict[str, Any]], None]:
        return lambda event: self._team.trace.relay({**event, "worker": worker.number})

    async def _turn_knobs(self, worker: Worker) -> None:
        if not self._team.knobs:
            return
        request = {"op": "sysctl", "set": self._team.knobs}
        with suppress(WorldError):
            await gather.ask(worker.rundir, request, RELOAD_SECONDS)


async def watch(worker: Worker, kill: Callable[[], None]) -> None:
    """Kill a worker that hangs, which may be given no more connections then. What is counted are
    questions, and not time: where the machine or the supervisor has stood still, it is not to
    blame."""
    silent = 0.0
    while silent < (SILENT_SECONDS if worker.up else BOOT_SECONDS):
        heard = worker.heard
        worker.send(Outgoing({"ping": True}))
        await trio.sleep(PING_SECONDS)
        silent = silent + PING_SECONDS if worker.heard == heard else 0.0
    worker.up = False
    worker.failure = WorldError(f"worker {worker.number} had not answered for {silent:g} s")
    kill()


async def send_all(
    messages: trio.MemoryReceiveChannel[Outgoing], channel: trio.socket.SocketType
) -> None:
    """Send what is to be sent, in turn; a worker that has ended hears nothing any more."""
    async for message in messages:
        given = array.array("i", [] if message.descriptor is None else [message.descriptor])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)] if given else []
        try:
            await channel.sendmsg([json.dumps(message.content).encode()], rights)
        except OSError:
            return
        finally:
            message.close()


async def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process: by SIGTERM, then by SIGKILL."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        if process.poll() is not None:
            return
        with suppress(OSError):
            process.send_signal(number)
        with trio.move_on_after(seconds):
            await ended(process)
