"""Several connections for one mount, as `nconnect=` of nfs(5) has it: calls are spread over them.

Theory of operation. Each connection has an `RpcClient`, which looks after it alone: it makes it
anew when it is lost, and sends again on it what was under way. A call goes to the client that has
the fewest calls waiting, among equals in turn. Transaction ids are never the same, since a server
tells the calls of one host by them and not by the connection; so a call that is sent again is known
to it wherever it comes from.

A client that gets no connection hands its calls on (RpcClient.take_over): to one that has a
connection, and then it is left alone for REST_SECONDS; else to one that tries, so that while the
server is away one connection is tried and not all. Only that one says that the server is away.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from umktls.errors import UmktlsError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.posted import Posted
from umktls.kernel.krpc.reachable import Reachable
from umktls.kernel.krpc.rpc_client import Connector, Control, Disconnector, RpcClient
from umktls.rpc.client import new_xids
from umktls.rpc.message import NULL_AUTH, OpaqueAuth
from umktls.rpc.program import Procedure, Program

__all__ = ["Connections"]

A = TypeVar("A")
R = TypeVar("R")

# A connection that could not be made is not tried again for so long, while others are there.
REST_SECONDS = 10.0


class Connections:
    """Calls to one server over `count` connections. `run` must be running while calls are made.

    The connectors are as `RpcClient` has them.
    """

    def __init__(
        self,
        connect: Connector,
        disconnect: Disconnector,
        control: Control,
        trace: Trace,
        deadline: float,
        server: str,
        count: int = 1,
    ) -> None:
        xids, reachable = new_xids(), Reachable(trace, server)
        self.dwell = Dwell()
        self.clients: Sequence[RpcClient] = tuple(
            RpcClient(
                connect,
                disconnect,
                control,
                trace,
                deadline,
                server,
                xids=xids,
                reachable=reachable,
                relief=self._relief,
                dwell=self.dwell,
            )
            for _ in range(count)
        )
        self._turn = 0
        self._rested = dict.fromkeys(self.clients, 0.0)  # until when each is left alone

    @property
    def first(self) -> RpcClient:
        """The client whose connection is made with the mount."""
        return self.clients[0]

    def set_deadline(self, seconds: float) -> None:
        """Set the deadline of calls that are made from now on, in seconds."""
        for client in self.clients:
            client.deadline = seconds

    async def call(self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth) -> R:
        """See `RpcClient.call`."""
        return (await self._next().call_counted(procedure, argument, credential))[0]

    def call_counted(
        self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth
    ) -> Coroutine[Any, Any, tuple[R, int]]:
        """See `RpcClient.call_counted`."""
        return self._next().call_counted(procedure, argument, credential)

    def post(self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth) -> Posted[R]:
        """See `RpcClient.post`."""
        return self._next().post(procedure, argument, credential)

    async def run(self) -> None:
        """Make connections and read replies until cancelled."""
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.run)

    async def make_all(self, program: Program) -> None:
        """Have the others made too, by a call of the NULL procedure on each. Those that cannot be
        made now are made when they are wanted."""

        async def ask(client: RpcClient) -> None:
            with suppress(UmktlsError):
                await client.call(program["NULL"], None, NULL_AUTH)

        async with trio.open_nursery() as nursery:
            for client in self.clients[1:]:
                nursery.start_soon(ask, client)

    def _next(self) -> RpcClient:
        """Whose the next call is."""
        if len(self.clients) == 1:
            return self.clients[0]
        now = trio.current_time()
        self._turn = (self._turn + 1) % len(self.clients)
        in_turn = (*self.clients[self._turn :], *self.clients[: self._turn])
        ready = [client for client in in_turn if self._rested[client] <= now]
        return min(ready or in_turn, key=waiting_of)

    def _relief(self, client: RpcClient) -> RpcClient | None:
        """Who takes the calls of one that has no connection."""
        others = [other for other in self.clients if other is not client]
        connected = [other for other in others if other.socket is not None]
        if connected:
            self._rested[client] = trio.current_time() + REST_SECONDS
            return min(connected, key=waiting_of)
        before = self.clients[: self.clients.index(client)]
        return next((other for other in before if other.waiting), None)

    def facts(self) -> dict[str, Any]:
        """What `umktls stat` shows: see `RpcClient.facts`."""
        each = [client.facts() for client in self.clients]
        return {
            **each[0],
            "connected": any(one["connected"] for one in each),
            "waiting": sum(one["waiting"] for one in each),
            "waiting_seconds": max(one["waiting_seconds"] for one in each),
        }


def waiting_of(client: RpcClient) -> int:
    return client.waiting
