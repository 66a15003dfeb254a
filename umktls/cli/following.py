"""The events of many hosts in one stream: of those that run, come up later, or have failed.

A mount that fails need not live long enough to be asked for its events. What it has kept is read
then (umktls.kernel.host.kept), so that no event is missing and none comes twice.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from umktls.cli.control import Host, choose, find_hosts
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.host.kept import Kept, kept
from umktls.kernel.host.rundir import running

__all__ = ["follow_all", "follow_hosts", "past", "with_failed"]

# So many events wait for whoever shows them; then they wait in their hosts, which count those that
# are lost.
QUEUED = 1_000

# Nothing tells of hosts that come up, so they are looked for.
LOOK_SECONDS = 0.2

Event = dict[str, Any]


def with_failed(name: str | None, base: Path | None = None) -> list[Host | Kept]:
    """The hosts called `name` that run (see `choose`), and those of which something was kept.

    Raises CallerError where there is neither.
    """
    failed = [one for one in kept(base) if name in (None, one.name, str(one.pid), str(one.rundir))]
    try:
        return [*choose(name, base), *failed]
    except CallerError:
        if failed:
            return list(failed)
        raise


def past(hosts: Sequence[Host | Kept], since: float = 0.0) -> list[Event]:
    """The events that the hosts have kept, merged by time; of one among several that does not
    answer, that. Raises as `Host.trace` where there is only that one."""
    events: list[Event] = []
    for host in hosts:
        try:
            events.extend(host.trace(since))
        except UmktlsError as error:
            if len(hosts) == 1:
                raise
            if running(host.pid):
                events.append(silent(host, error))
    return sorted(events, key=lambda event: float(event.get("time", 0)))


def follow_hosts(hosts: Sequence[Host], since: float, base: Path | None = None) -> Iterator[Event]:
    """The events of these hosts as they happen, until the last one has ended."""
    following = Following(since, base)
    for host in hosts:
        following.follow(host)
    left = len(hosts)
    while left:
        event = following.events.get()
        if event is None:
            left -= 1
        else:
            yield event


def follow_all(since: float, base: Path | None = None) -> Iterator[Event]:
    """The events of all hosts as they happen, also of hosts that come up later; without end."""
    following = Following(since, base)
    while True:
        following.look()
        look_again = time.monotonic() + LOOK_SECONDS
        while (left := look_again - time.monotonic()) > 0:
            try:
                event = following.events.get(timeout=left)
            except queue.Empty:
                break
            if event is not None:
                yield event


class Following:
    """Puts the events of hosts into one queue, with a None where one of them has ended."""

    def __init__(self, since: float, base: Path | None) -> None:
        self.events: queue.Queue[Event | None] = queue.Queue(QUEUED)
        self._since = since
        self._base = base
        self._known: set[tuple[object, ...]] = set()

    def look(self) -> None:
        """Follow the hosts that have come up since the last look."""
        for host in find_hosts(self._base):
            self.follow(host)
        for one in kept(self._base):
            if identity(one) not in self._known:
                self._known.add(identity(one))
                self._begin(self._put, one.trace(self._since))

    def follow(self, host: Host) -> None:
        """Follow one, unless that is done already."""
        if identity(host) not in self._known:
            self._known.add(identity(host))
            self._begin(self._follow, host)

    def _begin(self, work: Callable[..., None], about: object) -> None:
        """In a thread, since the queue may be full."""
        threading.Thread(target=work, args=(about,), daemon=True).start()

    def _follow(self, host: Host) -> None:
        """Its events while it runs; then what was not heard of, if it has failed."""
        last, problem = self._since, None
        try:
            for event in host.trace(self._since, follow=True):
                self.events.put(event)
                last = float(event.get("time", last))
        except UmktlsError as error:
            problem = error
        for one in kept(self._base):
            if identity(one) == identity(host):
                self._put(event for event in one.trace(last) if event["time"] > last)
        if problem is not None and running(host.pid):
            self.events.put(silent(host, problem))
        self.events.put(None)

    def _put(self, events: Iterator[Event]) -> None:
        for event in events:
            self.events.put(event)


def silent(host: Host | Kept, problem: UmktlsError) -> Event:
    """Said in place of a host that runs and does not answer."""
    return {"host": host.name, "event": "warning", "text": str(problem), "time": time.time()}


def identity(host: Host | Kept) -> tuple[object, ...]:
    """What tells a host from all others, also from a later one with the same process number."""
    return host.name, host.pid, host.facts.get("started")
