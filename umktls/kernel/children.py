"""The daemons that a host starts for itself, and what becomes of them.

A daemon is an ordinary program: it is started with the run directory and the certificates as its
arguments, its output goes to a log file beside the sockets, and it ends with the host. A host that
was told not to start any waits for somebody else's to register.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from umktls.errors import WorldError
from umktls.kernel.events import Trace

__all__ = ["Child", "DaemonCommand", "program_path"]

# A daemon that dies is started again after these pauses (seconds), the last one from then on.
PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
# One that has lived so long (seconds) has earned a fresh start.
STEADY = 30.0
TERMINATE_GRACE = 3.0
LOG_TAIL = 2048


def program_path(name: str) -> str:
    """Where the program `name` is: beside this Python, else on PATH.

    Raises `WorldError` when it is nowhere.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise WorldError(
            f"cannot start {name}: no such program beside {sys.executable} or on PATH; "
            "install umktls, or start a daemon by hand and pass --no-daemon",
            errno.ENOENT,
        )
    return found


@dataclass(frozen=True, slots=True)
class DaemonCommand:
    """How to start a daemon: `name` is the program, `arguments` follow its run directory."""

    name: str
    arguments: tuple[str, ...] = ()

    def line(self, rundir: Path) -> Sequence[str]:
        return [program_path(self.name), "--rundir", str(rundir), *self.arguments]


@dataclass
class Child:
    """One daemon process, kept alive.

    `run` starts it, waits for its end and starts it again after growing pauses, until the task is
    cancelled; it then ends the process. `first_failure` holds why the first start of the command
    failed, if it ended before it had registered: a host that comes up reports that instead of going
    on.
    """

    command: DaemonCommand
    rundir: Path
    trace: Trace
    registered: Callable[[int], bool]
    pid: int | None = None
    starts: int = 0
    first_failure: WorldError | None = None
    failed: trio.Event = field(default_factory=trio.Event)
    _process: subprocess.Popen[bytes] | None = None
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def log(self) -> Path:
        return self.rundir / f"{self.command.name}.log"

    async def run(self) -> None:
        pauses = iter(PAUSES)
        pause = PAUSES[0]
        while True:
            started, command = trio.current_time(), self.command
            await self._live()
            if command is not self.command:
                pauses = iter(PAUSES)
                continue
            if trio.current_time() - started > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, PAUSES[-1])
            await trio.sleep(pause)

    def replace(self, command: DaemonCommand) -> None:
        """End the process, and keep one alive that is started by another command."""
        self.command, self.starts = command, 0
        self.first_failure, self.failed = None, trio.Event()
        self._life.cancel()

    async def _live(self) -> None:
        """Start the daemon once, and return when it has ended."""
        process = self._start()
        try:
            # A thread waits, because trio's own waiting for a process needs trio to have started
            # it; abandoning the thread is safe, the process is ended below.
            with trio.CancelScope() as self._life:
                await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        finally:
            with trio.CancelScope(shield=True):
                await self._end(process)
        self._report(process)

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C on the terminal is for the host, which ends it in order.
            process = subprocess.Popen(
                self.command.line(self.rundir),
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = process.pid
        self._process = process
        self.starts += 1
        self.trace.emit("daemon-started", daemon=self.command.name, pid=process.pid)
        return process

    def _report(self, process: subprocess.Popen[bytes]) -> None:
        reason = describe_end(process.returncode)
        said = self.last_words()
        if said:
            reason += f": {said}"
        self.trace.emit("daemon-gone", daemon=self.command.name, pid=process.pid, reason=reason)
        if self.starts == 1 and not self.registered(process.pid):
            self.first_failure = WorldError(
                f"{self.command.name} did not come up, it {reason}", errno.ESRCH
            )
            self.failed.set()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            with open(self.log, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_TAIL))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        for number, grace in ((signal.SIGTERM, TERMINATE_GRACE), (signal.SIGKILL, TERMINATE_GRACE)):
            if process.poll() is not None:
                return
            process.send_signal(number)
            with trio.move_on_after(grace):
                await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


def own_environment() -> dict[str, str]:
    """Ours without what is for us alone: a service manager waits for the host's word, and not for
    its daemons'."""
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


def describe_end(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"
