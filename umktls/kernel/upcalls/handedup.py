"""Records that are handed up: how the daemon learns of them, and who waits for its answer.

Where the transport can, the record goes along with the upcall: the daemon then takes it with the
system call that it makes next, in place of one of its own. Behind a KeyUpdate nobody waits longer
than for what that asks for (`Following`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.owners.request import Request
from umktls.kernel.owners.upcalls import DaemonHandle, UnderWay
from umktls.kernel.sockets.following import Following
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.upcall.syscalls import MAX_ROOM

__all__ = ["at_the_head", "follow"]


class FollowingHost(Protocol):
    """What this needs of the host."""

    trace: Trace

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


def at_the_head(sock: KernelSocket) -> bytes:
    """The type and the content of the record that waits for the daemon; b"" for one that is too
    long to be taken along with other calls, or of which a part was taken."""
    head = sock.state.rx.control_head
    if head is None or head.offset or len(head.payload) > MAX_ROOM:
        return b""
    return bytes((head.type, *head.payload))


async def follow(
    host: FollowingHost, handle: DaemonHandle, request: Request[Any], following: Following
) -> Any:
    """HANDLERECORD of a KeyUpdate: its result, or None where nobody has to wait for that."""
    way = await handle.send(request)
    try:
        with trio.CancelScope(deadline=way.until) as request.watch:
            # The answer may have come while the call was being sent.
            if not request.done.is_set():
                await following.over.wait()
    except trio.Cancelled:
        await handle.answer(way)
        raise
    if request.done.is_set() or not following.over.is_set():
        return await handle.answer(way)
    following.left = True
    host.spawn(hear_the_rest, host, handle, way, following)
    return None


async def hear_the_rest(
    host: FollowingHost, handle: DaemonHandle, way: UnderWay[Any], following: Following
) -> None:
    """The daemon's answer, which is awaited by those who need the daemon next."""
    try:
        await handle.answer(way)
    except UmktlsError as error:
        host.trace.emit("warning", way.request.connection, reason=f"HANDLERECORD: {error}")
    finally:
        following.end()
