"""What trio does not tell: that the other end of a pair has read something, or has closed.

One epoll descriptor, edge-triggered, for the ends of all pairs.
"""

from __future__ import annotations

import fcntl
import select
from collections.abc import Callable

import trio

__all__ = ["Edges", "really_closed", "unread_by_peer"]

SIOCOUTQ = 0x5411


class Edges:
    """Who wants to know, by descriptor. `run` is the task that tells them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[bool], None]] = {}

    def add(self, descriptor: int, tell: Callable[[bool], None]) -> None:
        """Call `tell` when something of what was sent has been read; with True when the other end
        is closed."""
        self._told[descriptor] = tell
        self._epoll.register(descriptor, select.EPOLLOUT | select.EPOLLET)

    def remove(self, descriptor: int) -> None:
        """Before it is closed."""
        if self._told.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Ends when it is cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, events in self._epoll.poll(0):
                    tell = self._told.get(descriptor)
                    if tell is not None:
                        tell(bool(events & select.EPOLLHUP))
        finally:
            self._epoll.close()


def really_closed(descriptor: int) -> bool:
    """Whether nobody has the other end any more, as opposed to its shutdown(SHUT_WR)."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def unread_by_peer(descriptor: int) -> bool:
    """Whether something that was sent over a pair has not been read (SIOCOUTQ)."""
    count = bytearray(4)
    fcntl.ioctl(descriptor, SIOCOUTQ, count)
    return any(count)
