"""The loop of a server that stays awake where the next call is expected.

Theory of operation. Who makes one call after another makes the next one some hundred microseconds
after a reply. A processor that sleeps meanwhile takes up to as long again to wake up (wakeful.py).
So where the last wait of the loop was that short, the next one begins awake. trio says when the
loop is about to wait, which is when nothing else can be done; that something has come, whatever it
is, select(2) says of the loop's epoll.

A turn of the loop costs as much as a small call besides. So where no other task can go on, who has
answered a call waits for the next one without the loop (dwelling.py), until it comes or the epoll
has anything else; which tasks can go on is counted.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.wakeful import Ready, Select, Wakeful

__all__ = ["Expecting"]

# A wait is short up to here, and begins awake for so long. Behind a reply the next call of a mount
# comes in 130 microseconds (a read) to 200 (an unlink); where this does not sleep, a read in 60.
SHORT_SECONDS = 0.00025
# The same for a call that is waited for without the loop: between two unlinks of a mount lie 300.
NEAR_SECONDS = 0.0004
# Whoever has the processor for so long when this gives way has more to do than to make a call.
WANTED_SECONDS = 0.0002
EPOLL = "anon_inode:[eventpoll]"


def epolls() -> list[int]:
    """The descriptors of this process that are an epoll."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == EPOLL:
                found.append(int(name))
    return found


class Expecting(trio.abc.Instrument):
    """For `trio.run`, in a process that has this loop alone. `dwell`: the waits without the loop,
    for whoever reads calls."""

    def __init__(
        self,
        look: Callable[[Sequence[int]], object] | None = None,
        now: Callable[[], float] = time.perf_counter,
        dwell: Dwell | None = None,
        awake: Select | None = None,
    ) -> None:
        self._look = look or Wakeful(SHORT_SECONDS, wanted=WANTED_SECONDS).awake
        self._now = now
        self._epolls: list[int] = []
        self._began: float | None = None  # when the loop began to wait, if it does
        self._short = False
        self._ready = 0  # how many tasks can go on, without the one that does
        self._awake: Select = awake or Wakeful(NEAR_SECONDS, wanted=WANTED_SECONDS)
        self._near = False
        self.dwell = dwell or Dwell(self._call)

    def before_run(self) -> None:
        """trio calls it, as the others."""
        with suppress(OSError):
            self._epolls = epolls()
        if len(self._epolls) == 1:
            self.dwell.begin(self._epolls[0], lambda: not self._ready)

    def after_run(self) -> None:
        self.dwell.end()

    def task_scheduled(self, _: trio.lowlevel.Task) -> None:
        self._ready += 1

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        if self._ready:  # else it was ready before this was installed
            self._ready -= 1

    def _call(self, reading: Sequence[int], _: object, __: object, seconds: float) -> Ready:
        """Wait for a call, awake where the last one came soon."""
        began = self._now()
        wait: Select = self._awake if self._near else select.select
        ready = wait(reading, (), (), seconds)
        self._near = self._now() - began < NEAR_SECONDS
        return ready

    def before_io_wait(self, timeout: float) -> None:
        self._began = None
        if timeout > 0:
            self._began = self._now()
            if self._short:
                self._look(self._epolls)

    def after_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            self._short = self._now() - self._began < SHORT_SECONDS
