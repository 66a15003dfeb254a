"""Programs below valgrind, whose tool callgrind counts the instructions that they execute.

What is counted is what a process does in user space, its libraries included: other work on the
machine does not change it. Nothing is counted, and a program is only a few times slower, until
`Counter.start`. valgrind's own gdbserver is asked from outside (vgdb), so that the program knows
nothing of it.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from umktls.errors import WorldError

__all__ = ["PATIENT", "Counter", "Least", "asleep", "heard", "program", "valgrind_version"]

# Runs a program of this project without what it does by the clock.
PATIENT = (sys.executable, "-m", "tests.bench.patient")
START_SECONDS = 240.0
SECONDS = 120.0
LOOK_SECONDS = 0.0005


def valgrind_version() -> str:
    """Such as "valgrind-3.19.0". WorldError where there is none."""
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        line = "apt-get install --no-install-recommends valgrind"
        raise WorldError(f"no valgrind, which counts the instructions; as root: {line}")
    done = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def program(
    command: Sequence[str], environment: Mapping[str, str], top: Path, *, counted: bool
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs inside the block, talks over pipes, and is ended by SIGTERM; its log is
    a file in `top`. `counted`: below valgrind, for a `Counter`."""
    prefix = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"] if counted else []
    prefix += [f"--callgrind-out-file={top}/callgrind.%p"] if counted else []
    # The same hashes each time, the same dictionaries; and no bytecode written in between.
    fixed = {"PYTHONHASHSEED": "0", "UMKTLS_DUMPABLE": "1"}
    log = tempfile.NamedTemporaryFile("w", dir=top, suffix=".log", delete=False)  # noqa: SIM115
    with log:
        process = subprocess.Popen(
            [*prefix, *command],
            env={**environment, **fixed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def heard(process: subprocess.Popen[str], word: str = "") -> str:
    """The next line of a program, which has to begin like that."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if readable else ""
    if not line or not line.startswith(word):
        raise WorldError(f"{process.args!r} said {line!r}, and not {word!r}")
    return line


def all_asleep(pids: Iterable[int]) -> None:
    """Return when these processes, which do things for each other, wait for something else: each
    still does when all have been seen to. WorldError as `asleep`."""
    every = tuple(pids)
    while True:
        for pid in every:
            asleep(pid)
        if all(map(_sleeps, every)):
            return


def asleep(pid: int) -> None:
    """Return when all threads of a process wait for something. WorldError if that takes long, or
    if it ends."""
    until = time.monotonic() + SECONDS
    process = os.pidfd_open(pid)  # readable when it has ended; that it waits is no event
    try:
        while not _sleeps(pid):
            ended, _, _ = select.select([process], [], [], LOOK_SECONDS)
            if ended:
                raise WorldError(f"process {pid} has ended")
            if time.monotonic() > until:
                raise WorldError(f"process {pid} has been busy for more than {SECONDS:g} s")
    finally:
        os.close(process)


def _sleeps(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "S":
            return False
    return True


class Counter:
    """The instructions that a process executes from one look to the next."""

    def __init__(self, pid: int, top: Path) -> None:
        self.pid = pid
        self._out = top / f"callgrind.{pid}"
        self._dumps = 0

    def start(self) -> None:
        """Count from here on."""
        self._ask("instrumentation on")

    def reset(self) -> None:
        self._ask("zero")

    def take(self) -> int:
        """Instructions since the last look. The process must have nothing to do."""
        asleep(self.pid)
        self._ask("dump")
        self._dumps += 1
        path = Path(f"{self._out}.{self._dumps}")
        for line in path.read_text().splitlines():
            if line.startswith("totals:"):
                if not os.environ.get("UMKTLS_BENCH_PROFILES"):
                    path.unlink()
                return int(line.split()[1])
        raise WorldError(f"callgrind wrote no total into {path}")

    def _ask(self, command: str) -> None:
        line = ["vgdb", f"--pid={self.pid}", f"--wait={START_SECONDS:g}", *command.split()]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=START_SECONDS + SECONDS, check=False
        )
        if done.returncode:
            raise WorldError(f"vgdb cannot reach process {self.pid}: {done.stderr.strip()}")


class Least:
    """What rows of two lengths cost at the least, by what is in them; more than that is not theirs.

    What is in them costs the difference of a long row and a short one, divided by that of their
    lengths: what each row costs once is in both."""

    def __init__(self, short: int, long: int) -> None:
        self.short, self.long = short, long
        self._least: dict[tuple[str, int], int] = {}

    def note(self, what: str, times: int, total: int) -> None:
        self._least[what, times] = min(total, self._least.get((what, times), total))

    def of_one(self, what: str) -> float:
        more = self._least[what, self.long] - self._least[what, self.short]
        return more / (self.long - self.short)
