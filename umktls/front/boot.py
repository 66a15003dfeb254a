"""A front comes up: a server host whose connections are carried to backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Any

from umktls.dataclass import dataclass
from umktls.front.backends import DEFAULT_POLICY, Backends, Connect, Policy, Server
from umktls.front.carried import Carried
from umktls.front.clients import Clients
from umktls.front.through import Stock
from umktls.kernel.krpc import tcpconnect
from umktls.kernel.krpc.serverhost import Listening, ServerConfig, boot_listening
from umktls.kernel.sockets.ktls_socket import KernelSocket

__all__ = ["Front", "FrontConfig", "boot_front"]


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """What a front carries, and where to.

    policy: how backends are used.
    mount_tls: whether MOUNT, too, is only for those who are let in.
    connect: how backends are reached.
    """

    servers: Sequence[Server]
    clients: Clients
    policy: Policy = DEFAULT_POLICY
    mount_tls: bool = False
    connect: Connect = tcpconnect.connect


@dataclass(slots=True)
class Front:
    """What all connections of a front have in common."""

    clients: Clients
    backends: Backends
    mount_tls: bool
    offer_tls: bool
    stock: Stock = field(default_factory=Stock)
    carried: set[Carried] = field(default_factory=set)

    def set_clients(self, clients: Clients) -> None:
        """Let these clients in from now on, and end the connections of those that may not come in
        any more."""
        self.clients = clients
        for connection in tuple(self.carried):
            connection.look_again()


@asynccontextmanager
async def boot_front(
    config: ServerConfig, what: FrontConfig
) -> AsyncIterator[tuple[Listening, Front]]:
    """A front inside the block. Raises `UmktlsError` when it cannot come up."""
    fronts: list[Front] = []

    async def attend(listening: Listening, sock: KernelSocket, address: tuple[Any, ...]) -> None:
        front = fronts[0]
        connection = Carried(listening.host, sock, address, front)
        front.carried.add(connection)
        try:
            with listening.admission.present(connection):
                await connection.serve()
        finally:
            front.carried.discard(connection)

    async with boot_listening(config, attend) as listening:
        host = listening.host
        backends = Backends(what.servers, what.policy, host.trace, what.connect)
        front = Front(what.clients, backends, what.mount_tls, config.offer_tls)
        fronts.append(front)
        host.views["backends"] = backends.view
        host.spawn(backends.watch)
        yield listening, front
