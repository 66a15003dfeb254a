"""Waiting shortly without sleeping.

Theory of operation. A processor on which nothing runs sleeps, in a virtual machine even outside of
it, and takes some ten microseconds to wake up: as long as many a wait lasts. So who expects
something at once looks for it again and again, for a time that is not much longer than waking up
takes, and lets others have the processor in between (sched_yield(2)). Where that was in vain it is
left out for a while: the other side is slower, or the processors have enough to do.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Ready", "Select", "Wakeful"]

# After so many times that were in vain, so many are left out.
VAIN, LEFT_OUT = 8, 32
# So many where somebody else wants the processor.
WANTED_LEFT_OUT = 1000

Ready = tuple[list[int], list[int], list[int]]
# The form of select.select.
Select = Callable[[Any, Any, Any, float], Ready]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


class Wakeful:
    """select(2) for reading, which stays awake for so many seconds before it sleeps.

    On one processor it sleeps at once: whoever is waited for needs it. `wanted`: who gives way and
    has the processor back only after so many seconds is in somebody's way, and is not awake for a
    longer while.
    """

    def __init__(
        self,
        seconds: float,
        select: Select = select.select,
        *,
        now: Callable[[], float] = time.perf_counter,
        give_way: Callable[[], object] = os.sched_yield,
        processors: Callable[[], int] = processors,
        wanted: float = math.inf,
    ) -> None:
        self._seconds = seconds if processors() > 1 else 0.0
        self._select = select
        self._now = now
        self._give_way = give_way
        self._wanted = wanted
        self._vain = 0
        self._left_out = 0

    def __call__(self, reading: Sequence[int], _: object, __: object, seconds: float) -> Ready:
        if ready := self.awake(reading):
            return ready, [], []
        return self._select(reading, (), (), seconds)

    def awake(self, reading: Sequence[int]) -> list[int]:
        """The first part of it; what is ready, and nothing if that was in vain or left out."""
        if self._left_out:
            self._left_out -= 1
            return []
        return self._look(reading) if self._seconds else []

    def _look(self, reading: Sequence[int]) -> list[int]:
        now = self._now()
        until = now + self._seconds
        while not (ready := self._select(reading, (), (), 0)[0]):
            before, now = now, self._now()
            if now - before >= self._wanted:
                self._vain, self._left_out = 0, WANTED_LEFT_OUT
                return ready
            if now >= until:
                self._vain += 1
                if self._vain == VAIN:
                    self._vain, self._left_out = 0, LEFT_OUT
                return ready
            self._give_way()
        self._vain = 0
        return ready
