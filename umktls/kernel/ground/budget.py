"""A limit of bytes that all connections of a server share.

Two kinds of requests count: those that are being received, if they are larger than LARGE, with the
size that they may come to; and those that wait for a thread or are executed in one. A connection
that wants more than is left has to wait, and is read no further, so that TCP stops the peer; the
first to come is the first to go on. What is executed ends by itself, but what is received ends when
its peer likes. So while somebody waits, the connection whose message has been arriving the longest
is dropped, if that is longer than ARRIVAL_SECONDS.

When much was in use and nothing is any more, the process gives its memory back (`afterwards`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

__all__ = ["ARRIVAL_SECONDS", "LARGE", "Budget", "Share", "afterwards"]

# A smaller request costs no more than a connection does anyhow.
LARGE = 64 * 1024
# 2 MiB in this time are less than two megabits a second.
ARRIVAL_SECONDS = 10.0
# So many bytes in use are more than a few clients that write have.
MUCH = 64 * 1024 * 1024
# Nothing is in use for so long: then its memory is not needed again at once.
QUIET_SECONDS = 1.0


class Budget:
    """See the module. `limit` is in bytes; a single request may have all of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._most = 0
        self._changed = trio.Event()
        self._over = trio.Event()
        self._waiting: deque[object] = deque()
        self._arriving: dict[Share, float] = {}  # since when (trio's time), the oldest first

    async def take(self, size: int) -> int:
        """Wait until so much is left, and take it; how much that is, to be given back."""
        size = min(size, self.limit)
        if self._waiting or self.used + size > self.limit:
            await self._wait_for(size)
        self.used += size
        self._most = max(self._most, self.used)
        return size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        self._wake()
        if not self.used and self._most >= MUCH:
            self._over.set()

    async def over(self) -> None:
        """Wait until much was in use, and nothing has been for a while."""
        while True:
            await self._over.wait()
            await trio.sleep(QUIET_SECONDS)
            self._over = trio.Event()
            if not self.used:
                self._most = 0
                return

    async def _wait_for(self, size: int) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            while self._waiting[0] is not ticket or self.used + size > self.limit:
                with trio.move_on_at(self._patience()):
                    await self._changed.wait()
                self._drop_slow()
        finally:
            self._waiting.remove(ticket)
            self._wake()

    def _patience(self) -> float:
        """Until when no connection is dropped (trio's time)."""
        return next(iter(self._arriving.values()), math.inf) + ARRIVAL_SECONDS

    def _drop_slow(self) -> None:
        if trio.current_time() >= self._patience():
            next(iter(self._arriving)).drop()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def arriving(self, share: Share) -> None:
        self._arriving[share] = trio.current_time()
        self._wake()

    def arrived(self, share: Share) -> None:
        self._arriving.pop(share, None)
        self._wake()


class Share:
    """One connection's part: what it holds for the message that is arriving. `cut` ends the
    connection."""

    def __init__(self, budget: Budget, cut: Callable[[], None]) -> None:
        self._budget = budget
        self._cut = cut
        self._held = 0

    async def receive(self, size: int) -> None:
        """The message that arrives may come to so many bytes; wait until it may be read on."""
        if not self._held:
            self._held = await self._budget.take(size)
            self._budget.arriving(self)

    def arrived(self) -> int:
        """The message is there: what was held for it, which is the caller's to give back."""
        if not self._held:
            return 0
        held, self._held = self._held, 0
        self._budget.arrived(self)
        return held

    def drop(self) -> None:
        """End the connection: its message takes too long, and others wait."""
        self.close()
        self._cut()

    def close(self) -> None:
        """The connection has ended."""
        held = self.arrived()
        if held:
            self._budget.give(held)


async def afterwards(budget: Budget, give_back: Callable[[], object]) -> None:
    """The task that calls `give_back` whenever much was in use and nothing is any more."""
    while True:
        await budget.over()
        give_back()
