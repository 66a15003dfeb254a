"""What both halves of a KTLS socket have: a place in their table, counts, a key that wears out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from umktls.ktls.session.counters import Tally
from umktls.ktls.session.suites import Suite
from umktls.ktls.socket.states import Event, State, step

__all__ = ["Half", "Watcher"]


class Watcher(Protocol):
    """Who looks on."""

    def state_changed(self, state: State) -> None:
        """The half has gone on in its table."""


class Half:
    """See Transmitter and Receiver for what the attributes count."""

    def __init__(self, transitions: Mapping[tuple[State, Event], State], direction: str) -> None:
        self.records = 0
        self.bytes = 0
        self.suite: Suite | None = None
        self.tally = Tally()
        self.wants_rekey = False
        self.on_wants_rekey: Callable[[], None] | None = None
        self._transitions = transitions
        self._direction = direction
        self._state = State.CLEAR
        self._looks_on: Watcher | None = None

    @property
    def state(self) -> State:
        return self._state

    def _go(self, event: Event) -> None:
        """On in the table. Raises CallerError as `step`."""
        self._state = step(self._transitions, self._state, event, self._direction)
        if self._looks_on is not None:
            self._looks_on.state_changed(self._state)
