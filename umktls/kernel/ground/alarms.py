"""Deadlines of what is nearly always there in time, kept by one task for all.

Theory of operation. To wait in a cancel scope of trio's costs 70,000 instructions, which is a
fiftieth of what a handshake costs a host, and a handshake waits a dozen times. So here a deadline
is an entry in a heap, and one task of the event loop, which sleeps until the first of them, wakes
up who waits. Most entries are taken back before, which only marks them: they go when their time has
come, or when most of the heap is such ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import trio

__all__ = ["Alarm", "Completion", "alarm_at"]

# Below so many it is not looked for those that were taken back.
FEW = 1000


class Alarm:
    """`ring` is called once, if it is not taken back before; `rung` says whether it was."""

    __slots__ = ("ring", "rung")

    def __init__(self, ring: Callable[[], object]) -> None:
        self.ring: Callable[[], object] | None = ring
        self.rung = False

    def cancel(self) -> None:
        """Take it back; nothing if it was rung."""
        self.ring = None


class Alarms:
    """Those of one event loop. Two of one time ring in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._first = math.inf  # until when `run` sleeps
        self._asleep = trio.CancelScope()
        self._many = FEW

    def set(self, when: float, ring: Callable[[], object]) -> Alarm:
        alarm = Alarm(ring)
        heappush(self._heap, (when, next(self._numbers), alarm))
        if when < self._first:
            self._first = self._asleep.deadline = when
        if len(self._heap) > self._many:
            self._forget()
        return alarm

    def _forget(self) -> None:
        """Drop those that were taken back."""
        self._heap = [entry for entry in self._heap if entry[2].ring is not None]
        heapify(self._heap)
        self._many = max(FEW, 2 * len(self._heap))

    async def run(self) -> None:
        """The task."""
        while True:
            with self._asleep:
                await trio.sleep_forever()
            self._ring()
            self._first = self._heap[0][0] if self._heap else math.inf
            self._asleep = trio.CancelScope(deadline=self._first)

    def _ring(self) -> None:
        heap, now = self._heap, trio.current_time()
        while heap and (heap[0][0] <= now or heap[0][2].ring is None):
            _, _, alarm = heappop(heap)
            ring, alarm.ring = alarm.ring, None
            if ring is not None:
                alarm.rung = True
                ring()


_alarms: trio.lowlevel.RunVar[Alarms] = trio.lowlevel.RunVar("alarms")


def alarm_at(when: float, ring: Callable[[], object]) -> Alarm:
    """Have `ring` called at that time of trio's clock; it must not raise."""
    try:
        alarms = _alarms.get()
    except LookupError:
        alarms = Alarms()
        _alarms.set(alarms)
        trio.lowlevel.spawn_system_task(alarms.run)
    return alarms.set(when, ring)


class Completion:
    """As `trio.Event`, for one task, which waits for it up to a time."""

    __slots__ = ("_set", "_task")

    def __init__(self) -> None:
        self._set = False
        self._task: trio.lowlevel.Task | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._wake()

    async def wait(self, until: float = math.inf) -> bool:
        """Wait for it up to this time of trio's clock; whether it is set. One that is set already
        is no checkpoint."""
        if self._set:
            return True
        assert self._task is None, "somebody waits for it already"
        self._task = trio.lowlevel.current_task()
        alarm = alarm_at(until, self._wake)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
        finally:
            alarm.cancel()
        return self._set

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
