"""All events of all hosts in one order, with their causes, for whoever listens.

Each host is followed by a task of its own. What has come is put in order by CLOCK_MONOTONIC, which
all hosts of a machine have, and waits a little for what may come late. Then it goes to all
listeners as messages of the page (`static/source.js`):

    {"t": "events", "events": [...]}   each with `id`, `here` (host:connection) and `causes`
    {"t": "pairs", "pairs": [[here, there], ...]}
    {"t": "stat", "mono": seconds, "hosts": [...]}   what `umktls stat --json` prints, by host
    {"t": "gone", "host": name}
    {"t": "step", ...}   see stepping.py
"""

from __future__ import annotations

import errno
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from umktls.cli.control import Host
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.host.rundir import run_base
from umktls.kernel.host.stepping import WATCHERS, announce
from umktls.watch import hosts
from umktls.watch.causes import Causes
from umktls.watch.handshakes import message_tree
from umktls.watch.records import Records

__all__ = ["Feed", "Message"]

Message = dict[str, Any]

LOOK_SECONDS = 0.3
BATCH_SECONDS = 0.1
LATE_SECONDS = 0.1  # so long an event is waited for that may come before others
STAT_SECONDS = 0.5
# One that takes longer to answer stands, is stopped or hangs: others do not wait for it, and it is
# asked again when it may have come back.
PATIENCE_SECONDS = 1.0
SILENT_SECONDS = 10.0
KEPT_EVENTS = 50_000
KEPT_STATS = 2_400
KEPT_STATES = 30_000  # of hosts and connections, in all of them
LISTENER_MESSAGES = 500
KEPT_TOURS = 8


