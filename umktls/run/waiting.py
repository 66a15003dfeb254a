"""Calls of programs that wait for the same thing, each up to its own time.

Nobody tells when a thread waits no more, since a signal has interrupted it or has ended it: it may
be back at once with the same call, again and again. So whoever comes drops those who have gone.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

import trio

from umktls.dataclass import dataclass
from umktls.kernel.ground.alarms import Alarm, alarm_at
from umktls.run.call import Call, Result, finish
from umktls.run.system import refused

__all__ = ["Waiting"]


@dataclass(eq=False, slots=True)
class Waiter:
    """`what` is tried again, and raises `WouldBlock` where the call has to wait on."""

    call: Call
    what: Callable[[], Result]
    alarm: Alarm | None = None

    def done(self) -> bool:
        """Try; whether it waits no more."""
        done = not self.call.valid or finish(self.call, self.what)
        if done:
            self.leave()
        return done

    def leave(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()


class Waiting:
    """The calls, in the order in which they came."""

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, call: Call, what: Callable[[], Result], seconds: float) -> None:
        """Have the call wait; it fails with EAGAIN after so long."""
        self._drop_who_has_gone()
        waiter = Waiter(call, what)
        if seconds < float("inf"):
            until = trio.current_time() + seconds
            waiter.alarm = alarm_at(until, partial(self._give_up, waiter))
        self._waiters.append(waiter)

    def tell(self) -> None:
        """Have all try again."""
        # Whoever tries may find that more has come, and tell.
        waiters, self._waiters = self._waiters, []
        self._waiters += [each for each in waiters if not each.done()]

    def _drop_who_has_gone(self) -> None:
        for waiter in [each for each in self._waiters if not each.call.valid]:
            self._waiters.remove(waiter)
            waiter.leave()

    def _give_up(self, waiter: Waiter) -> None:
        self._waiters.remove(waiter)
        waiter.call.fail(refused(errno.EAGAIN))
