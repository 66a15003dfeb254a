"""Going through what a host does step by step.

A gate is a place in the code in front of a step: where `trace.steps.kinds` is not empty, it awaits
`trace.steps.stop(...)`. While nobody steps that look is all it costs. Else the task stops there
until the viewer says "next", and the host's clock stands meanwhile (`hostclock.py`). Other tasks go
on: they may come to gates of their own, and stop too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Any

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.ground.hostclock import HostClock
from umktls.standstill import STEPPED, ClockFile

__all__ = ["STEPS", "Steps", "Stop"]

# The kinds of steps, and in front of what a host stops.
STEPS = {
    "probe": "the client asks for TLS",
    "STARTTLS": "the server says yes",
    "upcall": "the kernel calls its daemon",
    "taken": "the daemon takes the socket",
    "flight": "the daemon sends a flight of the handshake",
    "keys": "the kernel gets the key of a direction",
    "first record": "the first record behind the handshake",
    "KeyUpdate": "a KeyUpdate is sent, or the daemon hears of one",
    "close": "the connection ends",
}


@dataclass(eq=False, slots=True)
class Stop:
    """A task that stands in front of a step."""

    number: int
    step: str
    connection: str | None
    what: str
    mono: float
    go: trio.Event = field(default_factory=trio.Event)

    def facts(self) -> dict[str, Any]:
        names = ("number", "step", "connection", "what", "mono")
        return {name: getattr(self, name) for name in names}


class Steps:
    """The gates of one host. `kinds`: at which of them it stops; none while nobody steps.

    `emit` has the trace's events.
    """

    def __init__(self, emit: Callable[..., object], mono: Callable[[], float]) -> None:
        self.kinds: frozenset[str] = frozenset()
        self.stops: list[Stop] = []
        self.viewed = False
        self.arrived = trio.Event()
        self.emit = emit
        self._mono = mono
        self._count = 0
        self._clock: HostClock | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._files: list[ClockFile] = []
        self._flags = 0
        self._left = False

    async def stop(self, step: str, connection: str | None, what: str = "") -> None:
        """Stand in front of a step until the viewer says "next", or steps no more."""
        if step not in self.kinds:
            return
        self._count += 1
        one = Stop(self._count, step, connection, what, self._mono())
        self.stops.append(one)
        self._settle()
        self.emit("stopped", connection, step=step, what=what)
        try:
            await one.go.wait()
        finally:
            self.stops.remove(one)
            self._settle()
            seconds = self._mono() - one.mono
            self.emit("gone-on", connection, step=step, what=what, seconds=seconds)

    def _settle(self) -> None:
        if self._clock is not None:
            self._clock.hold((self, "stops"), bool(self.stops))
        self._on_change()

    def show_in(self, file: ClockFile) -> None:
        """Have the daemons see that the clock stands, and that somebody steps or watches."""
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, HostClock):
            clock.show_in(file)
        file.mark(self._flags, True)
        self._files.append(file)

    def mark(self, flag: int, on: bool) -> None:
        """Tell the daemons; see `umktls.standstill`."""
        self._flags = self._flags | flag if on else self._flags & ~flag
        for file in self._files:
            file.mark(flag, on)

    @staticmethod
    def possible() -> bool:
        """Whether the clock can stand still."""
        return isinstance(trio.lowlevel.current_clock(), HostClock)

    # ---- for the viewer

    @contextmanager
    def viewing(self, changed: Callable[[], None]) -> Iterator[None]:
        """Somebody may step inside the block; behind it everything goes on. `changed` is called
        when there is another stop, or one less. Raises `CallerError` where somebody does already,
        `UnsupportedError` where the clock cannot stand still."""
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, HostClock):
            raise UnsupportedError("the clock of this host cannot stand still")
        if self.viewed:
            raise CallerError("somebody goes through this host's steps already", errno.EBUSY)
        self.viewed, self._clock, self._on_change = True, clock, changed
        self.arrived.set()
        self.mark(STEPPED, True)
        try:
            yield
        finally:
            self._on_change = lambda: None
            self.end()
            self.mark(STEPPED, False)
            self.viewed, self.arrived = False, trio.Event()

    def choose(self, kinds: Iterable[object]) -> None:
        """In front of which steps to stop. Who stands in front of another goes on. Raises
        `CallerError` for a kind that there is not."""
        chosen = frozenset(map(str, kinds))
        if unknown := sorted(chosen - set(STEPS)):
            known = ", ".join(STEPS)
            raise CallerError(f"there is no step {unknown[0]!r} to stop at; there are: {known}")
        self.kinds = frozenset() if self._left else chosen
        for stop in self.stops:
            if stop.step not in self.kinds:
                stop.go.set()

    def next(self, number: object) -> None:
        """Have one go on. It may have gone already, with its connection."""
        for stop in self.stops:
            if stop.number == number:
                stop.go.set()

    def hold(self, yes: bool) -> None:
        """Have the clock stand because another host's does, which this one's peer is on."""
        if self._clock is not None:
            self._clock.hold((self, "peer"), yes and not self._left)

    def end(self) -> None:
        """Nobody steps any more: everything goes on."""
        self.choose(())
        self.hold(False)

    def leave(self) -> None:
        """The host is about to end: from now on it stops nowhere, whoever wants it."""
        self._left = True
        self.end()
