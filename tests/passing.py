"""Time that passes in a test: by its mock clock, and by no other."""

from __future__ import annotations

import trio
import trio.testing

__all__ = ["elapse"]


async def elapse(seconds: float) -> None:
    """So much time passes. The test has to go by a mock clock: nobody waits for a real one."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock), f"this would take {seconds:g} real seconds"
    await trio.sleep(seconds)
