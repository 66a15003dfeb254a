"""What the buttons of `umktls watch` do to a host on purpose, to see what happens then.

A table. What is done to records is done to the next one that this host seals on the connection, by
the tap that is there while somebody watches closely (umktls.kernel.sockets.watching); so nothing of
it is in anybody's way otherwise.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.watching import ALTERATIONS, HalfWatch

__all__ = ["MEDDLINGS", "Meddled", "meddle"]


class Meddled(Protocol):
    """What is meddled with."""

    trace: Trace

    @property
    def handles(self) -> Mapping[str, Sequence[DaemonHandle]]: ...

    def established(self, connection: str | None) -> list[KernelSocket]: ...


def _alter(how: str) -> Callable[[KernelSocket], None]:
    def alter(sock: KernelSocket) -> None:
        watch = sock.state.tx.watcher
        if not isinstance(watch, HalfWatch):
            raise CallerError("records are altered only while somebody watches", errno.EAGAIN)
        watch.alter_next(how)

    return alter


def _cut(sock: KernelSocket) -> None:
    sock.hang_up()


def _expire(sock: KernelSocket) -> None:
    sock.state.tx.wear_out()


# What is done, and what is said of it.
MEDDLINGS: dict[str, tuple[str, Callable[[KernelSocket], None]]] = {
    **{how: (text, _alter(how)) for how, text in ALTERATIONS.items()},
    "cut": ("the connection is cut", _cut),
    "expire": ("the sending key counts as nearly used up", _expire),
}
KILL = "kill-daemon"


def meddle(host: Meddled, what: str, connection: str | None) -> int:
    """Do it, to a connection or to all; to how many. `kill-daemon`: to all daemons of the host.

    Raises `CallerError` where there is no such thing to do, or no such connection.
    """
    if what == KILL:
        return _kill(host)
    if what not in MEDDLINGS:
        known = ", ".join((*MEDDLINGS, KILL))
        raise CallerError(f"nobody knows how to do {what!r}; there are: {known}")
    text, act = MEDDLINGS[what]
    socks = host.established(connection)
    for sock in socks:
        host.trace.emit("meddled", sock.name, what=text)
        act(sock)
    return len(socks)


def _kill(host: Meddled) -> int:
    pids = {handle.pid for handles in host.handles.values() for handle in handles}
    for pid in pids:
        host.trace.emit("meddled", None, what=f"process {pid} is killed")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)
