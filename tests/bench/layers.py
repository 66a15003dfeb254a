"""Where the time of a create, a read of 4 KiB and a handshake goes, layer by layer.

What each process takes of the processors for one of them is measured first. Then py-spy looks many
times a second, while the same goes on, whether a process holds Python's lock, and if it does the
innermost Python function says in whose layer it is, with what that calls in C. Two things are in no
layer and told apart: the machine's kernel (system time), and what goes on without Python's lock,
such as OpenSSL's part of a handshake.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from tests.bench import files, rpcs
from tests.bench.figures import Figure
from umktls.errors import WorldError
from umktls.kernel.host.commands import program_path
from umktls.kernel.krpc.client import boot_client

__all__ = ["RATE", "measure", "seconds"]

RATE = 500
ROUNDS = 5
READY_SECONDS = 30.0
# The first whose pattern is in the file of the innermost function, as py-spy has it.
LAYERS = (
    ("pyfuse3 and who reads for it", r"pyfuse3|\bfs/(readturn|scopes|requests)\.py"),
    ("file system", r"\bfs/"),
    ("XDR", r"<xdr |<functions of|umktls/rpc/(xdr|frozen)|umktls/nfs/"),
    ("RPC", r"umktls/rpc/|umktls/kernel/krpc/"),
    ("records", r"umktls/ktls/"),
    ("sockets", r"umktls/kernel/sockets/"),
    ("files of the server", r"umktls/nfsd/"),
    ("OpenSSL, certificates", r"OpenSSL/|\bdaemons/tls/|cryptography/"),
    ("upcalls, system calls", r"umktls/(upcall|userland)/|umktls/kernel/(upcalls|owners|host)/"),
    ("the daemon itself", r"\bdaemons/"),
    ("trio", r"\b(trio|outcome)/|hostclock\.py"),
    ("the rest", r""),
)
UNLOCKED, KERNEL = "without Python's lock", "the machine's kernel"
FILE = re.compile(r" \((.*?)(?::\d+)?\)$")

Processes = Mapping[str, int]


def measure() -> Iterator[Figure]:
    """Microseconds of each layer in each process."""
    with files.rig(files.MTLS) as it:
        processes = {what: of_command(it.export, what) for what in ("mount", "serve")}
        for what, run, times in (
            ("create and close", files.creates, files.FILES),
            ("random read of 4 KiB", files.wide_reads, files.RANDOM_READS),
        ):
            run(it, it.shown[files.MTLS])
            look = Look(processes)
            for phase in (look.counted(), look.sampled()):
                with phase:
                    for _ in range(ROUNDS):
                        run(it, it.shown[files.MTLS])
            yield from look.figures(what, ROUNDS * times)
    with rpcs.serving() as configure:
        look = trio.run(look_at_handshakes, configure)
    yield from look.figures("handshake", ROUNDS * rpcs.HANDSHAKES)


async def look_at_handshakes(configure: rpcs.Configure) -> Look:
    """The client's host is this process."""
    config = configure("mtls")
    async with boot_client(config) as host:
        await host.daemon_ready("rpctlscd")
        server = of_command(Path(config.export), "serve")
        look = Look(
            {
                "client's host": os.getpid(),
                "client's daemon": of_command(host.rundir.path, "rpctlscd"),
                "server's host": server,
                "server's daemon": child_of(server),
            }
        )
        await rpcs.upcall_handshakes(host, config)
        for phase in (look.counted(), look.sampled()):
            with phase:
                for _ in range(ROUNDS):
                    await rpcs.upcall_handshakes(host, config)
        return look
    raise AssertionError("the host swallowed an error")


class Look:
    """What some processes do while the same is done twice: once counted, once sampled."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._cpu: dict[str, tuple[float, float]] = {}
        self._layers: dict[str, dict[str, float]] = {}

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = {name: cpu_seconds(pid) for name, pid in self._processes.items()}
        yield
        for name, pid in self._processes.items():
            user, system = cpu_seconds(pid)
            self._cpu[name] = user - before[name][0], system - before[name][1]

    @contextmanager
    def sampled(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            for name, pid in self._processes.items():
                stack.enter_context(spying(pid, Path(directory, name)))
            yield
            stack.close()
            for name in self._processes:
                self._layers[name] = seconds(Path(directory, name).read_text().splitlines())

    def figures(self, what: str, times: int) -> Iterator[Figure]:
        for name, (user, system) in self._cpu.items():
            layers = self._layers[name]
            # Who has lost the processor holds the lock still: on a busy machine that is too much.
            locked = sum(layers.values())
            scale = min(1.0, user / locked) if locked else 1.0
            parts = {layer: spent * scale for layer, spent in layers.items()}
            parts |= {UNLOCKED: user - locked * scale, KERNEL: system}
            for layer, spent in parts.items():
                value, whole = (each / times * 1e6 for each in (spent, user + system))
                yield Figure(f"{what}, {name}: {layer}", value, "us", "all of it", whole)


@contextmanager
def spying(pid: int, result: Path) -> Iterator[None]:
    """py-spy looks at a process inside the block. Raises WorldError."""
    command = [
        program_path("py-spy"),
        "record",
        "--gil",
        "-r",
        str(RATE),
        "-f",
        "raw",
        "-o",
        str(result),
    ]
    command += ["-p", str(pid)]
    spy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert spy.stdout is not None
    try:
        said = spy.stdout.readline()  # that it samples
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        rest, _ = spy.communicate(timeout=READY_SECONDS)
    if not result.exists():
        raise WorldError(f"py-spy could not look at process {pid}: {said}{rest}")


def seconds(lines: Iterable[str]) -> dict[str, float]:
    """By layer, of samples as py-spy has them: functions from the outermost on, how many times."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, number = line.rpartition(" ")
        match = FILE.search(stack.rpartition(";")[2])
        where = match[1] if match is not None else ""
        counts[next(name for name, pattern in LAYERS if re.search(pattern, where))] += int(number)
    return {name: counts[name] / RATE for name, _ in LAYERS if counts[name]}


def cpu_seconds(pid: int) -> tuple[float, float]:
    """User and system time, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def of_command(about: Path, word: str) -> int:
    """The process in whose command line both are. Raises WorldError."""
    for page in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = page.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(about) in each for each in words) and any(word in each for each in words):
            return int(page.parent.name)
    raise WorldError(f"no process has {word} and {about} in its command line")


def child_of(pid: int) -> int:
    """Its first child."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
