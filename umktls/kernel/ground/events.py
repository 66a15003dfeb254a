"""The trace of a host: what happened, when, on which connection.

Events are plain dictionaries, so that they go to a terminal, a test or the control socket as they
are. A ring keeps the newest; subscribers get each one as it happens. Secrets are never put in.
An event's line for people is clean of control characters; its fields are as they came.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from umktls.printable import printable

__all__ = ["Event", "Trace", "describe"]

logger = logging.getLogger(__name__)

Event = dict[str, Any]

RING_EVENTS = 4096

# One line for people per event; the fields in braces are the event's own. An event that lacks a
# field its line names shows a question mark there rather than an error. Where the event has a level
# with a line of its own, that is the one.
TEXTS = {
    "host-up": "{role} host {host} is up, run directory {rundir}",
    "host-down": "host goes down",
    "daemon-started": "{daemon} started as process {pid}",
    "daemon-registered": "process {pid} registered as {daemon} at {path}",
    "daemon-unregistered": "process {pid} is no {daemon} any more",
    "daemon-refused": "{daemon} cannot be started: {reason}; the next try is in {pause} s",
    "daemon-gone": "{daemon} (process {pid}) is gone: {reason}",
    "worker-started": "worker {worker} started as process {pid}",
    "worker-gone": "worker {worker} (process {pid}) is gone: it {reason}; the next one is started "
    "in {pause} s",
    "tcp-connect": "TCP connection to {peer} from {local}",
    "tcp-accept": "TCP connection from {peer}",
    "crowded": "{connections} connections, of which {strangers} have shown nothing: {outcome}",
    "probe": "probe: NULL call with credential flavor AUTH_TLS",
    "starttls": "STARTTLS answered; reading stops, the socket waits for the daemon",
    "queued": "no {daemon} has time now; {waiting} connections wait for one",
    "upcall": "upcall {procedure} to {daemon}",
    "socket-taken": "socket taken by process {pid} as descriptor {fd}",
    "handshake": "handshake done: {version}, {suite}, ALPN {alpn}, peer {peer}, "
    "client certificate {client_certificate}, resumed: {resumed}",
    "handshake-failed": "handshake failed in phase {phase}: {reason}",
    "tx-keys": "TX keys set: {suite}, first sequence number {sequence}",
    "rx-keys": "RX keys set: {suite}, first sequence number {sequence}, "
    "{waiting} bytes wait in the receive queue",
    "mode": "kernel TLS: sending {tx} ({engine_tx}), receiving {rx} ({engine_rx})",
    "card-disabled": "the card is given up: {percent} % had to be sent again",
    "tx-mode": "sending goes on in mode {mode} ({engine})",
    "held-back": "the card held back {bytes} bytes until it had the key",
    "bounce": "{direction} is bounced: the daemon has an end of a socket pair",
    "swallowed": "SSL_read swallowed a record of type {type} ({name}), {bytes} bytes: RPC never "
    "sees it",
    "dropped-record": "a sealed record of {bytes} bytes in front of the clear data was dropped",
    "upcall-answered": "upcall {procedure} answered after {seconds:.3f} s: {result}",
    "lookup-failed": "process {pid} asks for the socket {cookie}, and no upcall is out for that",
    "late-answer": "{daemon} (process {pid}) answered {procedure} too late",
    "control-record": "record of type {type} ({name}), {bytes} bytes, {fate}",
    "post-handshake": "{records} records, {bytes} bytes, waited after the handshake "
    "and did not reach RPC",
    "first-rpc": "first {how} RPC {direction}",
    "orphaned": "{daemon} (process {pid}) has gone: the session waits for another one, RPC goes on",
    "adopted": "{daemon} (process {pid}) goes on with the session",
    "cut-off": "the connection ends, to be made anew: {reason}",
    "ticket": "session ticket kept for the next connection",
    "ticket-dropped": "session ticket dropped: nobody has the handshake that it belongs to",
    "key-update": "key update, {direction} generation {generation}",
    "rekey": "the kernel asks the daemon for new keys",
    "retire": "a new connection is to take the place of this one: {reason}",
    "alert": "alert: {description}: {reason}",
    "alert fatal": "TLS failed in phase {phase}: {description}: {reason}",
    "disconnect": "connection is to be closed: {reason}",
    "closed": "connection closed: {reason}",
    "reconnect": "connection to {peer} lost ({reason}); {waiting} calls wait for a new one",
    "server-away": "{server} is away: {reason}; {waiting} calls wait",
    "server-try": "try {tries} to reach {server} failed: {reason}; the next in {pause:g} s",
    "handed-on": "no connection more to {server} ({reason}); {waiting} calls go over another one",
    "server-back": "{server} answers again, after {seconds:.1f} s",
    "reloaded": "the daemon has read its files again: {outcome}",
    "exports": "exported from now on: {what}",
    "clear-text": "calls of {peer} come in clear: there is no TLS on this connection",
    "rejected": "RPC rejected: {reason}",
    "refused": "{what} is not given to {peer}: {reason}",
    "disabled": "every call with a credential is rejected: the daemon says so",
    "certuser": "AUTH_SYS calls are done as user {uid} with the groups {gids}, of the certificate",
    "garbage": "garbage on {where}: {reason}",
    "carried": "calls of {peer} ({who}) go to the backend {backend}",
    "backend-up": "backend {what} answers again",
    "backend-down": "backend {what} does not answer: {reason}",
    "backends": "backends from now on: {what}",
    "clients": "who may come in was read again: {what}",
    "mountd": "the MOUNT protocol is at {where}, called in {how}",
    "mounted": "mounted {what}",
    "mount-delayed": "not mounted yet: {reason}; next try in {seconds:g} s",
    "warning": "{reason}",
}


class _Question(dict[str, Any]):
    """Fields of an event for its line: one that is missing shows as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def describe(event: str, fields: dict[str, Any]) -> str:
    """The line for people of `event`; an event without a line of its own lists its fields."""
    template = TEXTS.get(f"{event} {fields.get('level')}") or TEXTS.get(event)
    if template is None:
        return event + "".join(f" {key}={value}" for key, value in fields.items())
    try:
        return template.format_map(_Question(fields))
    except (ValueError, TypeError):
        return f"{event} {fields}"


