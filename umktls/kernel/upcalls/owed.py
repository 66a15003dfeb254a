"""What a daemon that does not read is told when it reads again."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from umktls.errors import UmktlsError

__all__ = ["Owed"]


class Owed:
    """Messages for a daemon, which it is to hear whoever has waited for that: a session has ended,
    and nobody will tell it once more. `say` says one, waiting as long as need be; what it raises
    where the daemon is gone ends all."""

    def __init__(
        self,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        say: Callable[[bytes], Awaitable[object]],
    ) -> None:
        self._spawn = spawn
        self._say = say
        self._messages: deque[bytes] = deque()

    def add(self, message: bytes) -> None:
        self._messages.append(message)
        if len(self._messages) == 1:
            self._spawn(self._pay)

    async def _pay(self) -> None:
        with contextlib.suppress(OSError, trio.ClosedResourceError, UmktlsError):
            while self._messages:
                await self._say(self._messages[0])
                self._messages.popleft()
        self._messages.clear()
