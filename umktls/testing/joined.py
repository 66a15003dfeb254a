"""A client host and a server host in one event loop, joined in memory: for virtual clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.dataclass import dataclass
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.connecting import secure
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Connection
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.rpc.server import Dispatcher, Service
from umktls.testing.echo import Echo
from umktls.testing.hosts import Pair
from umktls.testing.standin import StandIn
from umktls.testing.wire import Wire

__all__ = ["Joined", "joined"]


@dataclass
class Joined(Pair):
    """Both hosts with their played daemons, and the wire between them."""

    wire: Wire
    client_daemon: StandIn
    server_daemon: StandIn
    nursery: trio.Nursery

    def daemon(self, side: str) -> StandIn:
        return self.client_daemon if side == "client" else self.server_daemon

    async def kill(self, side: str) -> None:
        """Kill a side's daemon, and wait until its host knows."""
        number = len(self.events(side, "daemon-unregistered")) + 1
        self.daemon(side).kill()
        await self.event(side, "daemon-unregistered", number)

    async def restart(self, side: str) -> None:
        """Start it again."""
        await self.nursery.start(self.daemon(side).run)


@asynccontextmanager
async def joined(
    base: Path,
    services: Sequence[Service] | None = None,
    *,
    security: str = "tls",
    deadline: float = 60.0,
    upcall_seconds: float | None = None,
    deposits: bool = False,
    client: Personality = DEFAULT_PERSONALITY,
    server: Personality = DEFAULT_PERSONALITY,
    rundirs: Mapping[str, Path] | None = None,
) -> AsyncIterator[Joined]:
    """Two hosts below `base`, a directory with a short path, and RPC between them.

    deadline: of each call, in seconds. upcall_seconds: of each upcall; None: the personality's.
    deposits: of both daemons. client, server: which kernel each host emulates. rundirs: theirs, by
    role, if they are not below `base`.
    """
    personalities = {"client": client, "server": server}
    places = rundirs or {role: base / role[0] for role in personalities}
    async with AsyncExitStack() as stack:
        hosts = {
            role: await stack.enter_async_context(
                booted(HostConfig(role, places[role], personality, upcall_seconds=upcall_seconds))
            )
            for role, personality in personalities.items()
        }
        nursery = await stack.enter_async_context(trio.open_nursery())
        client_daemon = StandIn("client", hosts["client"].rundir.path, deposits=deposits)
        server_daemon = StandIn("server", hosts["server"].rundir.path, deposits=deposits)
        for daemon in (client_daemon, server_daemon):
            await nursery.start(daemon.run)
        dispatcher = Dispatcher(services or [Echo().service()])
        config = MountConfig("localhost", "/", security=security, deadline=deadline)
        wire = Wire()
        rpc = client_of(hosts["client"], hosts["server"], config, dispatcher, wire, nursery)
        nursery.start_soon(rpc.run)
        daemons = client_daemon, server_daemon
        yield Joined(hosts["client"], hosts["server"], rpc, wire, *daemons, nursery)
        nursery.cancel_scope.cancel()


def client_of(
    client: Host,
    server: Host,
    config: MountConfig,
    dispatcher: Dispatcher,
    wire: Wire,
    nursery: trio.Nursery,
) -> RpcClient:
    """An RPC client whose connections lead over the wire to the server."""

    async def connect() -> KernelSocket:
        near, far = wire.connect(nursery)
        accepted = server.adopt(far, config.security)
        server.trace.emit("tcp-accept", accepted.name, peer=accepted.peer)
        nursery.start_soon(Connection(server, accepted, ()).serve, dispatcher, True)
        sock = client.adopt(near, config.security, config.server)
        client.trace.emit("tcp-connect", sock.name, peer=sock.peer, local=sock.local)
        await secure(client, sock, config)
        return sock

    async def disconnect(sock: KernelSocket, reason: str) -> None:
        await tls.disconnect(client, sock, reason)

    async def control(sock: KernelSocket) -> None:
        await tls.handle_control(client, sock)

    return RpcClient(connect, disconnect, control, client.trace, config.deadline, "the server")