class Trace:
    """Collects the events of one host. `side` is the host's role, "client" or "server"."""

    def __init__(
        self, host: str, side: str, clock: Callable[[], float] = time.time, size: int = RING_EVENTS
    ) -> None:
        self.host = host
        self.side = side
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=size)
        self._subscribers: list[Callable[[Event], None]] = []

    def now(self) -> float:
        """Seconds since 1970, by the trace's clock."""
        return self._clock()

    def emit(self, event: str, connection: str | None = None, /, **fields: Any) -> Event:
        """Record that `event` happened, on connection `connection` if it concerns one.

        Fields that the trace itself fills (time, host, side, connection, event, text) cannot be
        overridden, whoever sends them.
        """
        fields.setdefault("host", self.host)
        record: Event = {
            **fields,
            "time": self._clock(),
            "host": self.host,
            "side": self.side,
            "connection": connection,
            "event": event,
            "text": printable(describe(event, fields)),
        }
        self._ring.append(record)
        logger.info("%s %s", connection or "-", record["text"])
        for subscriber in tuple(self._subscribers):
            subscriber(record)
        return record

    def relay(self, record: Event) -> None:
        """Take an event of another trace as it is."""
        self._ring.append(record)
        for subscriber in tuple(self._subscribers):
            subscriber(record)

    def since(self, when: float = 0.0) -> Iterator[Event]:
        """The kept events that are not older than `when` (seconds since 1970), oldest first."""
        return (event for event in tuple(self._ring) if event["time"] >= when)

    @contextmanager
    def subscribed(self, subscriber: Callable[[Event], None]) -> Iterator[None]:
        """Calls `subscriber` with each event that happens inside the block. It must not block."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)
