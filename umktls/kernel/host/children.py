"""The daemons that a host starts for itself, and what becomes of them.

A daemon is an ordinary program: it is started with the run directory and the certificates as its
arguments, its output goes to a log file beside the sockets, and it ends with the host. A host that
was told not to start any waits for somebody else's to register.

One that dies is started again. Where the world refuses that (no descriptors or processes are left,
the program is being replaced), the host says so and tries again after growing pauses: its sessions
do not need a daemon to go on. A log that cannot be opened costs the daemon's words, not the daemon.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import field
from pathlib import Path

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import NoThread, in_thread, refusal_text
from umktls.kernel.host.commands import DaemonCommand
from umktls.kernel.host.early import claim, launched, open_log

__all__ = ["Child"]

# A daemon that dies is started again after these pauses (seconds), the last one from then on.
PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
# One that has lived so long (seconds) has earned a fresh start.
STEADY = 30.0
TERMINATE_GRACE = 3.0
# Without a thread that waits for a process, it is looked at so often (seconds).
LOOK_SECONDS = 0.5
LOG_TAIL = 2048
# How a line of a daemon's log begins (umktls_daemons.programs.logs).
ORDINARY = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S* \S+\[\d+\]: ")


@dataclass
class Child:
    """One daemon process, kept alive.

    `run` starts it, waits for its end and starts it again after growing pauses, until the task is
    cancelled; it then ends the process. Before each start it calls `prepare`, which has the run
    directory there. `first_failure` holds why the first start of the command failed, if it ended
    before it had registered: a host that comes up reports that instead of going on.
    """

    command: DaemonCommand
    rundir: Path
    trace: Trace
    registered: Callable[[int], bool]
    prepare: Callable[[], Awaitable[None]]
    pid: int | None = None
    starts: int = 0
    first_failure: WorldError | None = None
    failed: trio.Event = field(default_factory=trio.Event)
    _process: subprocess.Popen[bytes] | None = None
    _life: trio.CancelScope = field(default_factory=trio.CancelScope)
    _log_begin: int = 0  # where its log begins in the file, in bytes

    @property
    def log(self) -> Path:
        return self.rundir / f"{self.command.program}.log"

    async def run(self) -> None:
        pauses = iter(PAUSES)
        told = ("", 0.0)
        while True:
            started, command = trio.current_time(), self.command
            refusal = await self._live()
            if command is not self.command:
                pauses = iter(PAUSES)
                continue
            if trio.current_time() - started > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, PAUSES[-1])
            if refusal and told != (refusal, pause):
                told = refusal, pause
                self._tell_of_refusal(refusal, pause)
            await trio.sleep(pause)

    def _tell_of_refusal(self, refusal: str, pause: float) -> None:
        """Tell of a refusal, once for each reason and pause, since the last pause is repeated for
        ever."""
        name = self.command.program
        self.trace.emit("daemon-refused", daemon=name, reason=refusal, pause=pause)
        if self.starts == 0:
            self.first_failure = WorldError(f"{name} cannot be started: {refusal}", errno.ESRCH)
            self.failed.set()

    def replace(self, command: DaemonCommand) -> None:
        """End the process, and keep one alive that is started by another command."""
        self.command, self.starts = command, 0
        self.first_failure, self.failed = None, trio.Event()
        self._life.cancel()

    async def _live(self) -> str:
        """Start the daemon once, and return when it has ended; why it could not be started."""
        try:
            await self.prepare()
            process = self._start()
        except (OSError, UmktlsError) as error:
            return refusal_text(error)
        try:
            # A thread waits, because trio's own waiting for a process needs trio to have started
            # it; abandoning the thread is safe, the process is ended below.
            with trio.CancelScope() as self._life:
                await ended(process)
        finally:
            with trio.CancelScope(shield=True):
                await self._end(process)
        self._report(process)
        return ""

    def _start(self) -> subprocess.Popen[bytes]:
        process = claim(self.command.line(self.rundir.resolve())) or self._launch()
        self.pid = process.pid
        self._process = process
        self.starts += 1
        self.trace.emit("daemon-started", daemon=self.command.program, pid=process.pid)
        return process

    def _launch(self) -> subprocess.Popen[bytes]:
        log = self._open_log()
        self._log_begin = 0 if log == subprocess.DEVNULL else os.fstat(log).st_size
        try:
            # A session of its own: Ctrl-C on the terminal is for the host, which ends it in order.
            return launched(self.command, self.rundir, log)
        finally:
            if log != subprocess.DEVNULL:
                os.close(log)

    def _open_log(self) -> int:
        """A descriptor for the daemon's output: of its log, or of nothing where there can be no
        log."""
        try:
            return open_log(self.rundir, self.command)
        except (OSError, CallerError) as error:
            why = refusal_text(error) if isinstance(error, OSError) else str(error)
            reason = f"what {self.command.program} says is lost: {why}"
            self.trace.emit("warning", None, reason=reason)
            return subprocess.DEVNULL

    def _report(self, process: subprocess.Popen[bytes]) -> None:
        reason = describe_end(process.returncode)
        said = self.last_words() if process.returncode > 0 else ""
        if said:
            reason += f": {said}"
        self.trace.emit("daemon-gone", daemon=self.command.program, pid=process.pid, reason=reason)
        if self.starts == 1 and not self.registered(process.pid):
            self.first_failure = WorldError(
                f"{self.command.program} did not come up, it {reason}", errno.ESRCH
            )
            self.failed.set()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None and self._process.poll() is None:
            with suppress(OSError):  # one that has made itself another user's
                self._process.send_signal(number)

    def last_words(self) -> str:
        """Why it ended, in its own words: the last line since it was started that is not an
        ordinary one of its log. A daemon of this project names itself where it gives up."""
        try:
            with open(self.log, "rb") as log:
                size = os.fstat(log.fileno()).st_size
                log.seek(max(self._log_begin, size - LOG_TAIL))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        said = (ORDINARY.sub("", line).strip() for line in lines)
        own = f"{self.command.program}: "
        causes = [
            words
            for line, words in zip(lines, said, strict=True)
            if words and (words == line.strip() or words.startswith(own))
        ]
        return causes[-1] if causes else ""

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        for number, grace in ((signal.SIGTERM, TERMINATE_GRACE), (signal.SIGKILL, TERMINATE_GRACE)):
            if process.poll() is not None:
                return
            with suppress(OSError):
                process.send_signal(number)
            with trio.move_on_after(grace):
                await ended(process)


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process, in a thread if there is one to be had."""
    try:
        await in_thread(process.wait, abandon_on_cancel=True)
    except NoThread:
        while True:
            if process.poll() is not None:
                return
            await trio.sleep(LOOK_SECONDS)


def describe_end(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode < 0:
        known = [each.name for each in signal.Signals if each == -returncode]
        return f"was ended by {known[0] if known else f'signal {-returncode}'}"
    return f"ended with exit code {returncode}"
