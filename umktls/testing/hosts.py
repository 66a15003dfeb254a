"""A server host and a client host in one process, with real daemons and RPC between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from umktls.dataclass import dataclass
from umktls.kernel.host.config import OWN_DAEMON_SECONDS
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Listening, ServerConfig, boot_server
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.scenarios.subject import DAEMONS, Role, Subject, places
from umktls.testing.echo import Echo

__all__ = ["Pair", "client_of", "mount_config", "mounting", "pair", "serving"]


@dataclass
class Pair:
    """Both hosts, and a client between them."""

    client: Host
    server: Host
    rpc: RpcClient

    def events(self, side: str, *names: str) -> list[dict[str, Any]]:
        trace = (self.client if side == "client" else self.server).trace
        return [event for event in trace.since() if event["event"] in names]

    async def event(self, side: str, name: str, number: int = 1) -> dict[str, Any]:
        """The event `name` of that side; waits until it has happened `number` times."""
        trace = (self.client if side == "client" else self.server).trace
        arrived = trio.Event()
        with trace.subscribed(lambda event: arrived.set()):
            while len(found := self.events(side, name)) < number:
                await arrived.wait()
                arrived = trio.Event()
        return found[number - 1]


@asynccontextmanager
async def serving(
    rundir: Path, daemon: Sequence[str] | None = None, /, **changes: Any
) -> AsyncIterator[Listening]:
    """A server host. `daemon` is the command of its rpctlssd, if it is not ours."""
    config = ServerConfig(("127.0.0.1",), 0, security="tls", rundir=rundir)
    if daemon:
        changes["no_daemon"] = True
    config = replace(config, **changes)
    async with (
        boot_server(config, [Echo().service()]) as listening,
        own_daemon("server", listening.host, daemon, config.certs),
    ):
        yield listening


@asynccontextmanager
async def mounting(config: MountConfig, daemon: Sequence[str] | None = None) -> AsyncIterator[Host]:
    """A client host. `daemon` is the command of its rpctlscd, if it is not ours."""
    async with (
        boot_client(replace(config, no_daemon=True) if daemon else config) as host,
        own_daemon("client", host, daemon, config.certs),
    ):
        yield host


@asynccontextmanager
async def own_daemon(
    role: Role, host: Host, command: Sequence[str] | None, certs: Path | None
) -> AsyncIterator[None]:
    """Start somebody's daemon for the host, wait until it has registered, and end it in the end.

    The command's placeholders are those of `umktls run-daemon`, with the certificates in `certs`.
    What it says is in ROLE-daemon.log beside the run directory. Raises `WorldError` when it does
    not register.
    """
    if not command:
        yield
        return
    rundir = host.rundir.path
    log = rundir.parent / f"{role}-daemon.log"
    subject = Subject.of(command, places(role, rundir, certs or rundir), log)
    try:
        await subject.start(host, DAEMONS[role])
        yield
    finally:
        with trio.CancelScope(shield=True):
            await subject.end()


def mount_config(port: int, rundir: Path, **changes: Any) -> MountConfig:
    config = MountConfig("localhost", "/", port, rundir=rundir, daemon_seconds=OWN_DAEMON_SECONDS)
    return replace(config, **changes)


@asynccontextmanager
async def pair(
    certs: Path,
    tmp_path: Path,
    client: dict[str, Any],
    server: dict[str, Any],
    daemons: Mapping[str, Sequence[str]] | None = None,
) -> AsyncIterator[Pair]:
    """Both hosts; `daemons` has the commands of those daemons that are not ours, by role."""
    own = daemons or {}
    async with AsyncExitStack() as stack:
        listening = await stack.enter_async_context(
            serving(tmp_path / "s", own.get("server"), **{"certs": certs, **server})
        )
        config = mount_config(listening.port, tmp_path / "c", **{"certs": certs, **client})
        host = await stack.enter_async_context(mounting(config, own.get("client")))
        if config.daemon() and not own.get("client"):
            await host.daemon_ready("rpctlscd")
        nursery = await stack.enter_async_context(trio.open_nursery())
        rpc = client_of(host, config)
        nursery.start_soon(rpc.run)
        yield Pair(host, listening.host, rpc)
        nursery.cancel_scope.cancel()


def client_of(host: Host, config: MountConfig) -> RpcClient:
    async def connect() -> KernelSocket:
        return await make_connection(host, config)

    async def disconnect(sock: KernelSocket, reason: str) -> None:
        await tls.disconnect(host, sock, reason)

    async def control(sock: KernelSocket) -> None:
        await tls.handle_control(host, sock)

    return RpcClient(connect, disconnect, control, host.trace, config.deadline, config.url)
