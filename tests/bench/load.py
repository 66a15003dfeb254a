"""A thousand clients that come at once, beside pyOpenSSL servers that do nothing but handshakes.

The server is `umktls serve` with 1, 2 and 4 rpctlssd; the baseline (tests/bench/bare.py) has as
many processes, the same certificates and the same clients (tests/bench/burst.py). All handshakes
are full and mutual. Both share the machine with their clients, so what one handshake takes of the
processors is told too, which other work on the machine does not change much.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.files import MEMORY
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

CONNECTIONS = 1000
# Connections that the clients open at a time.
WIDTH = 64
DAEMONS = (1, 2, 4)
REPETITIONS = 3
TARGET = 0.7


@dataclass(frozen=True, slots=True)
class Run:
    """One burst: handshakes per second, and CPU milliseconds per handshake by program."""

    rate: float
    cpu: dict[str, float]


# Process numbers by what they are.
Processes = dict[str, list[int]]


def measure() -> Iterator[Figure]:
    """Handshakes per second, and what they take of the processors."""
    with Sandbox("load", MEMORY if MEMORY.is_dir() else None) as sandbox:
        layout.create(sandbox.certs)
        for number in DAEMONS:
            yield from compare(sandbox, number)


def compare(sandbox: Sandbox, number: int) -> Iterator[Figure]:
    """`number` daemons beside as many bare processes, in turns."""
    ours: list[Run] = []
    bare: list[Run] = []
    for _ in range(REPETITIONS):
        ours.append(with_daemons(sandbox, number))
        bare.append(with_bare_servers(sandbox.certs, number))
    what = f"{number} rpctlssd"
    yield Figure(
        f"{CONNECTIONS} clients at once, {what}",
        statistics.median(each.rate for each in ours),
        "/s",
        f"bare pyOpenSSL x {number}",
        statistics.median(each.rate for each in bare),
        TARGET,
    )
    for program in ("host", "daemons"):
        yield cpu_figure(f"CPU per handshake in the {program}, {what}", program, ours, bare)


def cpu_figure(name: str, program: str, ours: list[Run], bare: list[Run]) -> Figure:
    """The least of several runs: other work on the machine only ever adds to it."""
    value = min(each.cpu[program] for each in ours)
    return Figure(name, value, "ms", "bare pyOpenSSL", min(each.cpu["bare"] for each in bare))


def with_daemons(sandbox: Sandbox, number: int) -> Run:
    """A burst at a new server host."""
    certs = ("--certs", str(sandbox.certs), "-tlscert")
    host, _ = sandbox.serve(*certs, "--daemons", str(number))
    try:
        daemons = [pid for pid in sandbox.processes() if pid != host.pid]
        processes = {"host": [host.pid], "daemons": daemons}
        return run(host.facts["port"], sandbox.certs, processes)
    finally:
        sandbox.stop_server()


def with_bare_servers(certs: Path, number: int) -> Run:
    """A burst at new bare processes."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        port = listener.getsockname()[1]
        started = [
            stack.enter_context(bare_server(listener.fileno(), certs)) for _ in range(number)
        ]
        return run(port, certs, {"bare": started})


@contextmanager
def bare_server(descriptor: int, certs: Path) -> Iterator[int]:
    """One bare process; its number."""
    command = [sys.executable, "-m", "tests.bench.bare", str(descriptor), str(certs)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[descriptor]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def run(port: int, certs: Path, processes: Processes) -> Run:
    """One burst against `port`. Raises `WorldError` when a connection was lost."""
    before = cpu_seconds(processes)
    with clients(port, certs, CONNECTIONS, WIDTH) as outcome:
        after = cpu_seconds(processes)
    if outcome["live"] != CONNECTIONS:
        reasons = "; ".join(sorted(set(outcome["reasons"])))
        raise WorldError(f"{CONNECTIONS - outcome['live']} connections were lost: {reasons}")
    cpu = {name: (after[name] - before[name]) / CONNECTIONS * 1000 for name in processes}
    cpu["clients"] = outcome["cpu_seconds"] / CONNECTIONS * 1000
    return Run(CONNECTIONS / outcome["seconds"], cpu)


def cpu_seconds(processes: Processes) -> dict[str, float]:
    return {name: sum(map(cpu_of, group)) for name, group in processes.items()}


def cpu_of(pid: int) -> float:
    """What a process has taken of the processors so far (proc_pid_stat(5): utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def clients(port: int, certs: Path, count: int, width: int) -> Iterator[dict[str, Any]]:
    """Inside the block the connections are open; what became of them (`burst.Outcome`)."""
    command = [sys.executable, "-m", "tests.bench.burst", str(port), str(certs)]
    with subprocess.Popen(
        [*command, str(count), str(width)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
