"""Turns: how much one task does before all others have had theirs.

A task that never has to wait never gives way: trio changes tasks only at checkpoints. Whoever is
at the other end of a socket decides how much there is to read, so each loop over what comes from
one counts its work, in whatever is the first: steps, bytes, time. Steps are what a peer can have
done for a few bytes (a message, a control record, a read). A checkpoint after each would cost more
than a small call does.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import trio

__all__ = ["BYTES_PER_TURN", "SECONDS_PER_TURN", "STEPS_PER_TURN", "Turn"]

STEPS_PER_TURN = 64
BYTES_PER_TURN = 2 * 1024 * 1024
# Less than a round trip to a server nearby; with a hundred such tasks, half a second.
SECONDS_PER_TURN = 0.005


class Turn:
    """The turn of one task. `clock` gives seconds.

    Who has waited for something has given way: call `begin` then.
    """

    __slots__ = ("_bytes", "_clock", "_steps", "_until")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The turn begins here."""
        self._steps = self._bytes = 0
        self._until = self._clock() + SECONDS_PER_TURN

    async def datagram(self, sock: socket.socket, limit: int) -> bytes:
        """The next datagram of a socket that does not block; empty at the end. What waits already
        comes without a trip to the scheduler. Raises OSError, trio.ClosedResourceError."""
        while True:
            try:
                return sock.recv(limit)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                self.begin()

    async def did(self, size: int = 0) -> None:
        """One more step was done, about `size` bytes; give way if that was enough."""
        if self.over(size):
            await self.give_way()

    def over(self, size: int = 0) -> bool:
        """One more step was done, about `size` bytes; whether that was enough, and it is time to
        `give_way`. Where a step is short, a coroutine for each would cost as much."""
        self._steps = steps = self._steps + 1
        self._bytes += size
        return (
            steps >= STEPS_PER_TURN or self._bytes >= BYTES_PER_TURN or self._clock() >= self._until
        )

    async def give_way(self) -> None:
        """Let the others have their turns, and begin a new one."""
        await trio.lowlevel.checkpoint()
        self.begin()
