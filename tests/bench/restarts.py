"""Connections that are kept under RPC load while all daemons are killed, each in its turn.

The next daemon is killed when the sessions of the one before have been adopted; at the end all keys
are renewed, so that every session needs its new daemons.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.bench.figures import Figure
from tests.bench.underload import Load, served, under_load
from umktls.cli.control import Host as Remote
from umktls.errors import WorldError
from umktls.kernel.ground import hostclock
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig

__all__ = ["Outcome", "run"]

CONNECTIONS = 200
DAEMONS = 2  # rpctlssd; with the client's there are three to be killed
LOOK_AGAIN_CALLS = 100
UNDISTURBED_CALLS = 20  # per connection
# A daemon that was killed has to be there again after so many seconds.
PATIENCE = 60.0


# What a host's control socket tells.
Stat = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(slots=True)
class Outcome:
    """What became of the calls. `anew` are connections that had to be made again, `renewed` those
    that got new keys. Seconds are those of the slowest call: before the first daemon was killed,
    until the last one was replaced, and while all keys were renewed."""

    calls: int = 0
    failed: list[str] = field(default_factory=list)
    killed: int = 0
    anew: int = 0
    renewed: int = 0
    undisturbed: float = 0.0
    killing: float = 0.0
    renewing: float = 0.0


def measure() -> Iterator[Figure]:
    """Failed calls, connections made anew, and the slowest call."""
    outcome = run(CONNECTIONS)
    what = f"{CONNECTIONS} connections, {outcome.killed} daemons killed in turn"
    failed, anew = float(len(outcome.failed)), float(outcome.anew)
    yield Figure(f"RPCs that failed, {what}", failed, "", "RPCs", outcome.calls, 0, at_most=True)
    yield Figure("connections made anew, the same", anew, "", "all", CONNECTIONS, 0, at_most=True)
    before = outcome.undisturbed * 1000
    for name, seconds in (("the same", outcome.killing), ("then new keys", outcome.renewing)):
        yield Figure(f"slowest RPC, {name}", seconds * 1000, "ms", "before all that", before)


def run(connections: int) -> Outcome:
    """So many connections, and all daemons killed once. Raises `UmktlsError`."""
    with served("restarts", "--daemons", str(DAEMONS)) as (config, server):
        return hostclock.run(measure_restarts, config, server, connections)


async def measure_restarts(config: MountConfig, server: Remote, connections: int) -> Outcome:
    outcome = Outcome()
    async with under_load(config, connections) as (host, load):
        await load.until(UNDISTURBED_CALLS * connections)
        outcome.undisturbed = load.slowest_so_far()
        await kill_all(host, server, load, outcome)
        outcome.killing = load.slowest_so_far()
        outcome.renewed = await host.rekey(None)
        outcome.renewing = load.slowest_so_far()
        outcome.anew = host.totals["connections"] - connections
    outcome.calls, outcome.failed = load.calls, load.failed
    return outcome


async def kill_all(host: Host, server: Remote, load: Load, outcome: Outcome) -> None:
    """Kill each daemon of the client and of the server, and wait for the next one each time."""

    async def of_client() -> dict[str, Any]:
        return host.stat()

    async def of_server() -> dict[str, Any]:
        return await trio.to_thread.run_sync(server.stat)

    for stat in (of_client, of_server):
        daemons = (await stat())["daemons"]
        for daemon in daemons:
            os.kill(daemon["pid"], signal.SIGKILL)
            outcome.killed += 1
            await recovered(stat, daemon["pid"], len(daemons), load)


async def recovered(stat: Stat, killed: int, daemons: int, load: Load) -> None:
    """Wait until another daemon is there and all sessions have one: look after some calls each."""
    with trio.move_on_after(PATIENCE):
        while True:
            state = await stat()
            pids = [daemon["pid"] for daemon in state["daemons"]]
            orphans = [one for one in state["connections"] if one["daemon"] == "orphan"]
            if len(pids) == daemons and killed not in pids and not orphans:
                return
            await load.until(load.calls + LOOK_AGAIN_CALLS)
    raise WorldError(f"{len(orphans)} sessions have no daemon after {PATIENCE:g} s")
