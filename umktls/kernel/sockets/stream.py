"""Non-blocking sockets under trio, with the fewest possible trips through the scheduler.

trio's own socket objects make each operation a checkpoint. That costs more than a small RPC does,
so the hot path tries the system call first and waits only when it would block.

Sending is a queue: what does not fit the socket is kept, in order, and a writer task goes on with
it. So a caller that is cancelled in the middle (its deadline passed) cannot leave half a record
on the wire.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from umktls.errors import WorldError
from umktls.kernel.ground.alarms import alarm_at
from umktls.kernel.ground.bell import Bell
from umktls.rpc.xdr import Buffer

__all__ = [
    "SEND_QUEUE_LIMIT",
    "SendQueue",
    "Start",
    "broken",
    "read_some",
    "readable",
    "readable_until",
    "writable",
]

# What may wait for a slow peer before senders have to wait too.
SEND_QUEUE_LIMIT = 4 * 1024 * 1024
# Buffers handed to one sendmsg call; Linux takes 1024 at most (UIO_MAXIOV).
GATHER_LIMIT = 512
# Below this a copy is cheaper than to have the system gather.
JOINED = 4096


async def read_some(sock: socket.socket, buffer: memoryview) -> int:
    """Receive at least one byte into `buffer`; 0 at the end of the stream.

    Raises `WorldError` when the connection broke.
    """
    while True:
        try:
            return sock.recv_into(buffer)
        except BlockingIOError:
            pass
        except OSError as error:
            raise broken("receive", error) from error
        await readable(sock)
        # Who was cancelled after it was woken must not take what is for somebody else by now.
        await trio.lowlevel.checkpoint_if_cancelled()


async def readable(sock: socket.socket) -> None:
    """Wait until there is something to receive. Raises `WorldError` when `sock` is closed, before
    or meanwhile."""
    if sock.fileno() < 0:  # epoll has a ValueError for it
        raise closed_here()
    try:
        await trio.lowlevel.wait_readable(sock)
    except trio.ClosedResourceError:
        raise closed_here() from None
    except OSError as error:  # of epoll_ctl(2)
        raise broken("receive", error) from error


async def writable(sock: socket.socket) -> None:
    """Wait until there may be room to send, also where a reader is interrupted meanwhile. Raises
    `WorldError` when `sock` is closed."""
    if sock.fileno() < 0:
        raise closed_here()
    try:
        await trio.lowlevel.wait_writable(sock)
    except trio.ClosedResourceError:
        if sock.fileno() < 0:
            raise closed_here() from None
    except OSError as error:  # of epoll_ctl(2)
        raise broken("send", error) from error


async def readable_until(sock: socket.socket, until: float) -> bool:
    """The same up to this time of trio's clock; whether there is something. Where it is waited for
    room to send as well, that begins anew then."""
    alarm = alarm_at(until, partial(trio.lowlevel.notify_closing, sock))
    try:
        await readable(sock)
    except WorldError:
        if not alarm.rung or sock.fileno() < 0:
            raise
        return False
    finally:
        alarm.cancel()
    return True


def closed_here() -> WorldError:
    return WorldError("the connection was closed here", errno.ECONNABORTED)


def broken(action: str, error: OSError) -> WorldError:
    """The error for a connection on which `action` failed."""
    return WorldError(f"cannot {action}: {os.strerror(error.errno or errno.EIO)}", error.errno)


# Starts a task that lives as long as the host.
Start = Callable[[Callable[[], Awaitable[None]]], None]


class SendQueue:
    """Sends buffers over `sock` in the order in which `push` was called.

    `run` is the writer task: from then on it lives as long as the connection. `start` is called
    with it the first time that something has to wait: most connections never need it. A failed send
    closes the queue; `push` raises `WorldError` from then on.
    """

    def __init__(
        self, sock: socket.socket, start: Start | None = None, limit: int = SEND_QUEUE_LIMIT
    ) -> None:
        self._sock = sock
        self._start = start
        self._limit = limit
        self._waiting: deque[memoryview] = deque()
        self._error: WorldError | None = None
        self._work = Bell()
        self._room = Bell()
        self.size = 0

    @property
    def failed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._error is not None

    def push(self, buffers: list[Buffer]) -> None:
        """Send now what the socket takes, keep the rest. Does not wait.

        Raises `WorldError` when the connection is broken.
        """
        if self._error is not None:
            raise self._error
        if not self._waiting:
            try:
                buffers = self._send_now(buffers)
            except WorldError as error:
                self.fail(error)
                raise
            if not buffers:
                return
        views = [memoryview(buffer) for buffer in buffers if len(buffer)]
        self._waiting.extend(views)
        self.size += sum(map(len, views))
        self._work.ring()
        if self._start is not None:
            start, self._start = self._start, None
            start(self.run)

    async def drained(self) -> None:
        """Wait while more than the limit is queued."""
        while self.size > self._limit and self._error is None:
            await self._room.wait()

    async def emptied(self) -> None:
        """Wait until nothing is queued any more, or the queue has failed."""
        while self._waiting and self._error is None:
            await self._room.wait()

    async def run(self) -> None:
        """The writer task: sends what `push` could not. Ends when the queue fails."""
        while self._error is None:
            if not self._waiting:
                await self._work.wait()
            while self._waiting and self._error is None:
                await self._flush()

    async def _flush(self) -> None:
        try:
            await writable(self._sock)
            self._waiting = deque(self._send(list(self._waiting)))
        except WorldError as error:
            self.fail(error)
            # Where it is not the peer who has ended it, who waits for what is lost sees an end.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            return
        self.size = sum(map(len, self._waiting))
        self._room.ring()

    def _send_now(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send what the socket takes, return what is left. A message is mostly one buffer, or a few
        short ones, and goes whole."""
        if len(buffers) > 1 and sum(map(len, buffers)) < JOINED:
            buffers = [b"".join(buffers)]
        if len(buffers) != 1:
            return [*self._send([memoryview(buffer) for buffer in buffers if len(buffer)])]
        buffer = buffers[0]
        try:
            sent = self._sock.sendmsg(buffers)
        except BlockingIOError:
            return buffers
        except OSError as error:
            raise broken("send", error) from error
        return [memoryview(buffer)[sent:]] if sent < len(buffer) else []

    def _send(self, views: list[memoryview]) -> list[memoryview]:
        """Send from `views` until all is gone or the socket is full; return what is left."""
        while views:
            try:
                sent = self._sock.sendmsg(views[:GATHER_LIMIT])
            except BlockingIOError:
                return views
            except OSError as error:
                raise broken("send", error) from error
            views = after(views, sent)
        return views

    def fail(self, error: WorldError) -> None:
        """Drop what waits; everybody who sends or waits gets `error`. The first one stays."""
        if self._error is None:
            self._error = error
        self._waiting.clear()
        self.size = 0
        self._work.ring()
        self._room.ring()


def after(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `views` behind their first `count` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []
