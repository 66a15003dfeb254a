"""Two hosts that talk, each by an engine of its own."""

from __future__ import annotations

from typing import Any

from umktls.kernel.host.host import Host
from umktls.ktls.engines.choice import parse_engines
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import Pair

TICKETS = 2


def engine(text: str, **more: Any) -> dict[str, Any]:
    return {"engine": parse_engines(text), **more}


def halves(host: Host) -> tuple[tuple[str, str], tuple[str, str]]:
    """(engine, mode) of the newest connection's two directions."""
    connection = host.stat()["connections"][-1]
    tx, rx = connection["tx"], connection["rx"]
    return (tx["engine"], tx["mode"]), (rx["engine"], rx["mode"])


async def talk(both: Pair, number: int, size: int, times: int) -> None:
    for turn in range(times):
        data = bytes([number, turn]) * (size // 2)
        assert await both.rpc.call(SAY, data, NULL_AUTH) == data
