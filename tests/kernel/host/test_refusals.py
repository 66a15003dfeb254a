"""The world refuses what a host needs: the host goes on, says so, and is as before afterwards."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel.host.refusing import Place, Refusing
from umktls.errors import UmktlsError
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, boot_client
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.rpc.message import AuthSys
from umktls.testing.echo import COUNT, SAY, SLOW
from umktls.testing.hosts import client_of, mount_config, serving
from umktls.testing.played import Refused
from umktls.testing.standin import StandIn

CREDENTIAL = AuthSys(0, b"", 0, 0, ()).to_opaque()
# What is refused may cost a deadline: where nothing has happened for so long (real seconds), time
# goes on to the next moment for which anybody waits.
IDLE_SECONDS = 0.01
ROUND_SECONDS = 200.0


@dataclass
class World:
    """Two hosts, played daemons that come back, and a client that stays connected."""

    server: Host
    client: Host
    rpc: RpcClient
    config: MountConfig

    async def round(self) -> None:
        """All that a host does: calls on an old connection and a new one, a thread's work, what
        the control socket answers, new keys, the end of a connection."""
        assert await self.rpc.call(SAY, b"old", CREDENTIAL) == b"old"
        assert await self.rpc.call(SLOW, 7, CREDENTIAL) == 7
        await self.rpc.call(COUNT, 7, CREDENTIAL)
        other = client_of(self.client, self.config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.run)
            assert await other.call(SAY, b"new", CREDENTIAL) == b"new"
            nursery.cancel_scope.cancel()
        for host in (self.server, self.client):
            assert "schema" in await ask(host, {"op": "stat"})
            assert "error" not in await ask(host, {"op": "rekey"})

    async def calm(self) -> None:
        """Wait for the daemons to be there again."""
        for host, name in ((self.server, "rpctlssd"), (self.client, "rpctlscd")):
            await host.daemon_ready(name)


async def ask(host: Host, request: dict[str, Any]) -> Any:
    stream = await trio.open_unix_socket(str(host.rundir.control_socket))
    async with stream:
        await stream.send_all(json.dumps(request).encode() + b"\n")
        answer = b"".join([bytes(chunk) async for chunk in stream])
    return json.loads(answer or b'{"error": "no answer"}')


async def keep_alive(daemon: StandIn) -> None:
    """It is no better than most programs: what it is refused ends it."""
    while True:
        try:
            await daemon.run()
        except* (Refused, OSError, UmktlsError, EOFError, trio.BrokenResourceError):
            pass
        await trio.lowlevel.checkpoint()  # the others' turn, before it is started again


@asynccontextmanager
async def world(base: Path) -> AsyncIterator[World]:
    async with serving(base / "s", no_daemon=True, upcall_seconds=5.0) as listening:
        config = mount_config(
            listening.port,
            base / "c",
            no_daemon=True,
            deadline=10.0,
            upcall_seconds=5.0,
            probe_seconds=5.0,
        )
        async with boot_client(config) as client, trio.open_nursery() as nursery:
            rpc = client_of(client, config)
            w = World(listening.host, client, rpc, config)
            for role, host in (("server", w.server), ("client", w.client)):
                nursery.start_soon(keep_alive, StandIn(role, host.rundir.path))  # type: ignore[arg-type]
            await w.calm()
            nursery.start_soon(rpc.run)
            yield w
            nursery.cancel_scope.cancel()


async def try_round(w: World) -> None:
    """A round in which something may fail, as long as it fails for whoever asked."""
    with trio.move_on_after(ROUND_SECONDS):
        try:
            await w.round()
        except* (UmktlsError, OSError, AssertionError, ValueError, trio.BrokenResourceError):
            pass


@pytest.mark.long
def test_each_call_of_a_running_host_fails_in_turn(tmp_path: Path) -> None:
    refusing = Refusing()

    async def run() -> None:
        async with world(tmp_path) as w:
            await w.round()
            with refusing.recording():
                await w.round()
            for place in list(refusing.places):
                await refuse(w, place)

    async def refuse(w: World, place: Place) -> None:
        with refusing.at(place):
            await try_round(w)
        try:
            with trio.fail_after(ROUND_SECONDS):
                await w.calm()
                await w.round()
        except BaseException as error:
            error.add_note(f"after {place}")
            raise

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=IDLE_SECONDS))
    gc.collect()  # a socket that was lost on the way is a warning, and so an error
    assert refusing.refused > len(refusing.places) // 2
