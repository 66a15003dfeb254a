"""KTLS sockets that have no host, shown to who watches: two hosts that have nothing else.

Some lessons have `End`s (stage.py) and no hosts, and no TCP between them. Where somebody waits to
see the hosts of this process (umktls.watch), two come up, and each `End` that is made is one
connection of the client's or the server's host from then on: keys, records, and what was refused.
Else there are none, and nothing is done here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.host.rundir import next_place
from umktls.kernel.host.stepping import WATCHERS, expected
from umktls.kernel.sockets.watching import watch
from umktls.ktls.session import Direction, Session
from umktls.lessons import stage
from umktls.lessons.hosts import looked_at
from umktls.lessons.stage import End

__all__ = ["sockets_shown"]


class Shown:
    """Has ends appear at two hosts."""

    def __init__(self, client: Host, server: Host) -> None:
        self._hosts = {"client": client, "server": server}
        self._counts = {"client": 0, "server": 0}
        self._place = ""
        self._soon = trio.lowlevel.current_trio_token().run_sync_soon

    def made(self, end: End) -> None:
        """The server's end belongs to the client's that was made last."""
        host = self._hosts[end.side]
        self._counts[end.side] += 1
        end.name = f"{end.side[0]}{self._counts[end.side]}"
        kernel = end.personality.name
        if end.side == "client":
            self._place = f"{kernel} {end.name}"
            host.trace.emit("tcp-connect", end.name, local=self._place, peer="memory")
        else:
            host.trace.emit("tcp-accept", end.name, peer=self._place or kernel)
        watch(end.name, end.socket, host.trace, host.watching.records, self._soon)

    def key_set(self, end: End, direction: Direction, session: Session) -> None:
        trace = self._hosts[end.side].trace
        facts = {"suite": session.suite.name, "sequence": session.sequence}
        waiting = {"waiting": 0} if direction == "rx" else {}
        trace.emit(f"{direction}-keys", end.name, **facts, **waiting)


@asynccontextmanager
async def sockets_shown() -> AsyncIterator[None]:
    """See the module; inside the block. Raises `UmktlsError`."""
    places = {role: next_place(role) for role in ("client", "server")}
    if not any(expected(place, place.name, WATCHERS) for place in places.values()):
        yield
        return
    async with (
        booted(HostConfig("client", places["client"])) as client,
        booted(HostConfig("server", places["server"])) as server,
    ):
        stage.looks_on = Shown(client, server)
        try:
            yield
            await looked_at(client, server)
        finally:
            stage.looks_on = None
