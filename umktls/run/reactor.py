"""What happens to descriptors, told in calls and not in tasks.

A task of trio's that waits for a descriptor costs two trips to epoll and a turn of the scheduler
for each thing that happens. Here one epoll descriptor has them all, and one task calls whoever
wants to know, as long as one thing comes behind the other.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections import deque
from collections.abc import Callable

import trio

__all__ = [
    "CLOSED",
    "ENDED",
    "READABLE",
    "READ_BY_PEER",
    "Reactor",
    "really_closed",
    "unread_by_peer",
]

# What may be wanted, and is told: something to receive, for as long as there is;
READABLE = select.EPOLLIN
# the other end of a pair has read something (a change is told: once), or there is more to receive;
READ_BY_PEER = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
# the other end sends no more, is closed, or is broken.
CLOSED = select.EPOLLHUP
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

SIOCOUTQ = 0x5411
# Seconds for which it is waited for more before trio is asked to: of what comes in a row, the next
# mostly comes sooner. The rest of the host waits so long too, so it is short.
LINGER = 0.0001
# Seconds after which the rest of the host has a turn whatever comes.
BURST = 0.002

# Gets what has happened, as epoll_ctl(2) names it.
Tell = Callable[[int], None]


class Reactor:
    """Who wants to know, by descriptor. `run` is the task that tells them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Tell] = {}
        self._later: deque[Callable[[], None]] = deque()
        self._turning = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add(self._bell, READABLE, self._rung)

    def add(self, descriptor: int, events: int, tell: Tell) -> None:
        """Call `tell` when one of `events` is there; CLOSED and errors always are."""
        self._epoll.register(descriptor, events)
        self._told[descriptor] = tell

    def remove(self, descriptor: int) -> None:
        """Before it is closed. Nothing, where it was not added."""
        if self._told.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def later(self, what: Callable[[], None]) -> None:
        """Call it when others had their turn."""
        self._later.append(what)
        if not self._turning:
            os.eventfd_write(self._bell, 1)

    def _rung(self, events: int) -> None:
        os.eventfd_read(self._bell)

    async def run(self) -> None:
        """Ends when it is cancelled."""
        try:
            while True:
                if self._later:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._turning = True
                self._turn()
                self._turning = False
        finally:
            self._epoll.close()
            os.close(self._bell)

    def _turn(self) -> None:
        """Tell all that there is, and what comes directly behind it."""
        until = time.perf_counter() + BURST
        while time.perf_counter() < until:
            happened = self._epoll.poll(0)
            if not happened and not self._later:
                select.select([self._epoll], [], [], LINGER)
                happened = self._epoll.poll(0)
                if not happened:
                    return
            for descriptor, events in happened:
                tell = self._told.get(descriptor)
                if tell is not None:
                    tell(events)
            for _ in range(len(self._later)):
                self._later.popleft()()


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
