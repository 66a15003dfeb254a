"""What a page of `umktls watch` costs the hosts that it shows: `make bench ONLY=watched`.

Processor time of a client host and of a server host for the same calls, with a page open and
without, in turns. So many steps are told in a second, however many calls are made in it: what is
lost is the share of a processor that the page's part takes, which is that of its speed for a host
that has nothing else to wait for. A page is a feed with a listener in a process of its own, as the
server of the page has it; the browser costs the hosts nothing. With none open it is a look at a
flag for each call, which `instructions` has in its counts.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from tests.bench.figures import Figure, Median
from tests.bench.underload import Load, served, under_load
from umktls.cli.control import Host as Remote
from umktls.errors import WorldError
from umktls.kernel.krpc.client import MountConfig
from umktls.watch.feed import Feed

__all__ = ["measure"]

CONNECTIONS = 4
# Calls between two looks at the processor time, and how many such pairs.
CALLS = 4000
PAIRS = 5
# A page has to leave so much of a host's speed.
TARGET = 0.95
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds per call, of each host, and how many were made in a second."""

    client: float
    server: float
    rate: float


def measure() -> Iterator[Figure]:
    """What is left of each host's speed while a page is open."""
    with served("watched") as (config, server):
        base = config.rundir.parent if config.rundir is not None else Path()
        alone, shown = trio.run(compare, config, server, base)
    for side in ("client", "server"):
        name = f"speed of the {side}'s host, a page open"
        yield Figure(name, left_of(side, alone, shown), "", "none open", 1.0, TARGET)


def left_of(side: str, alone: Sequence[Spent], shown: Sequence[Spent]) -> Median:
    """One for each turn. Other work on the machine only ever adds: the least is what it costs
    alone."""
    without = min(getattr(each, side) for each in alone)
    return Median([1.0 - (getattr(each, side) - without) * each.rate for each in shown])


async def compare(
    config: MountConfig, server: Remote, base: Path
) -> tuple[list[Spent], list[Spent]]:
    """Alone and shown, in turns."""
    alone: list[Spent] = []
    shown: list[Spent] = []
    async with under_load(config, CONNECTIONS) as (_, load):
        await load.until(CALLS)  # everything is warm
        for _ in range(PAIRS):
            alone.append(await spent(load, server))
            async with page_open(base):
                await load.until(load.calls + CALLS // 2)  # the first steps are told in a burst
                shown.append(await spent(load, server))
    if load.failed:
        raise WorldError(f"{len(load.failed)} calls failed: {load.failed[0]}")
    return alone, shown


async def spent(load: Load, server: Remote) -> Spent:
    """What the next calls take."""
    calls, began = load.calls, time.monotonic()
    ours, theirs = time.process_time(), cpu_of(server.pid)
    await load.until(calls + CALLS)
    made = load.calls - calls
    client, server_ = time.process_time() - ours, cpu_of(server.pid) - theirs
    return Spent(client / made, server_ / made, made / (time.monotonic() - began))


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
        if await trio.to_thread.run_sync(first_line, process) != "open\n":
            raise WorldError("the page did not open")
        yield
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    return process.stdout.readline() if readable else ""


async def look(base: Path) -> None:
    """Listen as a page does, for ever."""
    feed = Feed(since=time.time(), base=base)
    with feed.listening() as messages:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            sides = set()
            async for message in messages:
                for event in message.get("events", ()):
                    sides.add(event["side"])
                if len(sides) == 2:
                    print("open", flush=True)
                    sides.add("told")


if __name__ == "__main__":
    trio.run(look, Path(sys.argv[1]))
