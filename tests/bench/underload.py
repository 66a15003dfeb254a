"""Mounts of one client host that make calls all the time, for what is to be done to them meanwhile.

The client host is in this process; the server host and all daemons are not. Each connection makes
one call after the other.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import trio

from tests.bench.files import MEMORY
from umktls.certs import layout
from umktls.cli.control import Host as Remote
from umktls.cli.sandbox import Sandbox
from umktls.errors import UmktlsError
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, NfsClient, boot_client, mounted
from umktls.nfs.program import NFS3
from umktls.nfs.types import GETATTR3args
from umktls.rpc.message import NULL_AUTH

__all__ = ["Load", "served", "under_load"]


class Load:
    """Calls on many connections, until `over`. `calls` counts them, `failed` says why some did."""

    def __init__(self) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self.over = False
        self._wanted = 0
        self._made = trio.Event()
        self._slowest = 0.0

    def slowest_so_far(self) -> float:
        """Seconds of the slowest call since this was asked last."""
        slowest, self._slowest = self._slowest, 0.0
        return slowest

    async def until(self, calls: int) -> None:
        """Wait until so many have been made."""
        if self.calls < calls:
            self._wanted, self._made = calls, trio.Event()
            await self._made.wait()

    async def call_on(self, client: NfsClient) -> None:
        """One call after the other."""
        argument = GETATTR3args(client.root)
        while not self.over:
            began = time.perf_counter()
            try:
                await client.call(NFS3["GETATTR"], argument, NULL_AUTH)
            except UmktlsError as error:
                self.failed.append(str(error))
            self.calls += 1
            self._slowest = max(self._slowest, time.perf_counter() - began)
            if self.calls == self._wanted:
                self._made.set()


@contextmanager
def served(name: str, *options: str) -> Iterator[tuple[MountConfig, Remote]]:
    """A server host with certificates, and how to mount from it with mutual TLS."""
    with Sandbox(name, MEMORY if MEMORY.is_dir() else None) as sandbox:
        layout.create(sandbox.certs)
        server, _ = sandbox.serve("--certs", str(sandbox.certs), "--insecure", *options)
        config = MountConfig(
            server="127.0.0.1",
            export=str(sandbox.export),
            port=int(server.facts["port"]),
            security="mtls",
            certs=sandbox.certs,
            rundir=sandbox.run / name,
        )
        yield config, server


@asynccontextmanager
async def under_load(config: MountConfig, connections: int) -> AsyncIterator[tuple[Host, Load]]:
    """A client host with so many mounts, all of which make calls inside the block."""
    load = Load()
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(boot_client(config))
        clients = [
            await stack.enter_async_context(mounted(host, config)) for _ in range(connections)
        ]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(load.call_on, client)
            yield host, load
            load.over = True
