"""The clock of a host: the machine's, less the time for which it has stood still.

All deadlines, pauses and ages of a host go by trio's clock. While somebody goes through what it
does step by step, the clock stands, and none of them passes: not a probe's, not an upcall's, not
that of a call that waits for a server whose steps somebody looks at. The host goes on doing what
needs no time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, TypeVarTuple

import trio

from umktls.cycles import seldom_collected
from umktls.standstill import ClockFile

__all__ = ["HostClock", "real_pause", "run", "stands"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


class HostClock(trio.abc.Clock):
    """`now` gives seconds; the daemons' deadlines go by CLOCK_MONOTONIC as well.

    It stands while anybody has it stand: hosts of one process share it. `standing` is set then.
    """

    __slots__ = ("_files", "_holders", "_now", "_since", "_stood", "standing")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._stood = self._since = 0.0
        self._holders: set[object] = set()
        self._files: list[ClockFile] = []
        self.standing = trio.Event()

    def start_clock(self) -> None:
        """trio asks for it."""

    def current_time(self) -> float:
        return (self._since or self._now()) - self._stood

    def deadline_to_sleep_time(self, deadline: float) -> float:
        left = deadline - self.current_time()
        return math.inf if self._since and left > 0 else left

    @property
    def stands(self) -> bool:
        return bool(self._since)

    def hold(self, who: object, yes: bool) -> None:
        """Have the clock stand for `who`, or not any more."""
        if yes:
            self._holders.add(who)
        else:
            self._holders.discard(who)
        if bool(self._holders) == self.stands:
            return
        if self._holders:
            self._since = self._now()
            self.standing.set()
        else:
            self.standing = trio.Event()
            self._stood += self._now() - self._since
            self._since = 0.0
        for file in self._files:
            file.write(self._stood, self._since)

    def show_in(self, file: ClockFile) -> None:
        """Have the daemons see it, from now on."""
        file.write(self._stood, self._since)
        self._files.append(file)


def stands() -> bool:
    """Whether the clock of this event loop stands still."""
    clock = trio.lowlevel.current_clock()
    return isinstance(clock, HostClock) and clock.stands


async def real_pause(seconds: float) -> None:
    """Wait so long, by the machine's clock too where the host's stands still: for what has to be
    looked at meanwhile."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, HostClock):
        await trio.sleep(seconds)
        return
    with trio.move_on_after(seconds):
        await clock.standing.wait()
    if clock.stands:
        await trio.to_thread.run_sync(time.sleep, seconds, abandon_on_cancel=True)


def run(
    function: Callable[[*Args], Awaitable[T]],
    *args: *Args,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run` by such a clock: for whatever has a host in it."""
    with seldom_collected():
        return trio.run(function, *args, clock=HostClock(), instruments=instruments)
