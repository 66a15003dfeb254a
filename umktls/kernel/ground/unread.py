"""A limit of bytes for the replies that wait for peers who do not read them, of all connections
of a server together.

What waits on one connection has a limit of its own (`SEND_QUEUE_LIMIT`), but there are thousands of
connections. So where all of them together hold more than `limit`, a connection for whose peer
something waits is not read until the peer has all of it: each has one more reply at most. One that
does not read it within UNREAD_SECONDS ends. Nobody waits for another one's peer.

That replies have been sent is nowhere told: what is known is too much rather than too little, and
counted again where it seems to be over the limit.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["UNREAD_SECONDS", "Debt", "Unread"]

# 4 MiB in this time are less than four megabits a second.
UNREAD_SECONDS = 10.0


class Debt(Protocol):
    """A connection whose peer has something to read."""

    @property
    def unread(self) -> int:
        """How many bytes wait for the peer."""


class Unread:
    """See the module. `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._known: dict[Debt, int] = {}

    @property
    def full(self) -> bool:
        """Whether more waits than may."""
        if self._used <= self.limit:
            return False
        sizes = {debt: debt.unread for debt in self._known}
        self._known = {debt: size for debt, size in sizes.items() if size}
        self._used = sum(self._known.values())
        return self._used > self.limit

    def note(self, debt: Debt) -> None:
        """Something waits for that peer."""
        size = debt.unread
        self._used += size - self._known.get(debt, 0)
        self._known[debt] = size

    def forget(self, debt: Debt) -> None:
        """The connection has ended."""
        self._used -= self._known.pop(debt, 0)
