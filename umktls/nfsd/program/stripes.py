"""The locks of a server that is alone: what changes a directory is done by one thread at a time.

Most calls are executed by the event loop, one after another; but those whose file has to be
searched for, or whose caller's groups have to be looked up, are by threads, and at the same time.
(The workers of one server have locks in common: `umktls.kernel.team.shared`.)
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Protocol

__all__ = ["Stripe", "local_stripes"]

STRIPES = 64


class Stripe(Protocol):
    """A lock. Whoever takes several takes them in their `order`."""

    @property
    def order(self) -> int: ...

    def acquire(self) -> object: ...

    def release(self) -> None: ...


class _LocalStripe:
    __slots__ = ("acquire", "order", "release")

    def __init__(self, order: int) -> None:
        lock = RLock()
        self.order = order
        self.acquire, self.release = lock.acquire, lock.release


def local_stripes() -> Callable[[tuple[int, int]], Stripe]:
    """The lock for a file's (device, inode); another file may have the same."""
    stripes = [_LocalStripe(order) for order in range(STRIPES)]
    return lambda file: stripes[hash(file) % STRIPES]
