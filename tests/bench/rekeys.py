"""Connections that are kept under RPC load while both sides renew their keys again and again.

In each round both are asked for new keys of all connections at the same time, and one side need not
renew what the other has just renewed; the next round begins some calls later.
As many calls are made meanwhile as before, so that the slowest of each time is out of as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio

from tests.bench.figures import Figure
from tests.bench.underload import served, under_load
from umktls.cli.control import Host as Remote
from umktls.kernel.ground import hostclock
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig

__all__ = ["ROUNDS", "Outcome", "run"]

# Connections, and calls on each: as many again are made while keys are renewed. One shows how long
# its calls have to wait; many keep the processors from the daemons too.
SIZES = ((1, 4000), (20, 1000))
ROUNDS = 10


@dataclass(slots=True)
class Outcome:
    """What became of the calls. `renewed` says how many new keys each side has told of; `anew` are
    connections that had to be made again. Seconds are those of the slowest call: before, and while
    keys were renewed."""

    renewed: dict[str, int] = field(default_factory=lambda: {"client": 0, "server": 0})
    calls: int = 0
    failed: list[str] = field(default_factory=list)
    anew: int = 0
    undisturbed: float = 0.0
    renewing: float = 0.0


def measure() -> Iterator[Figure]:
    """Failed calls, and the slowest one."""
    for connections, calls in SIZES:
        yield from figures(connections, run(connections, calls))


def figures(connections: int, outcome: Outcome) -> Iterator[Figure]:
    several = "" if connections == 1 else "s"
    what = f"{connections} connection{several}, new keys {sum(outcome.renewed.values())} times"
    failed = float(len(outcome.failed))
    yield Figure(f"RPCs that failed, {what}", failed, "", "RPCs", outcome.calls, 0, at_most=True)
    slowest, before = outcome.renewing * 1000, outcome.undisturbed * 1000
    yield Figure("slowest RPC, the same", slowest, "ms", "before all that", before)


def run(connections: int, calls: int) -> Outcome:
    """So many connections, and so many calls on each for both times. Raises `UmktlsError`."""
    with served("rekeys") as (config, server):
        return hostclock.run(measure_rekeys, config, server, connections, calls * connections)


async def measure_rekeys(
    config: MountConfig, server: Remote, connections: int, calls: int
) -> Outcome:
    outcome = Outcome()
    async with under_load(config, connections) as (host, load):
        await load.until(calls)
        outcome.undisturbed = load.slowest_so_far()
        for number in range(ROUNDS):
            await renew(host, server, outcome)
            await load.until(calls + calls * (number + 1) // ROUNDS)
        outcome.renewing = load.slowest_so_far()
        outcome.anew = host.totals["connections"] - connections
    outcome.calls, outcome.failed = load.calls, load.failed
    return outcome


async def renew(host: Host, server: Remote, outcome: Outcome) -> None:
    """New keys for all connections, from both sides at the same time."""

    async def from_client() -> None:
        outcome.renewed["client"] += (await host.renew(None, "keyupdate"))["rekeyed"]

    async def from_server() -> None:
        outcome.renewed["server"] += await trio.to_thread.run_sync(server.rekey)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(from_client)
        nursery.start_soon(from_server)
