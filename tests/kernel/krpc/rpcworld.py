"""RPC in clear between two hosts in one process, over real TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from tests.conftest import patience
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.krpc.nconnect import Connections
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Listening, ServerConfig, boot_server
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import WAIT, Echo


@asynccontextmanager
async def serving(
    path: Path, echo: Echo, port: int = 0, name: str = "server"
) -> AsyncIterator[Listening]:
    config = ServerConfig(("127.0.0.1",), port, offer_tls=False, rundir=path / name)
    async with boot_server(config, [echo.service()]) as listening:
        yield listening


@asynccontextmanager
async def calling(path: Path, port: int, deadline: float = 60.0) -> AsyncIterator[RpcClient]:
    async with booted(HostConfig("client", path / "client")) as host:
        rpc = client_of(host, port, deadline)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rpc.run)
            yield rpc
            nursery.cancel_scope.cancel()


def client_of(host: Host, port: int, deadline: float) -> RpcClient:
    config = MountConfig("127.0.0.1", "/", port, security="none")

    async def connect() -> KernelSocket:
        return await make_connection(host, config)

    async def disconnect(sock: KernelSocket, reason: str) -> None:
        await tls.disconnect(host, sock, reason)

    async def control(sock: KernelSocket) -> None:
        raise AssertionError("there are no control records in clear")

    return RpcClient(connect, disconnect, control, host.trace, deadline, config.url)


@asynccontextmanager
async def held(rpc: RpcClient | Connections, echo: Echo) -> AsyncIterator[list[tuple[int, int]]]:
    """A call that the server executes until `echo.go_on` is set, which the block does; its answer
    comes into the list, with how often it was sent, before the block ends."""
    answers: list[tuple[int, int]] = []

    async def ask() -> None:
        answers.append(await rpc.call_counted(WAIT, 7, NULL_AUTH))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(echo.waiting.wait, patience(20))
        yield answers
