"""A capture of one host: the packets of its connections, RPC in clear, and what the host does.

A capture gets what passes TCP from `tapped` sockets, RPC messages from the kernel's sockets, events
from the trace, and system calls from who answers them. Without `secrets` the file holds what
somebody on the network could have seen, and what the host says in its trace; with them also the
keys to that, and RPC in clear.

The first comment of a file says which it is. Whatever is lost, or was never seen, a comment says
at its place.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from umktls.capture import pcapng
from umktls.capture.packets import Endpoint
from umktls.capture.pdus import host_pdu
from umktls.kernel.captures.line import HOST, Line
from umktls.kernel.captures.sinks import Sink
from umktls.kernel.captures.tapped import tap, untap
from umktls.kernel.ground.events import Event, Trace, describe
from umktls.ktls.engines import Route
from umktls.ktls.session import Direction
from umktls.rpc.xdr import Buffer
from umktls.upcall.captured import CAPTURE_BYTES, CAPTURE_SECRETS, Captured, Kind

__all__ = ["Capture", "Connection", "Tap"]

# What every event has; the rest is shown field by field.
COMMON = frozenset({"time", "mono", "number", "host", "side", "connection", "event", "text"})
WAYS: dict[Kind, Direction] = {Kind.SENT: "tx", Kind.RECEIVED: "rx"}
WORDS: dict[str, Direction] = {"sending": "tx", "receiving": "rx"}
SILENT = "its daemon, which does not tell of them"


class Routed(Protocol):
    def route(self, direction: Direction) -> Route: ...


class Messages(Protocol):
    """RPC's side of a socket: what a capture needs to know of it, and gives it."""

    in_pieces: bool
    tap: Tap | None


class Connection(Protocol):
    """What a capture needs of a socket of the kernel."""

    sock: socket.socket
    name: str

    @property
    def rpc(self) -> Messages: ...

    @property
    def detours(self) -> Routed: ...


class Tap:
    """The capture of one socket. `wanted`: what its daemon is to tell; see upcall.captured."""

    def __init__(self, line: Line, rpc: Messages, wanted: int) -> None:
        self.line = line
        self.wanted = wanted
        self._rpc = rpc

    def sent(self, parts: Sequence[Buffer]) -> None:
        """An RPC message, with its mark."""
        if not self._rpc.in_pieces:
            self.line.marked_message("tx", parts)

    def received(self, parts: Sequence[Buffer]) -> None:
        """An RPC message, without."""
        if not self._rpc.in_pieces:
            self.line.message("rx", parts)

    def told(self, value: bytes) -> None:
        """UMKTLS_CAPTURED: what the daemon has done with the connection. Raises `CallerError`."""
        captured = Captured.unpack_untrusted(value)
        if captured.kind is Kind.SECRETS:
            self.line.secrets(captured.data)
        else:
            self.line.pass_bytes(WAYS[captured.kind], captured.data, captured.when)


class Capture:
    """See the module. client: whether the host is one."""

    def __init__(self, trace: Trace, sink: Sink, *, client: bool, secrets: bool) -> None:
        self.secrets = secrets
        self._trace = trace
        self._sink = sink
        self._client = client
        self._lines: dict[str, Line] = {}
        self._sockets: dict[str, Connection] = {}
        self._listening = trace.subscribed(self._happened)

    def begin(self, sockets: Sequence[Connection]) -> None:
        """From here on. `sockets` are there already."""
        self._listening.__enter__()
        for sock in sockets:
            self.adopt(sock, whole=False)

    def end(self) -> None:
        """Nothing more comes. The sink is still to be closed."""
        self._listening.__exit__(None, None, None)
        for line in self._lines.values():
            line.settle()
        for sock in self._sockets.values():
            untap(sock.sock)
            sock.rpc.tap = None
        self._sockets.clear()
        self._lines.clear()

    def adopt(self, sock: Connection, *, whole: bool = True) -> None:
        """Another connection."""
        line = Line(self, sock.sock, client=self._client, whole=whole)
        wanted = CAPTURE_BYTES | (CAPTURE_SECRETS if self.secrets else 0)
        self._lines[sock.name], self._sockets[sock.name] = line, sock
        sock.rpc.tap = Tap(line, sock.rpc, wanted)
        tap(sock.sock, line)

    # ---- what lines write

    def now(self) -> float:
        return self._trace.now()

    def write(
        self,
        interface: int,
        way: pcapng.Direction,
        size: int,
        make: Callable[[], bytes],
        comments: Sequence[str] = (),
        length: int | None = None,
        when: float | None = None,
    ) -> None:
        now = self.now() if when is None else when

        def render(said: Sequence[str]) -> bytes:
            data = make()
            whole = None if length is None else len(data) - size + length
            return pcapng.packet(interface, now, data, whole, [*said, *comments], way)

        self._sink.put(interface, size, render)

    def write_secrets(self, key_log: bytes) -> None:
        if self.secrets:
            self._sink.put(None, len(key_log), lambda said: pcapng.tls_secrets(key_log))

    # ---- what the host does

    def _happened(self, event: Event) -> None:
        name, connection = str(event["event"]), event["connection"]
        line = self._lines.get(str(connection))
        kind = "upcall" if name.startswith("upcall") else "event"
        fields = {"kind": kind, "name": name, "connection": connection, "text": event["text"]}
        rest = {key: value for key, value in event.items() if key not in COMMON | fields.keys()}
        self._say(line, {**fields, **rest})
        if line is not None:
            line.happened(str(event["text"]))
            self._follow(line, name, event)

    def syscall(self, connection: str | None, fields: dict[str, object]) -> None:
        """A daemon's system call was answered. `fields` are those of the event `syscall`."""
        shown = {"kind": "syscall", "name": fields["name"], "connection": connection}
        text = describe("syscall", fields)
        self._say(self._lines.get(str(connection)), {**shown, "text": text, **fields})

    def _say(self, line: Line | None, fields: dict[str, object]) -> None:
        ends: dict[Direction, Endpoint] = {} if line is None else line.ends
        source, target = ends.get("tx"), ends.get("rx")
        size = sum(len(str(value)) for value in fields.values())

        def make() -> bytes:
            return host_pdu(source, target, fields)

        self.write(HOST, pcapng.Direction.UNKNOWN, size, make)

    def _follow(self, line: Line, name: str, event: Event) -> None:
        """What an event means for what is to be seen of a connection."""
        if name == "socket-taken":
            line.sealed = True
        elif name == "upcall-answered" and event.get("procedure") == "CONNECT":
            line.catch_up(SILENT)
        elif name == "bounce" and (way := WORDS.get(str(event.get("direction")))):
            line.hear_of(way)
        elif name in ("tx-keys", "rx-keys"):
            self._see_whose_keys(line, str(event["connection"]), name)
        elif name == "closed":
            self._closed(line, str(event["connection"]))

    def _see_whose_keys(self, line: Line, connection: str, name: str) -> None:
        way: Direction = "tx" if name == "tx-keys" else "rx"
        if self._sockets[connection].detours.route(way) is Route.HOST:
            line.lose_sight(way, "the machine's own kernel seals and opens")

    def _closed(self, line: Line, connection: str) -> None:
        line.end()
        del self._lines[connection]
        sock = self._sockets.pop(connection)
        untap(sock.sock)
        sock.rpc.tap = None
