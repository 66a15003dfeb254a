"""Several daemons as one: a master process that keeps N workers alive (rpctlssd -N N).

Theory of operation
===================

The master makes no upcall's work. Where daemons register (version 1 of the upcall), it tells the
kernel that they are about to (SRVSTARTUP). It forks the workers, and waits: for signals, which it
passes on, for the kernel's end, and for the end of a worker, in whose place it forks another, after
pauses that grow while that does not help. Each worker has a connection to the kernel, an upcall
socket, tickets and sessions of its own; so the end of one costs its own sessions and nobody else's.
(FreeBSD's master ends them all when one ends.)

A worker holds the reading end of a pipe, the lifeline, of which the master alone has the writing
end: when it hangs up, the master is gone, and the worker goes too.

No thread runs in the master, so forking is safe; signals are blocked around it, since a child that
has its parent's handlers would answer for its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from umktls.abi.rpctls import RpctlsSysc
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, WorldError
from umktls.userland.libc import Kernel
from umktls.userland.notify import notify, reloading

from .running import ENDING, signals

__all__ = ["Work", "run_workers", "set_title"]

logger = logging.getLogger(__name__)

# What a worker does: its number, what to call when it serves, and the lifeline.
Work = Callable[[int, Callable[[], None], int], None]

# A worker that ended is replaced after these pauses (seconds), the last one from then on.
PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
# One that has lived so long (seconds) has earned a fresh start.
STEADY = 30.0
GRACE_SECONDS = 2.0
ALL_SIGNALS = (*ENDING, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True)
class Worker:
    """One place in the team. `pid` is 0 while it is empty; it is filled again at `due`."""

    number: int
    pid: int = 0
    failures: int = 0
    started: float = 0.0
    due: float = 0.0


def run_workers(name: str, rundir: Path, count: int, work: Work, ready: Callable[[], None]) -> None:
    """Keep `count` workers at `work` until a signal or the kernel's end says otherwise.

    `ready` is called once, when all of them serve. Raises `UmktlsError` when the start fails.
    """
    with (
        signals(*ALL_SIGNALS) as wakeup,
        contextlib.closing(Kernel(rundir)) as kernel,
        _pipe() as word,
        _pipe() as lifeline,
    ):
        registers = kernel.rpctls_versions[0] == 1
        if registers:
            kernel.rpctls_syscall(RpctlsSysc.RPCTLS_SYSC_SRVSTARTUP)
        set_title(f"{name} master")
        team = Team(name, count, work, word, lifeline, (wakeup, kernel.fileno()))
        try:
            team.start(ready)
            team.mind()
        finally:
            notify("STOPPING=1")
            team.end()
            if registers:
                with contextlib.suppress(UmktlsError):
                    kernel.rpctls_syscall(RpctlsSysc.RPCTLS_SYSC_SRVSHUTDOWN)


def set_title(title: str) -> None:
    """Show `title` (15 bytes of it) as this process's name in ps(1) and top(1)."""
    # Not /proc/self/comm, which is root's where the memory is nobody's to look at (prctl(2)).
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{os.getpid()}/comm").write_text(title)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


