"""Daemons that are killed, by engine: sessions that are all in the kernel go on, others do not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from umktls.ktls.engines.choice import parse_engines
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT
from umktls.testing.hosts import Pair, pair


def kill_daemon(both: Pair, side: str) -> None:
    host = both.client if side == "client" else both.server
    (daemon,) = host.stat()["daemons"]
    os.kill(daemon["pid"], signal.SIGKILL)


@pytest.mark.parametrize("engine", ["software", "ifnet", "toe"])
async def test_what_the_kernel_has_goes_on(certs: Path, tmp_path: Path, engine: str) -> None:
    options = {"engine": parse_engines(engine)}
    with trio.fail_after(patience(40)):
        async with pair(certs, tmp_path, options, options) as both:
            assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 1
            for side in ("client", "server"):
                kill_daemon(both, side)
                await both.event(side, "orphaned")
            assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 2
            for side in ("client", "server"):
                await both.event(side, "adopted")
            for number, host in enumerate((both.client, both.server), start=3):
                assert await host.rekey(None) == 1
                assert await both.rpc.call(COUNT, 0, NULL_AUTH) == number
            assert both.client.totals["connections"] == 1
            both.rpc.socket.shutdown(0)  # type: ignore[union-attr]
            assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 5
            alert = await both.event("server", "alert")
    assert alert["description"] == "close_notify"


@pytest.mark.parametrize(
    ("side", "engine"),
    [
        ("client", "bounce"),
        ("client", "tx=software,rx=bounce"),
        ("server", "tx=bounce,rx=software"),
    ],
)
async def test_what_the_daemon_has_is_made_anew(
    certs: Path, tmp_path: Path, side: str, engine: str
) -> None:
    options = {side: {"engine": parse_engines(engine)}}
    with trio.fail_after(patience(40)):
        async with pair(
            certs, tmp_path, options.get("client", {}), options.get("server", {})
        ) as both:
            assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 1
            kill_daemon(both, side)
            for end in ("client", "server"):
                await both.event(end, "closed")
            await both.event(side, "daemon-registered", 2)
            assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 2
            assert both.client.totals["connections"] == 2
