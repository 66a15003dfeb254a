"""How long a mount takes to come up, and how much memory its two processes have then.

The baselines are the goals, and two Pythons that have only imported the libraries that a mount
cannot do without: trio, pyfuse3 and ciphers in its host, pyOpenSSL in its daemon.

Resident memory counts twice what the two share, such as the code of Python. Proportional memory
counts of each page a share for each process that has it, here the server's too. Private memory is
what nobody else has: what one more mount costs a machine.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from tests.bench.figures import Figure, Median
from tests.bench.files import MEMORY
from umktls.certs import layout
from umktls.cli.sandbox import START_SECONDS, Sandbox
from umktls.errors import WorldError

__all__ = ["Memory", "Start", "bare", "figures", "measure"]

STARTS = 9
GOAL_MS, GOAL_MIB = 600.0, 45.0
LIBRARIES = (
    "import trio, pyfuse3, cryptography.hazmat.primitives.ciphers.aead",
    "import OpenSSL.SSL",
)
HOLD = "print(flush=True); input()"


class Memory(NamedTuple):
    """Of several processes together, in MiB."""

    resident: float
    proportional: float
    private: float

    @classmethod
    def of(cls, *pids: int) -> Memory:
        every = [psutil.Process(pid).memory_full_info() for pid in pids]
        sums = (sum(getattr(each, name) for each in every) for name in ("rss", "pss", "uss"))
        return cls(*(total / 1024**2 for total in sums))


class Start(NamedTuple):
    """Seconds, those of processors, and memory."""

    seconds: float
    cpu: float
    memory: Memory


ROWS: tuple[tuple[str, str, float | None, Callable[[Start], float]], ...] = (
    ("start of a mount, mtls", "ms", GOAL_MS, lambda start: 1000 * start.seconds),
    ("processor time of a start", "ms", None, lambda start: 1000 * start.cpu),
    ("resident memory of a mount", "MiB", GOAL_MIB, lambda start: start.memory.resident),
    ("proportional memory of a mount", "MiB", GOAL_MIB, lambda start: start.memory.proportional),
    ("private memory of a mount", "MiB", None, lambda start: start.memory.private),
)


def measure() -> Iterator[Figure]:
    """Mounts of one server, one after another, each beside its libraries alone."""
    ours, theirs = [], []
    with Sandbox("bench", MEMORY if MEMORY.is_dir() else None) as sandbox:
        layout.create(sandbox.certs)
        certs = ("--certs", str(sandbox.certs))
        server, _ = sandbox.serve(*certs, "--insecure")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        for _ in range(STARTS):
            ours.append(started(sandbox, [source, str(sandbox.mountpoint), *certs, "-o", "mtls"]))
            theirs.append(bare())
    yield from figures(ours, theirs)


def figures(ours: Sequence[Start], theirs: Sequence[Start]) -> Iterator[Figure]:
    """Each row beside its goal, if it has one, and beside the libraries alone."""
    for name, unit, goal, of in ROWS:
        value = Median([of(each) for each in ours])
        if goal is not None:
            yield Figure(name, value, unit, "goal", goal, 1.0, at_most=True)
        bare_value = Median([of(each) for each in theirs])
        yield Figure(f"{name}, against bare libraries", value, unit, "bare", bare_value)


def started(sandbox: Sandbox, arguments: list[str]) -> Start:
    """A mount that comes up, and ends. Raises `UmktlsError`."""
    before, waited = time.monotonic(), waited_for()
    sandbox.command(["mount", *arguments], START_SECONDS)
    seconds, cpu = time.monotonic() - before, waited_for() - waited
    pids = host_and_daemon(sandbox)
    start = Start(seconds, cpu + sum(map(own_time, pids)), Memory.of(*pids))
    sandbox.unmount()
    return start


def host_and_daemon(sandbox: Sandbox) -> list[int]:
    for host in sandbox.hosts():
        if host.facts.get("role") == "client":
            return [host.pid, *(child.pid for child in psutil.Process(host.pid).children())]
    raise WorldError(f"`umktls mount` succeeded, but no client host runs below {sandbox.run}")


def waited_for() -> float:
    """Seconds of processors that those of our children took who have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own_time(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def bare() -> Start:
    """Two Pythons that start side by side, with the libraries and nothing else."""
    before = time.monotonic()
    with ExitStack() as stack:
        pids = []
        processes = [python(stack, f"{line}; {HOLD}") for line in LIBRARIES]
        for process in processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise WorldError(f"a library of a mount cannot be imported by {sys.executable}")
            pids.append(process.pid)
        seconds = time.monotonic() - before
        return Start(seconds, sum(map(own_time, pids)), Memory.of(*pids))


def python(stack: ExitStack, program: str) -> subprocess.Popen[bytes]:
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path("/"),
        )
    )
    stack.callback(process.kill)
    return process
