"""Threads that are kept for the next job: starting one costs more than a small upcall's work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["KEPT", "Threads"]

# A thread that has had nothing to do for so long (seconds) ends.
IDLE_SECONDS = 10.0
# So many wait at most: as many as CONNECTs come at once (umktls.kernel.host.DEFAULT_CONNECTS).
KEPT = 32

Job = Callable[[], None]


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
        else:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()

    def _work(self, job: Job | None) -> None:
        while job is not None:
            try:
                job()
            finally:
                self._room.release()
            job = self._next()

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
