"""What a call and a handshake cost in instructions: `make bench ONLY=instructions`.

Time is not to be had on a busy machine; instructions are. callgrind counts those of a process in
user space while a client makes SHORT and then LONG calls, one at a time: a call costs the
difference by the difference, of the least of several runs, since whatever else a process does now
and then only adds. Starting, connecting and the counting itself fall out of it. The
server is asked next when it has nothing left to do from the last time, so that it always finds the
same.

Each figure stands beside the one that is kept in `instructions.json`, and is short where it got
dearer by more than its tolerance. Who has made something cheaper, or dearer on purpose, keeps the
new ones by `python -m tests.bench.instructions`.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryptography
import trio

from tests.bench.callgrind import (
    PATIENT,
    START_SECONDS,
    Counter,
    Least,
    all_asleep,
    heard,
    program,
    valgrind_version,
)
from tests.bench.figures import Figure
from tests.bench.files import MEMORY
from tests.bench.throughfuse import count_mount
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

__all__ = ["measure"]

KEPT = Path(__file__).with_name("instructions.json")
TOLERANCE = 1.02
# Between processes that wait for each other in threads, the order of things is not the same always.
HANDSHAKE_TOLERANCE = 1.1
# How many requests a mount finds when it looks depends on who else has the processors.
MOUNT_TOLERANCE = 1.2
CALLS = ("GETATTR", "LOOKUP", "READ", "WRITE", "CREATE", "REMOVE")
HANDSHAKE = "handshake"
# So often each length is counted.
REPETITIONS = 4
# How many first, so that everything is warm; then how many of each length.
LENGTHS = {HANDSHAKE: (3, 2, 6)}
CALL_LENGTHS = (20, 20, 60)
SIZES = {"READ": "READ 4 KiB", "WRITE": "WRITE 4 KiB"}

Costs = dict[str, int]
"""Instructions, by what they are for and where."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A server and a client with a daemon each, of which those of `side` are counted: the host's
    counter and the daemon's."""

    side: str
    counters: dict[str, Counter]
    caller: subprocess.Popen[str]
    pace: int

    def run(self, security: str, what: str, times: int) -> None:
        told = {"security": security, "what": what, "times": times, "pace": self.pace}
        assert self.caller.stdin is not None
        self.caller.stdin.write(json.dumps(told) + "\n")
        self.caller.stdin.flush()
        heard(self.caller, "done")


def await_daemon(host: Host) -> None:
    """Wait until a daemon has registered with the host."""
    events = host.ask({"op": "trace", "since": 0.0, "follow": True}, START_SECONDS)
    if not any(event["event"] == "daemon-registered" for event in events):
        raise WorldError(f"no daemon has registered with {host.name}")


def what_the_caller_needs(sandbox: Sandbox, server: Host, rundir: Path) -> dict[str, Any]:
    return {
        "port": server.facts["port"],
        "export": str(sandbox.export),
        "certs": str(sandbox.certs),
        "rundir": str(rundir),
    }


