"""What a page of `umktls watch` costs the hosts that it shows: `make bench ONLY=watched`.

Processor time for a call, of a client host and of a server host, with a page open and without, in
turns of some seconds. Each turn with a page is compared with its neighbours without, so that what
changes slowly on the machine hits both alike; what is told is the median, and how far apart the
pairs are. Opening a page is left out: a turn begins when the first burst of steps has been told. A
page is a feed with a listener in a process of its own, as the server of the page has it; the
browser costs the hosts nothing. With none open it is a look at a flag for each call, which
`instructions` has in its counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from tests.bench.callgrind import heard
from tests.bench.figures import Figure, Median
from tests.bench.underload import Load, served, under_load
from umktls.cli.control import Host as Remote
from umktls.errors import WorldError
from umktls.kernel.ground.pace import WINDOW_SECONDS
from umktls.kernel.krpc.client import MountConfig
from umktls.watch.feed import Feed, Message

__all__ = ["measure"]

CONNECTIONS = 4
WARM_CALLS = 4000
# Whole windows of the pace, in each of which so many steps are told: a turn of so many calls would
# have more of them in it, or fewer, by chance.
TURN_SECONDS = 3 * WINDOW_SECONDS
PAIRS = 9
# A page has to leave so much of a host's speed.
TARGET = 0.95


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds for a call, of each host."""

    client: float
    server: float


def measure() -> Iterator[Figure]:
    """What is left of each host's speed while a page is open, and what that costs for a call."""
    with served("watched") as (config, server):
        base = config.rundir.parent if config.rundir is not None else Path()
        alone, shown = trio.run(compare, config, server, base)
    for side in ("client", "server"):
        pairs = neighbours(
            [getattr(each, side) for each in alone], [getattr(each, side) for each in shown]
        )
        left = Median([without / with_page for without, with_page in pairs])
        added = Median([(with_page - without) * 1e6 for without, with_page in pairs])
        usual = Median([without * 1e6 for without, _ in pairs])
        yield Figure(f"speed of the {side}'s host, a page open", left, "", "none open", 1.0, TARGET)
        yield Figure(
            f"added to a call of the {side}'s host by a page",
            added,
            "us",
            "a call, none open",
            usual,
        )


def neighbours(alone: Sequence[float], shown: Sequence[float]) -> list[tuple[float, float]]:
    """Each turn with a page, behind the mean of those without on both sides of it."""
    return [
        ((before + behind) / 2, each)
        for before, each, behind in zip(alone, shown, alone[1:], strict=False)
    ]


async def compare(
    config: MountConfig, server: Remote, base: Path
) -> tuple[list[Spent], list[Spent]]:
    """Alone and shown, in turns; alone first and last."""
    shown: list[Spent] = []
    async with under_load(config, CONNECTIONS) as (_, load):
        await load.until(WARM_CALLS)
        alone = [await spent(load, server)]
        for _ in range(PAIRS):
            async with page_open(base):
                shown.append(await spent(load, server))
            alone.append(await spent(load, server))
    if load.failed:
        raise WorldError(f"{len(load.failed)} calls failed: {load.failed[0]}")
    return alone, shown


async def spent(load: Load, server: Remote) -> Spent:
    """What the calls of the next seconds take."""
    calls, ours, theirs = load.calls, time.process_time(), cpu_of(server.pid)
    with trio.move_on_after(TURN_SECONDS):
        await load.until(sys.maxsize)
    client, server_, made = time.process_time(), cpu_of(server.pid), load.calls - calls
    return Spent((client - ours) / made, (server_ - theirs) / made)


def cpu_of(pid: int) -> float:
    """Processor seconds of a process so far, proc_pid_schedstat(5) of its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@asynccontextmanager
async def page_open(base: Path) -> AsyncIterator[None]:
    """Somebody looks at all hosts below `base` while the block runs."""
    command = [sys.executable, "-m", "tests.bench.watched", str(base)]
    pipes = partial(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    process = await trio.to_thread.run_sync(pipes)
    try:
        await trio.to_thread.run_sync(heard, process, "open")
        yield
    finally:
        process.kill()
        process.communicate()


async def look(base: Path) -> None:
    """Listen as a page does, for ever. It is open when the hosts skip steps: the first, of which
    there are more, have been told."""
    feed = Feed(since=time.time(), base=base)
    with feed.listening() as messages:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            await burst_over(messages)
            print("open", flush=True)
            async for _ in messages:
                pass


async def burst_over(messages: trio.MemoryReceiveChannel[Message]) -> None:
    """Wait until both hosts have skipped steps."""
    sides = set()
    async for message in messages:
        events = message.get("events", ())
        sides |= {event["side"] for event in events if "skipped" in event}
        if len(sides) == 2:
            return


if __name__ == "__main__":
    trio.run(look, Path(sys.argv[1]))
