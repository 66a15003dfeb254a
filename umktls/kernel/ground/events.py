"""The trace of a host: what happened, when, on which connection.

Events are plain dictionaries, so that they go to a terminal, a test or the control socket as they
are; which there are, and what is in them, is a table (`kinds.py`, `schema.py`). A ring keeps the
newest; subscribers get each one as it happens. Secrets are never put in. An event's line for people
is clean of control characters; its fields are as they came. The line is made when the event is
first shown to somebody: most never are, and a line costs as much as all the rest.

What happens for every record and call is told only to those who watch closely (`watched`), and only
as often as `pace.py` has it. Where such an event would happen, code looks at `trace.close` first:
while nobody watches, that is all it costs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from umktls.kernel.ground.kinds import KINDS, LEVELS
from umktls.kernel.ground.pace import Pace
from umktls.kernel.ground.schema import COMMON
from umktls.kernel.ground.steps import Steps
from umktls.printable import printable

__all__ = ["Event", "Trace", "describe"]

logger = logging.getLogger(__name__)

Event = dict[str, Any]

RING_EVENTS = 4096

TEXTS = {name: kind.line for name, kind in KINDS.items()} | LEVELS
# Events whose line depends on their level.
LEVELED = frozenset(name.split()[0] for name in LEVELS)


class _Question(dict[str, Any]):
    """Fields of an event for its line: one that is missing shows as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def describe(event: str, fields: dict[str, Any]) -> str:
    """The line for people of `event`; an event without a line of its own lists its fields."""
    template = TEXTS.get(event)
    if event in LEVELED:
        template = TEXTS.get(f"{event} {fields.get('level')}") or template
    if template is None:
        return event + "".join(f" {key}={value}" for key, value in _own(fields).items())
    try:
        return _filled(template, fields)
    except (ValueError, TypeError):
        return f"{event} {_own(fields)}"


def _own(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that not every event has."""
    return {key: value for key, value in fields.items() if key not in COMMON}


def _shown(record: Event) -> Event:
    """The event with its line."""
    if record["text"] is None:
        record["text"] = printable(describe(record["event"], record))
    return record


def _filled(template: str, fields: dict[str, Any]) -> str:
    try:
        return template.format(**fields)
    except KeyError:
        return template.format_map(_Question(fields))


class Trace:
    """Collects the events of one host. `side` is the host's role, "client" or "server".

    Attributes:
        close: somebody watches closely: `step` has an ear.
        has_room: says whether a step is told that happens now. Whoever has to work for its fields
            looks at `close`, asks this, and then makes the step by `tell`; where it is not told, it
            counts as skipped.
        seen: somebody has watched closely at some time.
        steps: the gates at which the host stops for whoever steps through what it does.
        on_close: called with True when the first one begins to, with False when the last one goes.
    """

    def __init__(
        self,
        host: str,
        side: str,
        clock: Callable[[], float] = time.time,
        size: int = RING_EVENTS,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.side = side
        self.close = False
        self.seen = trio.Event()
        self.on_close: Callable[[bool], None] = lambda close: None
        self._clock = clock
        self._mono = mono
        self._number = 0
        self._ring: deque[Event] = deque(maxlen=size)
        self._subscribers: list[Callable[[Event], None]] = []
        self._watchers: list[Callable[[Event], None]] = []
        self._pace = Pace(mono)
        self.has_room = self._pace.take
        self.steps = Steps(self.emit, mono)

    def now(self) -> float:
        """Seconds since 1970, by the trace's clock."""
        return self._clock()

    def emit(self, event: str, connection: str | None = None, /, **fields: Any) -> None:
        """Record that `event` happened, on connection `connection` if it concerns one.

        Fields that the trace itself fills (those of `schema.COMMON`) cannot be overridden, whoever
        sends them.
        """
        record = self._event(event, connection, fields, self._mono())
        self._ring.append(record)
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s", connection or "-", _shown(record)["text"])
        if self._subscribers or self._watchers:
            self._tell_all(_shown(record))

    def step(self, event: str, connection: str | None, /, **fields: Any) -> None:
        """Tell of one of the kinds that are `watched`, behind a look at `close`."""
        if self.close and self.has_room():
            self.tell(event, connection, **fields)

    def tell(self, event: str, connection: str | None, /, **fields: Any) -> None:
        """A step for which there is room."""
        if skipped := self._pace.skipped():
            fields["skipped"] = skipped
        record = _shown(self._event(event, connection, fields, self._mono()))
        for watcher in tuple(self._watchers):
            watcher(record)

    def _event(
        self, event: str, connection: str | None, fields: dict[str, Any], mono: float
    ) -> Event:
        self._number += 1
        return {
            **fields,
            "time": self._clock(),
            "mono": mono,
            "number": self._number,
            "host": self.host,
            "side": self.side,
            "connection": connection,
            "event": event,
            "text": None,  # see _shown
        }

    def relay(self, record: Event) -> None:
        """Take an event of another trace as it is."""
        self._ring.append(record)
        self._tell_all(record)

    def _tell_all(self, record: Event) -> None:
        for subscriber in (*self._subscribers, *self._watchers):
            subscriber(record)

    def since(self, when: float = 0.0) -> Iterator[Event]:
        """The kept events that are not older than `when` (seconds since 1970), oldest first."""
        return (_shown(event) for event in tuple(self._ring) if event["time"] >= when)

    @contextmanager
    def subscribed(self, subscriber: Callable[[Event], None]) -> Iterator[None]:
        """Calls `subscriber` with each event that happens inside the block. It must not block."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    @contextmanager
    def watched(self, watcher: Callable[[Event], None]) -> Iterator[None]:
        """As `subscribed`, with all steps too."""
        self._watchers.append(watcher)
        if len(self._watchers) == 1:
            self.close = True
            self.seen.set()
            self.on_close(True)
        try:
            yield
        finally:
            self._watchers.remove(watcher)
            if not self._watchers:
                self.close = False
                self.on_close(False)
