"""The control socket: how `umktls stat` and `umktls trace` look into a host.

AF_UNIX stream in the run directory; one JSON object per line each way. The first line names the
operation; what it answers is said beside each function in the table.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import trio

from umktls.errors import CallerError, UmktlsError
from umktls.kernel.captures.config import DEFAULT_SIZE, CaptureConfig
from umktls.kernel.ground.events import Event, Trace
from umktls.kernel.host.capturing import Capturing
from umktls.kernel.host.stepping import serve_stepping
from umktls.private import allowed, peer_credentials

__all__ = ["ControlServer", "Controlled"]

LINE_LIMIT = 65536
# Events that wait for a slow reader of the trace; older ones are lost for it, never for the host,
# and the next one that it gets says how many.
FOLLOW_QUEUE = 10_000
FOLLOW_LINES = 100  # that go in one write


class Controlled(Protocol):
    """What the control socket shows of a host."""

    trace: Trace

    def stat(self) -> dict[str, Any]: ...

    async def renew(self, connection: str | None, how: str | None) -> dict[str, int]: ...

    def sysctl(self, values: dict[str, Any]) -> dict[str, Any]: ...

    async def tx_mode(self, mode: str, connection: str | None) -> int: ...

    def record(self, number: int) -> dict[str, Any]: ...

    capturing: Capturing

    @property
    def sockets(self) -> Mapping[str, object]: ...
    def meddle(self, what: str, connection: str | None) -> int: ...


class ControlServer:
    """Serves the control socket of one host."""

    def __init__(self, host: Controlled) -> None:
        self._host = host
        self._operations: dict[str, Callable[[trio.SocketStream, dict[str, Any]], Awaitable[None]]]
        self._operations = {
            "stat": self._stat,
            "trace": self._trace,
            "record": self._record,
            "do": self._do,
            "rekey": self._rekey,
            "sysctl": self._sysctl,
            "txmode": self._tx_mode,
            "capture": self._capture,
            "step": self._step,
        }

    async def serve_client(self, stream: trio.SocketStream) -> None:
        """Answers one client; a client that goes away ends only its own task."""
        async with stream:
            _, uid, _ = peer_credentials(stream.socket)
            if not allowed(uid):
                return
            # A group, because whoever follows the trace has a task of its own to notice the end.
            try:
                await self._serve(stream)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            request = parse_request_untrusted(await read_line(stream))
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                known = ", ".join(sorted(self._operations))
                raise CallerError(f"no operation {request.get('op')!r}; there are: {known}")
            await operation(stream, request)
        except UmktlsError as error:
            await send_line(stream, {"error": str(error), "errno": error.errno_name})

    async def _stat(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: the state of the host."""
        await send_line(stream, self._host.stat())

    async def _rekey(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: of how many connections the keys were renewed, by a KeyUpdate and by a new
        connection: {"rekeyed": number, "reconnected": number}; of the first some that have
        "ended" by it, and some that are "unanswered", if there are."""
        connection, how = (
            None if wanted is None else str(wanted)
            for wanted in (request.get("connection"), request.get("how"))
        )
        await send_line(stream, await self._host.renew(connection, how))

    async def _sysctl(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: the counters, {"sysctl": [...], "tls_stat": [...]}, after what "set" sets."""
        values = request.get("set") or {}
        if not isinstance(values, dict):
            raise CallerError("set is not an object of names and values")
        await send_line(stream, self._host.sysctl(values))

    async def _tx_mode(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: {"switched": number of connections that were asked}."""
        wanted = request.get("connection")
        count = await self._host.tx_mode(
            str(request.get("mode")), None if wanted is None else str(wanted)
        )
        await send_line(stream, {"switched": count})

    async def _do(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: {"done": to how many connections or daemons it was done}; see
        umktls.kernel.host.meddling."""
        wanted = request.get("connection")
        connection = None if wanted is None else str(wanted)
        count = self._host.meddle(str(request.get("what")), connection)
        await send_line(stream, {"done": count})

    async def _record(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: the record of that number (umktls.kernel.sockets.watching), while it is kept
        and somebody watches closely."""
        wanted = request.get("record")
        if not isinstance(wanted, int):
            raise CallerError(f"record is {wanted!r}, and not the number of one")
        await send_line(stream, self._host.record(wanted))

    async def _step(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """See umktls.kernel.host.stepping."""
        await serve_stepping(stream, self._host.trace.steps, request)

    async def _capture(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """One line: {"capturing": how many connections}. The capture lasts until the client sends
        the end of its stream, or something ends it; then one more line: {"ended": why, "" for the
        client}."""
        path, size = request.get("path"), request.get("size", DEFAULT_SIZE)
        if not isinstance(path, str) or not os.path.isabs(path) or not isinstance(size, int):
            raise CallerError("a capture needs an absolute path, and its size in bytes")
        capturing = self._host.capturing
        capturing.begin(CaptureConfig(Path(path), bool(request.get("secrets")), size))
        ended = capturing.ended
        try:
            await send_line(stream, {"capturing": len(self._host.sockets)})
            async with trio.open_nursery() as nursery:

                async def hang_up() -> None:
                    await stream.receive_some(1)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(hang_up)
                await ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if not ended.is_set():
                    await capturing.end()
        await send_line(stream, {"ended": capturing.failure})

    async def _trace(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        """The kept events from `since` on; with `follow` new ones too, until the client goes; with
        `close` also those that happen for every record, call and system call."""
        since = number(request.get("since", 0))
        news = News()
        trace = self._host.trace
        with trace.watched(news.take) if request.get("close") else trace.subscribed(news.take):
            for event in trace.since(since):
                await send_line(stream, event)
            if request.get("follow"):
                await self._follow(stream, news)

    async def _follow(self, stream: trio.SocketStream, news: News) -> None:
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                await stream.receive_some(1)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hang_up)
            lines: list[bytes] = []
            while True:
                try:
                    await news.wait()
                    lines = news.lines(FOLLOW_LINES)
                    await trio.lowlevel.checkpoint_if_cancelled()
                except trio.Cancelled:
                    goodbye(stream, lines + news.lines(FOLLOW_QUEUE))
                    raise
                await stream.send_all(b"".join(lines))
                lines = []


class News:
    """What somebody who follows the trace has still to be told: the newest events, and how many
    are lost in front of them."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._lost = 0
        self._came = trio.Event()

    def take(self, event: Event) -> None:
        """Another event."""
        if len(self._events) >= FOLLOW_QUEUE:
            self._lost += 1 + self._events.popleft().get("skipped", 0)
        self._events.append(event)
        self._came.set()

    async def wait(self) -> None:
        """Until there is something to tell."""
        while not self._events:
            self._came = trio.Event()
            await self._came.wait()

    def lines(self, most: int) -> list[bytes]:
        """So many of them, oldest first. The first one says what is lost."""
        lines: list[bytes] = []
        while self._events and len(lines) < most:
            event = self._events.popleft()
            if self._lost:
                event = {**event, "skipped": event.get("skipped", 0) + self._lost}
                self._lost = 0
            lines.append(encoded(event))
        return lines


def goodbye(stream: trio.SocketStream, lines: list[bytes]) -> None:
    """The host ends: what has happened last goes too, as far as the socket takes it at once."""
    with suppress(OSError):
        os.write(stream.socket.fileno(), b"".join(lines))


def number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise CallerError(f"since is {value!r}, and not seconds since 1970")
    return float(value)


def parse_request_untrusted(line: bytes) -> dict[str, Any]:
    """A request line. Raises `CallerError` whatever the bytes are, unless they are an object."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CallerError("the request is not a line of JSON") from error
    if not isinstance(request, dict):
        raise CallerError("the request is not a JSON object")
    return request


async def read_line(stream: trio.SocketStream) -> bytes:
    """The first line that the client sends. Raises `CallerError` for one that is longer than
    `LINE_LIMIT` bytes."""
    came = bytearray()
    while True:
        data = await stream.receive_some(4096)
        came += data
        line, newline, _ = came.partition(b"\n")
        if len(line) > LINE_LIMIT:
            raise CallerError(f"the request is longer than {LINE_LIMIT} bytes", errno.EMSGSIZE)
        if newline or not data:
            return bytes(line)


def encoded(value: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(value, default=str).encode() + b"\n"


async def send_line(stream: trio.SocketStream, value: dict[str, Any]) -> None:
    await stream.send_all(encoded(value))