class Team:
    """The workers. `word` and `lifeline` are pipes, from the workers and to them; `own` are
    descriptors of the master's: of its signals, and of its kernel."""

    def __init__(
        self,
        name: str,
        count: int,
        work: Work,
        word: tuple[int, int],
        lifeline: tuple[int, int],
        own: tuple[int, int],
    ) -> None:
        self._name = name
        self._workers = [Worker(number) for number in range(count)]
        self._work = work
        self._word = word
        self._lifeline = lifeline
        self._wakeup, self._kernel = own

    def start(self, ready: Callable[[], None]) -> None:
        """Fork them, and wait until all serve. Raises `WorldError` when one ends before that."""
        for worker in self._workers:
            try:
                self._fork(worker)
            except OSError as error:
                raise WorldError(f"cannot start a daemon: {error.strerror}", error.errno) from error
        serving = 0
        while serving < len(self._workers):
            readable = self._wait(None)
            if self._word[0] in readable:
                serving += len(os.read(self._word[0], 64))
            if self._signal(readable) or self._kernel in readable:
                raise WorldError("told to end before all daemons served")
            if not all(worker.pid for worker in self._workers):
                raise WorldError("a daemon ended before it served; its log says why")
        ready()

    def mind(self) -> None:
        """Keep them alive until it is time to end."""
        while True:
            readable = self._wait(self._next_due())
            if self._word[0] in readable:
                # Somebody's replacement serves.
                os.read(self._word[0], 64)
            if self._signal(readable) or self._kernel in readable:
                return
            for worker in self._workers:
                if not worker.pid and worker.due <= time.monotonic():
                    self._fill(worker)

    def _fill(self, worker: Worker) -> None:
        """Fork another one into an empty place; later, where the system has no process for it."""
        try:
            self._fork(worker)
        except OSError as error:
            pause = self._put_off(worker)
            what = self._name, worker.number, error.strerror, pause
            logger.warning("%s %d cannot be started: %s; it is tried again in %g s", *what)

    def end(self) -> None:
        """Have all workers end, and wait for it."""
        self._pass_on(signal.SIGTERM)
        ends = time.monotonic() + GRACE_SECONDS
        while self._alive() and (left := ends - time.monotonic()) > 0:
            self._reap()
            if self._alive():
                select.select([self._wakeup], [], [], left)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup, 64)
        self._pass_on(signal.SIGKILL)
        for worker in self._alive():
            os.waitpid(worker.pid, 0)

    def _alive(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.pid]

    def _next_due(self) -> float | None:
        """Seconds until the next empty place is to be filled; None if there is none."""
        due = [worker.due for worker in self._workers if not worker.pid]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _wait(self, seconds: float | None) -> set[int]:
        """The descriptors that have something to say."""
        poller = select.poll()
        poller.register(self._kernel, 0)
        poller.register(self._wakeup, select.POLLIN)
        poller.register(self._word[0], select.POLLIN)
        return {fd for fd, _ in poller.poll(None if seconds is None else seconds * 1000)}

    def _signal(self, readable: set[int]) -> bool:
        """Deal with the signals that have come; whether one of them says that this is the end."""
        if self._wakeup not in readable:
            return False
        for number in os.read(self._wakeup, 64):
            if number in ENDING:
                logger.info("ending on %s", signal.Signals(number).name)
                return True
            if number == signal.SIGHUP:
                reloading()
                self._pass_on(signal.SIGHUP)
                notify("READY=1")
            else:
                self._reap()
        return False

    def _pass_on(self, number: signal.Signals) -> None:
        for worker in self._alive():
            os.kill(worker.pid, number)

    def _reap(self) -> None:
        for worker in self._alive():
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._gone(worker, os.waitstatus_to_exitcode(status))

    def _gone(self, worker: Worker, code: int) -> None:
        if time.monotonic() - worker.started > STEADY:
            worker.failures = 0
        what = self._name, worker.number, worker.pid, code, self._put_off(worker)
        logger.warning("%s %d (process %d) has ended with code %d; a new one starts in %g s", *what)
        worker.pid = 0

    @staticmethod
    def _put_off(worker: Worker) -> float:
        """When the place is to be filled: after how many seconds."""
        pause = PAUSES[min(worker.failures, len(PAUSES) - 1)]
        worker.failures += 1
        worker.due = time.monotonic() + pause
        return pause

    def _fork(self, worker: Worker) -> None:
        worker.started = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        try:
            worker.pid = os.fork()
            if not worker.pid:
                self._be(worker.number)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)

    def _be(self, number: int) -> None:
        """The child's life. It never returns: what the master would clean up is the master's."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for each in ALL_SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)
            for fd in (self._wakeup, self._kernel, self._word[0], self._lifeline[1]):
                os.close(fd)
            set_title(f"{self._name} {number}")
            self._work(number, lambda: _say_ready(self._word[1]), self._lifeline[0])
            code = 0
        except UmktlsError as error:
            logger.error("%s %d: %s", self._name, number, error)
        except BaseException:
            logger.exception("%s %d", self._name, number)
        finally:
            os._exit(code)


def _say_ready(word: int) -> None:
    os.write(word, b"r")
