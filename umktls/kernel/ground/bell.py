"""What is rung again and again, mostly while nobody listens."""

from __future__ import annotations

import trio

__all__ = ["Bell"]


class Bell:
    """Who waits is woken up by the next ring, and looks for himself what there is. Without anybody
    who waits there is no event, of which a connection would have several."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: trio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next ring."""
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()

    def ring(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()
