"""How a host comes up and goes down.

`booted` brings a host up in the order in which a kernel would: the run directory, the doors
(control, system calls), then the daemons. Inside its block the host runs; leaving it takes
everything down again, whatever the reason.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from umktls.kernel.ground.budget import afterwards
from umktls.kernel.ground.groups import single_error
from umktls.kernel.ground.refusals import outlived
from umktls.kernel.ground.steps import Steps
from umktls.kernel.host.accepting import Serve, accept_loop, listen_unix
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.control import ControlServer
from umktls.kernel.host.host import Host
from umktls.kernel.host.stepping import viewer_comes
from umktls.kernel.upcalls import tls
from umktls.memory import give_back, keep_large_buffers

__all__ = ["booted"]


@asynccontextmanager
async def booted(config: HostConfig) -> AsyncIterator[Host]:
    """A running host inside the block.

    Raises `UmktlsError` when it cannot come up.
    """
    with single_error():
        async with trio.open_nursery() as nursery:
            host = Host(config, nursery)
            host.rundir.make()
            nursery.start_soon(go_on_at_end, host.trace.steps)
            try:
                await bring_up(host)
                yield host
            finally:
                await shut_down(host)
                nursery.cancel_scope.cancel()


async def bring_up(host: Host) -> None:
    """Bring up, in order, all that comes behind the run directory. Raises `UmktlsError`."""
    watch_memory(host)
    if host.config.capture is not None:
        host.capturing.begin(host.config.capture)
    doors = Doors(host)
    await doors.open()
    host.trace.emit("host-up", role=host.config.role, rundir=str(host.rundir.path))
    await viewer_comes(host)
    host.children.start(doors.mend)


async def go_on_at_end(steps: Steps) -> None:
    """Whoever ends this host cancels it, and no task that has to do something yet may stand then in
    front of a step."""
    try:
        await trio.sleep_forever()
    finally:
        steps.leave()


def watch_memory(host: Host) -> None:
    """Have large buffers kept, and given back when many requests are over."""
    if keep_large_buffers():
        host.spawn(afterwards, host.requests, give_back)


class Doors:
    """The sockets in a host's run directory: `control.sock` and `syscall.sock`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: list[trio.CancelScope] = []

    async def open(self) -> None:
        """Open them, and serve them. Raises `WorldError`."""
        host = self._host
        host.trace.steps.show_in(host.rundir.clock_file())
        control = ControlServer(host)

        async def serve_control(sock: trio.socket.SocketType) -> None:
            await control.serve_client(trio.SocketStream(sock))

        # First: who finds a host by its description can ask it.
        await self._add(host.rundir.control_socket, socket.SOCK_STREAM, serve_control)
        host.write_description()
        syscalls = host.syscalls.serve_process
        await self._add(host.rundir.syscall_socket, socket.SOCK_SEQPACKET, syscalls)

    async def _add(self, path: Path, kind: socket.SocketKind, serve: Serve) -> None:
        host = self._host
        listener = await listen_unix(path, kind)
        scope = trio.CancelScope()
        self._open.append(scope)

        async def accept() -> None:
            with scope:
                await accept_loop(listener, host.spawn, serve, host.trace)

        host.nursery.start_soon(accept)

    async def mend(self) -> None:
        """Where somebody has removed the run directory, or a socket in it, make it anew: no daemon
        could find the host. Raises `UmktlsError`."""
        rundir = self._host.rundir
        if rundir.syscall_socket.exists() and rundir.control_socket.exists():
            return
        while self._open:
            self._open.pop().cancel()
        rundir.make()
        await self.open()
        reason = f"run directory {rundir.path} was removed: it was made anew"
        self._host.trace.emit("warning", None, reason=reason)


async def shut_down(host: Host) -> None:
    """End all connections in order, then take the run directory away."""
    host.trace.steps.leave()
    host.trace.emit("host-down")
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for sock in list(host.sockets.values()):
                end = (tls.disconnect, host, sock, "the host goes down")
                nursery.start_soon(outlived, host.trace, *end)
        await host.capturing.end()
    host.rundir.remove()
