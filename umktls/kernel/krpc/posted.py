"""A call that was made, and that nobody waits for yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from umktls.kernel.krpc.pending import PendingCall

__all__ = ["Posted"]

R = TypeVar("R")


class Posted(Generic[R]):
    """`finish` waits for a call's reply and decodes it, `look` reads what comes shortly.
    `result` or `drop` has to be called, once."""

    def __init__(
        self,
        pending: PendingCall,
        finish: Callable[[PendingCall], Awaitable[R]],
        look: Callable[[PendingCall], None],
    ) -> None:
        self._pending = pending
        self._finish = finish
        self._look = look
        pending.awaited = False

    def comes(self) -> bool:
        """Whether the reply is there, or comes so soon that the whole process can wait for it:
        `result` does not wait then."""
        if self._pending.result is None:
            self._look(self._pending)
        return self._pending.result is not None

    def result(self) -> Awaitable[R]:
        """To be awaited at once: what the call comes to. Raises what `RpcClient.call` raises."""
        pending = self._pending
        pending.task, pending.awaited = trio.lowlevel.current_task(), True
        return self._finish(pending)

    def drop(self) -> None:
        """Nobody wants to know: it is not sent again."""
        if self._pending.result is None:
            self._pending.table.remove(self._pending.xid)
