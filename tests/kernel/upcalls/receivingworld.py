"""A session of a client host on which is received, between a played daemon and a played peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from tests.conftest import patience
from tests.kernel.clientworld import Asked, Daemon, world
from tests.kernel.sockets.takensocket import SECONDS, Taken, received
from umktls.rpc.record import mark

__all__ = ["MESSAGE", "Receiving", "receiving"]

MESSAGE = mark(5) + b"reply"


@dataclass
class Receiving(Taken):
    """A session on which is received: what was delivered, and how it has ended."""

    delivered: list[bytes] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)

    def deliver(self, message: bytes) -> None:
        self.delivered.append(message)
        self.done.set()

    async def receive(self) -> None:
        self.ended.append(await received(self, self.deliver))
        self.done.set()

    async def handed_up(self, daemon: Daemon, data: bytes) -> Asked:
        """The daemon is asked about a control record, and has taken it."""
        asked = await daemon.asked()
        assert asked.name == "HANDLERECORD"
        assert await self.recv() == data
        return asked


@asynccontextmanager
async def receiving(
    path: Path, name: str, role: str = "client"
) -> AsyncIterator[tuple[Receiving, Daemon]]:
    """`role`: the host's, once there is a session."""
    with trio.fail_after(patience(SECONDS)):
        async with world(path, name) as w, trio.open_nursery() as nursery:
            daemon, attempt, asked = await w.asked()
            with trio.socket.from_stdlib_socket(attempt.far) as far:
                t = Receiving(w, attempt.sock, await daemon.take(asked), far)
                await t.enable("tx")
                await t.enable("rx")
                await daemon.answer(asked)
                await attempt.ended.wait()
                w.host.config = replace(w.host.config, role=role)
                nursery.start_soon(t.receive)
                yield t, daemon
                nursery.cancel_scope.cancel()
