"""The FUSE requests under way: who waits for each, since when, and when it is given up.

Theory of operation. A process that waits for a FUSE request sleeps in the kernel and cannot even be
killed once the request has been read from /dev/fuse, and pyfuse3 does not pass on the interrupt
that FUSE sends. But a mount can see that the process is to die: a signal that ends a process makes
Linux mark SIGKILL as pending in each of its threads (kernel/signal.c, complete_signal), whichever
signal it was, and not if the process catches, blocks or ignores it. Linux's own NFS client waits
in the state TASK_KILLABLE, which that mark ends and nothing else (fatal_signal_pending). So the
same mark counts here: a request whose caller has it is answered with EINTR.

FUSE's pid is the thread that waits. READ, WRITE, FLUSH, FSYNC and READDIR come without one; for
these the process counts that opened the file, all threads of it. A process that has been killed
already waits once more where its files are closed (FLUSH): it has no pending mark any more but
PF_SIGNALED. Nobody waits for RELEASE; it goes on.

Most requests are answered from what the mount knows, without waiting: only those that wait are
looked after.

A request is bounded too, not only its calls: a server that answers each call a little, or with
"not now", stretches no deadline. Requests that wait for written data may take longer as long as
whole pieces of it reach the server.

While somebody goes through the mount's steps its clock stands, and no request gets older. Callers
are looked at all the same: whoever is killed in front of a step goes.

Giving up is a cancellation: handlers leave their tables true when they are cancelled, and written
data stays with its writer (writer.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from pyfuse3 import FUSEError

from umktls.kernel.ground.hostclock import real_pause, stands

from .scopes import close_scope, open_scope

__all__ = ["Request", "Requests", "doomed", "process_of"]

T = TypeVar("T")

TICK = 0.25
# Younger requests are not looked at: most are answered long before.
YOUNG = 0.25
SIGKILL_BIT = 1 << 8
# include/linux/sched.h: the process was killed by a signal
PF_SIGNALED = 0x400
DEAD = (b"Z", b"X")
SHOWN = 20


def _read(path: str) -> bytes:
    """A small file of /proc; nothing if the process is gone, or hidden."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 16384)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _field(status: bytes, name: bytes) -> bytes:
    """A field of /proc/PID/status."""
    _, _, rest = status.partition(b"\n" + name + b":")
    return rest.partition(b"\n")[0].strip()


def doomed(thread: int) -> bool:
    """Whether a thread (proc_pid_status(5)) has a fatal signal pending, or dies of one."""
    status = _read(f"/proc/{thread}/status")
    if _field(status, b"State").startswith(DEAD):
        return False
    pending = _field(status, b"SigPnd")
    if pending and int(pending, 16) & SIGKILL_BIT:
        return True
    # proc_pid_stat(5): the flags are the seventh field behind the name, which is in parentheses.
    words = _read(f"/proc/{thread}/stat").rpartition(b")")[2].split()
    return len(words) > 6 and bool(int(words[6]) & PF_SIGNALED)


def process_of(thread: int) -> int:
    """The process that a thread belongs to; 0 if it is gone, or of another PID namespace."""
    return int(_field(_read(f"/proc/{thread}/status"), b"Tgid") or 0)


def threads_of(process: int) -> Iterator[int]:
    try:
        names = os.listdir(f"/proc/{process}/task")
    except OSError:
        return iter(())
    return map(int, names)


class Request:
    """One request: `since` by the clock, `thread` and `process` 0 where they are not known.

    patient: it waits for written data, so whole pieces that reach the server give it time.
    number: the errno of its answer, once it was given up.
    """

    __slots__ = ("name", "number", "patient", "process", "scope", "since", "thread")

    def __init__(
        self, name: str, since: float, thread: int = 0, process: int = 0, patient: bool = False
    ) -> None:
        self.name = name
        self.since = since
        self.thread = thread
        self.process = process
        self.patient = patient
        self.number = 0

    def __enter__(self) -> None:
        """Where `give_up` ends what the present task does."""
        self.scope = open_scope()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return close_scope(self.scope, bool(self.number), error)

    def caller_dies(self) -> bool:
        """Whether who waits for the answer is to die."""
        if self.thread:
            return doomed(self.thread)
        return self.process > 0 and any(map(doomed, threads_of(self.process)))

    def give_up(self, number: int) -> None:
        """Answer with this errno as soon as the handler has been cancelled."""
        self.number = number
        self.scope.cancel()


class Requests:
    """All requests under way, oldest first.

    patience: seconds that one may take. timeout_errno: what it is answered then. progress: when the
    server last had a whole piece of written data. connected: whether FUSE still wants answers.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        patience: float,
        timeout_errno: int,
        progress: Callable[[], float],
    ) -> None:
        self.clock = clock
        self._patience = patience
        self._timeout_errno = timeout_errno
        self._progress = progress
        self._active: dict[Request, None] = {}
        self.connected: Callable[[], bool] = lambda: True

    def __len__(self) -> int:
        return len(self._active)

    async def heeded(self, request: Request, work: Awaitable[T]) -> T:
        """What the work for a request comes to. Raises FUSEError once the request is given up."""
        self._active[request] = None
        try:
            with request:
                return await work
        finally:
            del self._active[request]
        raise FUSEError(request.number)

    async def run(self) -> None:
        """Look after the requests, until cancelled."""
        while True:
            await real_pause(TICK)
            self.look()

    def look(self) -> None:
        """Give up what nobody waits for any more, and what has taken too long."""
        now = self.clock()
        young = -1.0 if stands() else YOUNG
        if not any(now - request.since >= young for request in self._oldest()):
            return
        connected = self.connected()
        for request in list(self._active):
            if request.number:
                continue
            if not connected:
                request.give_up(errno.ENOTCONN)
            elif now - request.since >= young and request.caller_dies():
                request.give_up(errno.EINTR)
            elif now >= self._expiry(request):
                request.give_up(self._timeout_errno)

    def _oldest(self) -> list[Request]:
        return [next(iter(self._active))] if self._active else []

    def _expiry(self, request: Request) -> float:
        since = max(request.since, self._progress()) if request.patient else request.since
        return since + self._patience + TICK  # the calls' own deadlines say more, so they go first

    def facts(self) -> list[dict[str, Any]]:
        """The oldest that wait, for people: what, for how many seconds, whose."""
        now = self.clock()
        return [
            {
                "name": request.name,
                "seconds": round(now - request.since, 3),
                "pid": request.thread or request.process,
            }
            for request in list(self._active)[:SHOWN]
        ]