@contextmanager
def rig(side: str) -> Iterator[Rig]:
    """Everything started; what is of `side` ("client" or "server") below valgrind."""
    with Sandbox("count", MEMORY if MEMORY.is_dir() else None) as sandbox, ExitStack() as stack:
        layout.create(sandbox.certs)
        (sandbox.export / "file").write_bytes(bytes(1 << 18))
        logs = sandbox.directory("logs")

        def start(of: str, *command: str) -> subprocess.Popen[str]:
            made = program(command, sandbox.environment(), logs, counted=of == side)
            return stack.enter_context(made)

        pki = sandbox.certs
        server = start(
            "server", *PATIENT, "umktls", "serve", str(sandbox.export), "--no-root-squash",
            "--port", "0", "--host", "127.0.0.1", "--state", str(sandbox.top / "state"),
            "--certs", str(pki), "--insecure", "--no-daemon",
        )  # fmt: skip
        heard(server)
        (host,) = sandbox.hosts()
        common = ("-l", str(pki / "ca.pem"), "-m")
        rpctlssd = start(
            "server", *PATIENT, "rpctlssd", "--rundir", str(host.rundir),
            "-D", str(pki / "server"), *common,
        )  # fmt: skip
        await_daemon(host)
        rundir = sandbox.directory("run/bench")
        setup = json.dumps(what_the_caller_needs(sandbox, host, rundir))
        caller = start("client", sys.executable, "-m", "tests.bench.caller", setup)
        heard(caller, "up")
        rpctlscd = start(
            "client", *PATIENT, "rpctlscd", "--rundir", str(rundir / "mtls"),
            "-D", str(pki / "client"), *common,
        )  # fmt: skip
        heard(caller, "ready")
        pids = {"client": (caller, rpctlscd), "server": (server, rpctlssd)}[side]
        counters = {
            name: Counter(process.pid, logs)
            for name, process in zip(("host", "daemon"), pids, strict=True)
        }
        yield Rig(side, counters, caller, 0 if side == "client" else server.pid)


def count_side(side: str) -> Costs:
    """All figures of one side."""
    costs: Costs = {}
    with rig(side) as it:
        it.counters["host"].start()
        for security in ("mtls", "none"):
            for what in CALLS:
                (cost,) = count_one(it, security, what, ("host",)).values()
                costs[f"{SIZES.get(what, what)}, {security}, {side}"] = cost
        it.counters["daemon"].start()
        for where, cost in count_one(it, "mtls", HANDSHAKE, ("host", "daemon")).items():
            costs[f"{HANDSHAKE}, mtls, {side}'s {where}"] = cost
    return costs


def count_one(it: Rig, security: str, what: str, where: tuple[str, ...]) -> Costs:
    """Instructions of one call in the host, or of one handshake in the host and in the daemon."""
    warm, short, long = LENGTHS.get(what, CALL_LENGTHS)
    it.run(security, what, warm)
    least = Least(short, long)
    pids = [it.counters[name].pid for name in where]
    for times in (short, long) * REPETITIONS:
        all_asleep(pids)
        for name in where:
            it.counters[name].take()
        it.run(security, what, times)
        # The client is done before the server is: its daemon has still to close the connection.
        all_asleep(pids)
        for name in where:
            least.note(name, times, it.counters[name].take())
    return {name: round(least.of_one(name)) for name in where}


def count_all() -> Costs:
    return {**count_side("client"), **count_side("server"), **count_mount()}


# ---- beside what is kept


def circumstances() -> dict[str, str]:
    """What else than the project's code the counts depend on."""
    return {
        "valgrind": valgrind_version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cryptography": cryptography.__version__,
        "trio": trio.__version__,
    }


def measure() -> Iterator[Figure]:
    """Thousands of instructions, beside those that are kept."""
    here = circumstances()
    kept: dict[str, Any] = json.loads(KEPT.read_text())
    other = [f"{name} {here[name]}" for name in here if here[name] != kept["with"].get(name)]
    yield from beside(count_all(), kept["instructions"], other)


def allowed(what: str) -> float:
    """So many times as dear as before it may be."""
    if what.startswith(HANDSHAKE):
        return HANDSHAKE_TOLERANCE
    return MOUNT_TOLERANCE if what.endswith(", mount") else TOLERANCE


def beside(costs: Costs, kept: Costs, other: list[str]) -> Iterator[Figure]:
    """`other`: what is not as it was when these were kept, so that none is marked."""
    name = "kept" if not other else f"kept, without {', '.join(other)}"
    for what, cost in costs.items():
        before = kept.get(what, cost)
        target = None if other else allowed(what)
        yield Figure(what, cost / 1000, "k instr.", name, before / 1000, target, at_most=True)


def keep(costs: Costs) -> None:
    kept = {"with": circumstances(), "instructions": costs}
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    keep(count_all())