class Feed:
    """Follows hosts while `run` does. `names`: which, all if there are none. `since`: which of
    their kept events, seconds since 1970. `secrets`: keys are shown, of hosts that tell them.
    `tours` has the newest lessons that were played (tours.py)."""

    def __init__(
        self,
        names: tuple[str, ...] = (),
        since: float = 0.0,
        base: Path | None = None,
        mono: Callable[[], float] = time.monotonic,
        *,
        secrets: bool = False,
    ) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self.stats: deque[Message] = deque()
        self.hosts: dict[str, Host] = {}
        self.tours: deque[dict[str, Any]] = deque(maxlen=KEPT_TOURS)
        self.causes = Causes()
        self.records = Records(secrets=secrets)
        self._names, self._since, self._base, self._mono = names, since, base, mono
        self._waiting: list[dict[str, Any]] = []
        self._last: dict[str, int] = {}
        self._paired = 0
        self._listeners: list[trio.MemorySendChannel[Message]] = []
        self._showing: list[str] = []
        self._guests: set[str] = set()
        self._states = 0
        self._silent: dict[str, float] = {}  # until when a host is not asked

    def now(self) -> float:
        """Seconds, by the clock of the events."""
        return self._mono()

    # ---- lessons

    @contextmanager
    def showing(self, pid: int) -> Iterator[None]:
        """The hosts of that process are shown too inside the block, whatever `names` says, and wait
        for it when they come up: some live for a moment only."""
        base = self._base or run_base()
        self._showing.append(str(pid))
        announce(base, tuple(self._showing), WATCHERS)
        try:
            yield
        finally:
            self._showing.remove(str(pid))
            announce(base, tuple(self._showing) or None, WATCHERS)

    def is_guest(self, event: dict[str, Any]) -> bool:
        """Whether an event is of a host that is, or was, shown for a lesson."""
        return event["host"] in self._guests

    # ---- listeners

    @contextmanager
    def listening(self) -> Iterator[trio.MemoryReceiveChannel[Message]]:
        """Messages from now on. Whoever is too slow is left behind: the channel ends."""
        send: trio.MemorySendChannel[Message]
        send, receive = trio.open_memory_channel(LISTENER_MESSAGES)
        self._listeners.append(send)
        try:
            yield receive
        finally:
            if send in self._listeners:
                self._listeners.remove(send)
            send.close()

    def history(self) -> list[Message]:
        """What whoever comes now has missed."""
        told: list[Message] = [{"t": "pairs", "pairs": self.pairs}]
        told += list(self.stats)[-1:]
        told.append({"t": "events", "events": list(self.events)})
        return told

    @property
    def pairs(self) -> list[list[str]]:
        """The two ends of each connection."""
        return [[one, other] for one, other in self.causes.others.items() if one < other]

    def tell(self, message: Message) -> None:
        """Tell all listeners."""
        for listener in tuple(self._listeners):
            try:
                listener.send_nowait(message)
            except trio.WouldBlock:
                self._listeners.remove(listener)
                listener.close()

    # ---- tasks

    async def run(self) -> None:
        """Follow the hosts that run and those that come, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._merge)
            nursery.start_soon(self._poll)
            while True:
                for host in hosts.hosts_there(self._wanted(), self._base):
                    if host.name not in self.hosts:
                        self.hosts[host.name] = host
                        nursery.start_soon(self._follow, host)
                    if str(host.pid) in self._showing:
                        self._guests.add(host.name)
                await trio.sleep(LOOK_SECONDS)

    def _wanted(self) -> tuple[str, ...]:
        return (*self._names, *self._showing) if self._names else ()

    async def _follow(self, host: Host) -> None:
        try:
            async with aclosing(hosts.follow(host, self._since)) as events:
                async for event in events:
                    self.take(event)
        except UmktlsError as error:
            mono, text = self._mono(), str(error)
            number = self._last.get(host.name, 0) + 1
            self.take(
                {"host": host.name, "event": "warning", "text": text, "reason": text, "mono": mono}
                | {"number": number, "time": time.time(), "connection": None, "side": ""}
            )
        finally:
            self.hosts.pop(host.name, None)
            self._silent.pop(host.name, None)
            self.tell({"t": "gone", "host": host.name})

    async def _merge(self) -> None:
        while True:
            await trio.sleep(BATCH_SECONDS)
            self.flush(self._mono() - LATE_SECONDS)

    async def _poll(self) -> None:
        while True:
            await trio.sleep(STAT_SECONDS)
            if self._listeners:
                await self.ask_stat()

    async def ask_stat(self) -> None:
        """Ask all hosts what they are at; one that does not answer keeps no other waiting."""
        states: list[Message] = []
        async with trio.open_nursery() as nursery:
            for host in self.hosts.values():
                if self._silent.get(host.name, 0.0) <= trio.current_time():
                    nursery.start_soon(self._ask_one, host, states)
        for state in states:
            self._pair_by_address(states, state)
        message = {"t": "stat", "mono": self._mono(), "hosts": states}
        self._keep_stat(message)
        self.tell(message)

    def _keep_stat(self, message: Message) -> None:
        """For a recording. Of many hosts with many connections fewer are kept."""
        self.stats.append(message)
        self._states += states_in(message)
        while len(self.stats) > 1 and (len(self.stats) > KEPT_STATS or self._states > KEPT_STATES):
            self._states -= states_in(self.stats.popleft())

    async def _ask_one(self, host: Host, states: list[Message]) -> None:
        with trio.move_on_after(PATIENCE_SECONDS) as scope, suppress(UmktlsError):
            states.append(await hosts.answer(host, {"op": "stat"}))
        if scope.cancelled_caught:
            self._silent[host.name] = trio.current_time() + SILENT_SECONDS
        else:
            self._silent.pop(host.name, None)

    # ---- events

    def take(self, event: dict[str, Any]) -> None:
        """An event of a host, as it has come."""
        mono = event.get("mono")
        sane = isinstance(mono, int | float) and math.isfinite(mono)
        event["mono"] = float(mono) if sane and mono is not None else self._mono()
        self._waiting.append(event)

    def flush(self, until: float = math.inf) -> None:
        """Put those in order that are so old, and tell of them."""
        self._waiting.sort(key=lambda event: float(event["mono"]))
        told = []
        while self._waiting and self._waiting[0]["mono"] <= until:
            event = self._waiting.pop(0)
            if self._is_news(event):
                told.append(self._finished(event))
        if told:
            self.events.extend(told)
            if len(self.causes.others) != self._paired:
                self._paired = len(self.causes.others)
                self.tell({"t": "pairs", "pairs": self.pairs})
            self.tell({"t": "events", "events": told})

    def _is_news(self, event: dict[str, Any]) -> bool:
        """Not told already, by the host or by another that tells of its workers."""
        name, number = str(event.get("host")), event.get("number")
        if not isinstance(number, int) or number <= self._last.get(name, 0):
            return False
        self._last[name] = number
        return True

    def _finished(self, event: dict[str, Any]) -> dict[str, Any]:
        event["id"] = f"{event['host']}/{event['number']}"
        if event.get("connection") is not None:
            event["here"] = f"{event['host']}:{event['connection']}"
        event["event"] = str(event.get("event"))
        event["causes"] = self.causes.of(event)
        if event["event"] == "handshake-message":
            add_tree(event)
        self.records.note(event)
        return event

    async def do(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What a button asks of a host: `what` and `connection`. Raises `UmktlsError`."""
        host = self.hosts.get(name)
        if host is None:
            raise CallerError(f"host {name} does not run any more", errno.ENOENT)
        what, connection = str(asked.get("what")), asked.get("connection")
        requests: dict[str, dict[str, Any]] = {
            "rekey": {"op": "rekey"},
            "mode-sw": {"op": "txmode", "mode": "SW"},
            "mode-ifnet": {"op": "txmode", "mode": "IFNET"},
        }
        request = requests.get(what, {"op": "do", "what": what})
        return await hosts.answer(host, {**request, "connection": connection})

    async def record(self, name: str, number: int) -> dict[str, Any]:
        """A record of a host, taken apart. Raises `UmktlsError` where it is kept no more."""
        host = self.hosts.get(name)
        if host is None:
            raise CallerError(f"host {name} does not run any more", errno.ENOENT)
        return await self.records.dissected(host, number)

    def _pair_by_address(self, states: list[Message], state: Message) -> None:
        """Ends of connections that were there before anybody watched."""
        ends = {
            (each["local"], each["peer"]): f"{other['host']['name']}:{each['id']}"
            for other in states
            for each in other["connections"]
        }
        for each in state["connections"]:
            there = ends.get((each["peer"], each["local"]))
            here = f"{state['host']['name']}:{each['id']}"
            if there is not None and there != here and self.causes.pair(here, there):
                self.tell({"t": "pairs", "pairs": self.pairs})


def states_in(message: Message) -> int:
    """Of hosts and connections, in a message `stat`."""
    return sum(1 + len(state["connections"]) for state in message["hosts"])


def add_tree(event: dict[str, Any]) -> None:
    """Take a handshake message apart, as far as it was told."""
    text = str(event.get("hex", "")).removesuffix("...")
    try:
        data = bytes.fromhex(text[: len(text) // 2 * 2])
    except ValueError:
        data = b""
    event["hex"] = data.hex()
    event["tree"] = message_tree(str(event.get("name")), data)
