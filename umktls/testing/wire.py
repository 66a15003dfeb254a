"""A wire between two hosts in memory, with fault switches.

    host's socket <-> [ relay ] <-> the other host's socket

The relay moves whole units: RPC messages while the connection is in clear, TLS records afterwards.
A fault is a function from a unit to what is to be sent in its place; it is switched on for some of
the units of one direction.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import field
from typing import Literal

import trio

from umktls.dataclass import dataclass

__all__ = ["Action", "Way", "Wire", "alter", "byte_by_byte", "cut", "delay", "drop"]

Way = Literal["to_server", "to_client"]
# Gets a unit and the stream that it is to go to; returns what is still to be sent.
Action = Callable[[bytes, trio.SocketStream], Awaitable[bytes]]

TLS_TYPES = range(20, 24)


class Cut(Exception):
    """The wire is cut."""


def drop() -> Action:
    """The unit is lost."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        return b""

    return action


def alter(offset: int = -1) -> Action:
    """One bit of the unit's byte at `offset` changes."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        changed = bytearray(unit)
        changed[offset] ^= 1
        return bytes(changed)

    return action


def delay(seconds: float) -> Action:
    """The unit, and what comes behind it, arrives later."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        await trio.sleep(seconds)
        return unit

    return action


def byte_by_byte() -> Action:
    """Each byte of the unit arrives by itself."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        for number in range(len(unit)):
            await stream.send_all(unit[number : number + 1])
            await trio.lowlevel.checkpoint()
        return b""

    return action


def cut() -> Action:
    """The connection ends in front of the unit, in both directions."""

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        raise Cut

    return action


@dataclass
class Fault:
    """An action for `times` units after the first `skip`."""

    action: Action
    skip: int
    times: int

    def due(self) -> bool:
        """Whether it is for the unit at hand; counts."""
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass
class Wire:
    """The connections between two hosts. `passed` counts the units that each way has seen."""

    faults: dict[Way, list[Fault]] = field(
        default_factory=lambda: {"to_server": [], "to_client": []}
    )
    passed: dict[Way, int] = field(default_factory=lambda: {"to_server": 0, "to_client": 0})

    def fault(self, way: Way, action: Action, *, skip: int = 0, times: int = 1) -> None:
        """Have `action` done with units that go `way`, from now on, over all connections."""
        self.faults[way].append(Fault(action, skip, times))

    def connect(self, nursery: trio.Nursery) -> tuple[socket.socket, socket.socket]:
        """A new connection, the client's end and the server's; `nursery` moves what is sent."""
        client, near = socket.socketpair()
        far, server = socket.socketpair()
        nursery.start_soon(self.relay, _stream(near), _stream(far))
        return client, server

    async def relay(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        """Move what the client sends to `near` and the server to `far`, until both have ended."""
        async with near, far, trio.open_nursery() as nursery:

            async def move(way: Way, source: trio.SocketStream, target: trio.SocketStream) -> None:
                if not await self._move(way, source, target):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(move, "to_server", near, far)
            nursery.start_soon(move, "to_client", far, near)

    async def _move(self, way: Way, source: trio.SocketStream, target: trio.SocketStream) -> bool:
        """One direction until its end; False where that is the end of the other one too."""
        try:
            while unit := await read_unit(source):
                self.passed[way] += 1
                for fault in self.faults[way]:
                    if unit and fault.due():
                        unit = await fault.action(unit, target)
                if unit:
                    await target.send_all(unit)
            await target.send_eof()
        except (Cut, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def read_unit(stream: trio.SocketStream) -> bytes:
    """The next TLS record or RPC fragment; empty at the end, and what there is of one in front
    of it."""
    head = await read(stream, 4)
    if len(head) == 4 and head[0] in TLS_TYPES and head[1] == 3:
        head += await read(stream, 1)
        return head + await read(stream, int.from_bytes(head[3:5], "big"))
    return head + await read(stream, int.from_bytes(head, "big") & 0x7FFFFFFF)


async def read(stream: trio.SocketStream, length: int) -> bytes:
    """That many bytes, fewer at the end."""
    data = b""
    while len(data) < length:
        chunk = bytes(await stream.receive_some(length - len(data)))
        if not chunk:
            break
        data += chunk
    return data
