"""What a page of `umktls watch` costs in instructions: `make bench ONLY=looks`.

A client and a server host in one process, joined in memory, make calls of 100 bytes below
callgrind: while nobody watches; while somebody does and no step has its turn
(umktls.kernel.ground.pace); and while every step is told, made, encoded and sent. Counts change
less with what else the machine does than times, but they do: by some percent of a call. Where much
happens a host tells STEPS_PER_WINDOW in a second, so what is told costs a share of a second, and
what is not told a share of each call.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import trio

from tests.bench.callgrind import Counter, Least, heard, program
from tests.bench.figures import Figure
from umktls.kernel.ground.pace import STEPS_PER_WINDOW
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import Joined, joined

__all__ = ["measure"]

SHORT, LONG, REPETITIONS = 20, 220, 3
# Of a call, on both hosts: sent, received, answered, heard; and two records, sealed and opened.
STEPS_OF_A_CALL = 8
# What may be lost of a call.
MOST = 1.05


def measure() -> Iterator[Figure]:
    """Instructions of a call on both hosts, and of a step that is told."""
    with tempfile.TemporaryDirectory(prefix="umktls-") as place:
        costs = counted(Path(place))
    alone = costs["alone"]
    step = (costs["told"] - costs["untold"]) / STEPS_OF_A_CALL
    untold, name = costs["untold"] / 1000, "a call, a page open, not told"
    yield Figure(name, untold, "k instr.", "none open", alone / 1000, MOST, at_most=True)
    told, name = step * STEPS_PER_WINDOW / 1e6, f"{STEPS_PER_WINDOW} steps told, as each second"
    yield Figure(name, told, "M instr.", "a thousand calls of a host", alone / 2 / 1000)


def counted(place: Path) -> dict[str, float]:
    """Instructions of a call, by what is told of it."""
    command = (sys.executable, "-m", "tests.bench.looks", str(place))
    with program(command, os.environ, place, counted=True) as process:
        counter = Counter(process.pid, place)
        heard(process, "done")
        counter.start()
        return {how: one(process, counter, how) for how in ("alone", "untold", "told")}


def one(process: subprocess.Popen[str], counter: Counter, how: str) -> float:
    assert process.stdin is not None
    least = Least(SHORT, LONG)
    for times in (SHORT, *(SHORT, LONG) * REPETITIONS):
        counter.take()
        process.stdin.write(f"{how} {times}\n")
        process.stdin.flush()
        heard(process, "done")
        least.note(how, times, counter.take())
    return least.of_one(how)


# ---- the process that is counted, and who watches it


async def hosts(place: Path) -> None:
    """Make the calls that are asked for, a line each: how, and how many."""
    with ExitStack() as stack:
        async with joined(place) as both:
            print("done", flush=True)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                how, times = line.split()
                if how != "alone" and not both.client.trace.close:
                    await watched(both, stack)
                for host in (both.client, both.server):
                    host.trace.has_room = (lambda: True) if how == "told" else host.trace._pace.take
                    host.trace._pace._left, host.trace._pace._ends = 0, float("inf")
                for _ in range(int(times)):
                    await both.rpc.call(SAY, bytes(100), NULL_AUTH)
                print("done", flush=True)


async def watched(both: Joined, stack: ExitStack) -> None:
    """Have another process follow both hosts, as the server of a page does."""
    pair = (both.client, both.server)
    doors = [str(host.rundir.control_socket) for host in pair]
    command = [sys.executable, "-m", "tests.bench.looks", *doors, "follow"]
    process = await trio.to_thread.run_sync(subprocess.Popen, command)
    stack.callback(process.wait)
    stack.callback(process.kill)
    for host in pair:
        await host.trace.seen.wait()


def follow(doors: list[str]) -> None:
    """Read all that they tell, until they end."""
    request = {"op": "trace", "since": 0.0, "follow": True, "close": True}
    lines = []
    for door in doors:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(door)
        sock.sendall(json.dumps(request).encode() + b"\n")
        lines.append(sock)
    while all(sock.recv(1 << 20) for sock in select.select(lines, [], [])[0]):
        pass


if __name__ == "__main__":
    if sys.argv[-1] == "follow":
        follow(sys.argv[1:-1])
    else:
        trio.run(hosts, Path(sys.argv[1]))
