"""Threads that are kept for the next job: starting one costs more than a small upcall's work.

`Threads` are given their jobs by another thread, `Readers` read them themselves. Where the system
starts no thread now, those that are there do the work, one after the other.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from umktls.errors import WorldError

__all__ = ["KEPT", "Readers", "Threads", "begun"]

logger = logging.getLogger(__name__)

# A thread that has had nothing to do for so long (seconds) ends.
IDLE_SECONDS = 10.0
# So many wait at most: as many as CONNECTs come at once (umktls.abi.rpctls.DEFAULT_CONNECTS).
KEPT = 32

Job = Callable[[], None]
T = TypeVar("T")


def begun(target: Callable[[], None], name: str) -> bool:
    """Whether that is done in a thread of its own from now on: the system may have none."""
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError as error:
        logger.warning("thread %s: %s", name, error)
        return False
    return True


class Threads:
    """At most `limit` threads, made as they are needed. They do not keep the process alive."""

    def __init__(self, limit: int, name: str) -> None:
        self._name = name
        self._room = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle = 0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def run(self, job: Job) -> None:
        """Have `job` done in another thread, at once; wait while all of them are busy."""
        self._room.acquire()
        with self._lock:
            waiting = self._idle > 0
            self._idle -= waiting
        if waiting:
            self._jobs.put(job)
        elif not begun(partial(self._work, job), self._name):
            self._do(job)

    def _work(self, job: Job | None) -> None:
        while job is not None:
            self._do(job)
            job = self._next()

    def _do(self, job: Job) -> None:
        try:
            job()
        finally:
            self._room.release()

    def _next(self) -> Job | None:
        """The next job of a thread that has done one; None when it is not needed."""
        with self._lock:
            if self._idle >= KEPT:
                return None
            self._idle += 1
        while True:
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # Otherwise `run` counts on this thread already, and the job is on its way.
                    if self._idle:
                        self._idle -= 1
                        return None


class Readers(Generic[T]):
    """At most `limit` threads that share what there is to read, made as they are needed.

    Whoever has read something works on it at once, without another thread having to wake up for it,
    and somebody else goes on reading; nobody does while all of them are busy. `read` returns None
    at the end of everything; `ended` is called once, when all of them have come there.
    """

    def __init__(
        self,
        read: Callable[[], T | None],
        work: Callable[[T], None],
        ended: Callable[[], None],
        limit: int,
        name: str,
    ) -> None:
        self._read = read
        self._work = work
        self._ended = ended
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()  # of what follows
        self._threads = 0
        self._reading = 0

    def start(self) -> None:
        """Begin to read, with one thread. Raises `WorldError` where there is none to be had."""
        with self._lock:
            self._add()
            if not self._threads:
                raise WorldError("no thread is left to this user (ulimit -u)", errno.EAGAIN)

    def _add(self) -> None:
        """One more, if there is one to be had."""
        self._threads += 1
        self._reading += 1
        if not begun(self._run, self._name):
            self._threads -= 1
            self._reading -= 1

    def _run(self) -> None:
        try:
            while (item := self._read()) is not None:
                self._take_turns()
                try:
                    self._work(item)
                except Exception:
                    logger.exception("thread %s goes on with the next one", self._name)
                if not self._comes_back():
                    return
        finally:
            with self._lock:
                self._threads -= 1
                last = not self._threads
            if last:
                self._ended()

    def _take_turns(self) -> None:
        """This thread reads no more for now."""
        with self._lock:
            self._reading -= 1
            if not self._reading and self._threads < self._limit:
                self._add()

    def _comes_back(self) -> bool:
        """Whether this thread is to go on reading: as many do already as are kept, otherwise."""
        with self._lock:
            if self._reading >= KEPT:
                return False
            self._reading += 1
            return True
