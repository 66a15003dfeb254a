"""A capture in memory, of sockets without a host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.capture.streams import segments
from umktls.kernel.captures.capture import Capture, Tap
from umktls.kernel.captures.config import heading
from umktls.kernel.captures.sinks import MemorySink
from umktls.kernel.ground.events import Trace
from umktls.ktls.engines import Route
from umktls.ktls.session import Direction

NEAR, FAR = ("c0000201", 700, "c0000202", 2049), ("c0000202", 2049, "c0000201", 700)

KEY = b"a key that nobody may read"


@dataclass
class Routes:
    routes: dict[Direction, Route] = field(default_factory=dict)

    def route(self, direction: Direction) -> Route:
        return self.routes.get(direction, Route.RECORDS)


@dataclass
class RpcSide:
    in_pieces: bool = False
    tap: Tap | None = None


@dataclass
class Sock:
    """A socket of the kernel, as far as a capture goes."""

    sock: socket.socket
    name: str = "c1"
    rpc: RpcSide = field(default_factory=RpcSide)
    detours: Routes = field(default_factory=Routes)

    @property
    def tap(self) -> Tap | None:
        return self.rpc.tap


class World:
    """A host's trace, a capture into memory, and the peer's ends of its connections."""

    def __init__(self, *, secrets: bool = False, client: bool = True) -> None:
        self.trace = Trace("client-7", "client", clock=lambda: 1000.0)
        self.sink = MemorySink(heading("client-7", secrets=secrets), 1 << 24)
        self.capture = Capture(self.trace, self.sink, client=client, secrets=secrets)

    def contents(self) -> bytes:
        return self.sink.contents()

    def comments(self) -> list[str]:
        return [text for one in segments(self.contents()) for text in one.comments]


@contextmanager
def pair(name: str = "c1") -> Iterator[tuple[Sock, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield Sock(near, name), far


@contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: who has connected, and who was called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far
