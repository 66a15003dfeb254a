"""Two hosts with played agents of Linux's handshake upcall, and RPC between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.kernel.clientworld import World
from umktls.abi.personality import PERSONALITIES
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.krpc.client import MountConfig
from umktls.rpc.server import Dispatcher
from umktls.testing.agent import AgentEnd, AgentStandIn
from umktls.testing.echo import Echo
from umktls.testing.hosts import Pair
from umktls.testing.joined import client_of
from umktls.testing.wire import Wire

__all__ = ["AgentPair", "agent_of", "agents"]


@dataclass
class AgentPair(Pair):
    """Both hosts with their agents, and the wire between them."""

    wire: Wire
    client_agent: AgentStandIn
    server_agent: AgentStandIn
    nursery: trio.Nursery


@asynccontextmanager
async def agents(
    base: Path, personality: str = "linux", *, security: str = "tls", **config: Any
) -> AsyncIterator[AgentPair]:
    """`config` is of both hosts."""
    chosen = PERSONALITIES[personality]
    async with (
        booted(HostConfig("client", base / "c", chosen, **config)) as client,
        booted(HostConfig("server", base / "s", chosen, **config)) as server,
        trio.open_nursery() as nursery,
    ):
        played = (
            AgentStandIn("client", client.rundir.path),
            AgentStandIn("server", server.rundir.path),
        )
        for agent in played:
            await nursery.start(agent.run)
        mount = MountConfig("nfs.example", "/", security=security)
        wire = Wire()
        dispatcher = Dispatcher([Echo().service()])
        rpc = client_of(client, server, mount, dispatcher, wire, nursery)
        nursery.start_soon(rpc.run)
        yield AgentPair(client, server, rpc, wire, *played, nursery)
        nursery.cancel_scope.cancel()


async def agent_of(w: World, *, member: bool = True) -> AgentEnd:
    """A netlink socket of the world's process, a member of the group or not."""
    end = await AgentEnd.create(w.calls, member=member)
    w.cleanup.callback(end.close)
    return end
