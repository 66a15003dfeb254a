"""Single steps through all hosts that are shown, one stop at a time.

Each host has a connection of its own for this (umktls.kernel.host.stepping), and goes on by itself
when that ends. Where one host stands, the others are told to hold their clocks: they wait for it.
Hosts go through steps only while a page is open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

import trio

from umktls.cli.control import Host
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.ground.steps import STEPS
from umktls.kernel.host.rundir import run_base
from umktls.kernel.host.stepping import announce
from umktls.watch import hosts
from umktls.watch.feed import Feed, Message

__all__ = ["Stepper"]

LOOK_SECONDS = 0.1


@dataclass(eq=False)
class Line:
    """One host. `holds`: it was told that another one stands."""

    host: Host
    stream: trio.SocketStream
    stops: list[dict[str, Any]] = field(default_factory=list)
    holds: bool = False
    lock: trio.Lock = field(default_factory=trio.Lock)

    async def say(self, order: dict[str, Any]) -> None:
        """One that has gone has nothing to obey."""
        try:
            async with self.lock:
                await self.stream.send_all(json.dumps(order).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class Stepper:
    """`from_start`: stepping is on as soon as a page is open. `names`: which hosts are shown, all
    if there are none."""

    def __init__(
        self,
        feed: Feed,
        names: tuple[str, ...] = (),
        base: Path | None = None,
        *,
        from_start: bool = False,
    ) -> None:
        self.on = False
        self.kinds = list(STEPS)
        self._feed, self._names, self._base = feed, names, base
        self._from_start = from_start
        self._pages = 0
        self._lines: dict[str, Line] = {}
        self._known: set[str] = set()
        self._problems: dict[str, str] = {}
        self._life = trio.CancelScope()
        self._switched = trio.Event()

    # ---- pages

    @contextmanager
    def page(self) -> Iterator[None]:
        """A page is open inside the block. When the last one goes, everything goes on."""
        self._pages += 1
        if self._pages == 1 and self._from_start:
            self._switch(True)
        try:
            yield
        finally:
            self._pages -= 1
            if not self._pages:
                self._switch(False)

    def message(self) -> Message:
        """What the page shows: see `static/steps.js`."""
        return {
            "t": "step",
            "on": self.on,
            "kinds": self.kinds,
            "stops": self._stops(),
            "problems": [
                f"{host}: {why}"
                for host, why in sorted(self._problems.items())
                if host in self._feed.hosts
            ],
        }

    async def obey(self, asked: dict[str, Any]) -> None:
        """What the page asks for: "on", "kinds", "next". Raises `CallerError`."""
        if "kinds" in asked:
            kinds = asked["kinds"]
            if not isinstance(kinds, list) or any(kind not in list(STEPS) for kind in kinds):
                raise CallerError(f"kinds is {kinds!r}, and no list of steps")
            self.kinds = [kind for kind in STEPS if kind in kinds]
            for line in list(self._lines.values()):
                await line.say({"kinds": self.kinds})
        if "on" in asked:
            self._switch(bool(asked["on"]) and self._pages > 0)
        if asked.get("next"):
            await self._next()
        self._tell()

    async def _next(self) -> None:
        """The one that has stood longest goes on."""
        for stop in self._stops()[:1]:
            if (line := self._lines.get(stop["host"])) is not None:
                line.stops = [each for each in line.stops if each["number"] != stop["number"]]
                await line.say({"next": stop["number"]})

    def _stops(self) -> list[dict[str, Any]]:
        found = [
            {**stop, "host": line.host.name} for line in self._lines.values() for stop in line.stops
        ]
        return sorted(found, key=lambda stop: float(stop["mono"]))

    def _tell(self) -> None:
        self._feed.tell(self.message())

    # ---- hosts

    def _switch(self, on: bool) -> None:
        if on == self.on:
            return
        self.on = on
        announce(self._base or run_base(), self._names if on else None)
        if not on:
            self._life.cancel()
        self._switched.set()
        self._tell()

    async def run(self) -> None:
        """Step while that is on, until cancelled; then everything goes on."""
        try:
            while True:
                self._switched = trio.Event()
                if self.on:
                    await self._through()
                else:
                    await self._switched.wait()
        finally:
            self._switch(False)

    async def _through(self) -> None:
        with trio.CancelScope() as self._life:
            async with trio.open_nursery() as nursery:
                while self.on:
                    for name, host in self._feed.hosts.items():
                        if name not in self._known:
                            self._known.add(name)
                            nursery.start_soon(self._follow, host)
                    await trio.sleep(LOOK_SECONDS)
                nursery.cancel_scope.cancel()
        self._known.clear()
        self._lines.clear()
        self._problems.clear()
        self._tell()

    async def _follow(self, host: Host) -> None:
        """Have a host stop where the page wants it, until it ends."""
        try:
            async with hosts.connected(host) as stream:
                line = self._lines[host.name] = Line(host, stream)
                await line.say({"op": "step", "kinds": self.kinds})
                async with aclosing(hosts.lines(stream)) as told:
                    async for state in told:
                        line.stops = stops_untrusted(state)
                        await self._settle()
        except trio.BrokenResourceError:
            pass
        except UmktlsError as error:
            self._problems[host.name] = str(error)
        finally:
            self._lines.pop(host.name, None)
        if host.name not in self._problems:
            self._known.discard(host.name)
        await self._settle()

    async def _settle(self) -> None:
        """Who stands has the clocks of all others stand."""
        self._tell()
        for line in list(self._lines.values()):
            holds = any(other.stops for other in self._lines.values() if other is not line)
            if holds != line.holds:
                line.holds = holds
                await line.say({"hold": holds})


def stops_untrusted(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a host stands, as it says."""
    stops = state.get("stops")
    return [
        stop
        for stop in (stops if isinstance(stops, list) else ())
        if isinstance(stop, dict)
        and isinstance(stop.get("number"), int)
        and isinstance(stop.get("mono"), int | float)
    ]
