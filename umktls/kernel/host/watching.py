"""A host that is watched closely: its sockets have watches for as long as that is so."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.watching import RecordStore, unwatch, watch
from umktls.standstill import WATCHED

__all__ = ["Watched", "Watching"]


class Watched(Protocol):
    """What is watched of a host."""

    trace: Trace

    @property
    def sockets(self) -> Mapping[str, KernelSocket]: ...


class Watching:
    """Puts watches on the sockets of a host, and takes them off. `asked`: how often somebody has
    asked for a record."""

    def __init__(self, host: Watched) -> None:
        self._host = host
        self.asked = 0
        self.records = RecordStore()
        host.trace.on_close = self._switch

    def _switch(self, close: bool) -> None:
        for sock in self._host.sockets.values():
            if close:
                self.begin(sock)
            else:
                unwatch(sock.state)
        self._host.trace.steps.mark(WATCHED, close)
        if not close:
            self.records.clear()

    def begin(self, sock: KernelSocket) -> None:
        """Watch a socket. To be called for new ones while somebody watches."""
        soon = trio.lowlevel.current_trio_token().run_sync_soon
        watch(sock.name, sock.state, self._host.trace, self.records, soon)

    def record(self, number: int) -> dict[str, Any]:
        """The record of that number (see Kept.told). Raises `CallerError` where it is kept no
        more."""
        self.asked += 1
        record = self.records.get(number)
        if record is None:
            raise CallerError(f"record {number} is kept no more", errno.ENOENT)
        return record.told()
