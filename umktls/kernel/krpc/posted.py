"""A call that was made, and that nobody waits for yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from umktls.kernel.krpc.pending import PendingCall

__all__ = ["Posted"]

R = TypeVar("R")


class Posted(Generic[R]):
    """`finish` waits for a call's reply and decodes it. One of both is to be called, once."""

    def __init__(self, pending: PendingCall, finish: Callable[[PendingCall], Awaitable[R]]) -> None:
        self._pending = pending
        self._finish = finish
        pending.awaited = False

    def result(self) -> Awaitable[R]:
        """To be awaited at once: what the call comes to. Raises what `RpcClient.call` raises."""
        pending = self._pending
        pending.task, pending.awaited = trio.lowlevel.current_task(), True
        return self._finish(pending)

    def drop(self) -> None:
        """Nobody wants to know: it is not sent again."""
        if self._pending.result is None:
            self._pending.table.remove(self._pending.xid)
