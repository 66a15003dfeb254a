"""Accepting connections, whatever accept(2) has against it.

Theory of operation. Errors of accept(2) are of three kinds:

    of one connection, which is gone     go on with the next (the man page has Linux's list)
    of the listener, which is gone       the end
    anything else: no descriptors, no    make room if that helps and can be done, else pause, a
    memory                               little longer each time, and try again

The pause is what keeps the loop from spinning: a listener whose connection cannot be accepted stays
readable.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from umktls.errors import WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.refusals import ADVICE

__all__ = ["Serve", "Spawn", "accept_loop", "listen_unix", "taken_from_trio"]

Serve = Callable[[trio.socket.SocketType], Awaitable[None]]
# Starts a task with an argument, which lives as long as the host.
Spawn = Callable[[Serve, trio.socket.SocketType], None]

# accept(2), "Error handling": network errors of the new connection.
OF_THE_CONNECTION = (
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
)
OF_THE_LISTENER = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# So long it takes until what was let go is closed, at least.
ROOM_SECONDS = 0.01
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)


def taken_from_trio(sock: trio.socket.SocketType) -> socket.socket:
    """The same socket, as one of Python's own. (It is told its family, type and protocol: otherwise
    it would ask the system for them.)"""
    return socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


def no_room() -> bool:
    """The `make_room` of a door where no connection can be ended for a new one."""
    return False


async def accept_loop(
    listener: trio.socket.SocketType,
    spawn: Spawn,
    serve: Serve,
    trace: Trace,
    make_room: Callable[[], bool] = no_room,
) -> None:
    """Accept until the listener is closed; `serve` gets each connection in a task of its own.

    `make_room` is called when no descriptor is left, and says whether it has let one go.
    """
    refused = 0
    with listener:
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                if error.errno in OF_THE_LISTENER:
                    return
                if error.errno in OF_THE_CONNECTION:
                    continue
                room = error.errno in NO_DESCRIPTORS and make_room()
                if not refused:
                    tell(trace, error, room)
                await trio.sleep(ROOM_SECONDS if room else PAUSES[min(refused, len(PAUSES) - 1)])
                refused += 1
            else:
                refused = 0
                spawn(serve, sock)


def tell(trace: Trace, error: OSError, room: bool) -> None:
    """Put the first refusal of a row into the trace."""
    number = error.errno or 0
    then = "the longest idle one ends for it" if room else "it is tried again and again"
    reason = f"a connection cannot be accepted: {ADVICE.get(number, os.strerror(number))}; {then}"
    trace.emit("warning", None, reason=reason)


async def listen_unix(path: Path, kind: socket.SocketKind) -> trio.socket.SocketType:
    """A listening AF_UNIX socket at `path`, mode 0600."""
    sock = trio.socket.socket(socket.AF_UNIX, kind)
    try:
        await sock.bind(str(path))
        os.chmod(path, 0o600)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise WorldError(f"cannot listen on {path}: {error.strerror}", error.errno) from error
    return sock
