"""Ending early: what a command has started ends with it, whichever signal ends the command."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

__all__ = ["ended_by_signals"]

T = TypeVar("T")

# Those that nohup(1) or a shell (of what it runs in the background) has ignored stay so.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def ended_by_signals(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns. Ctrl-C, SIGTERM and SIGHUP cancel it, and when it has cleaned up,
    KeyboardInterrupt is raised: alone, and not in groups of whatever nurseries there are."""
    failed: Exception | None = None
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    with trio.open_signal_receiver(*heard) as signals, trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                await anext(signals)
                scope.cancel()

            nursery.start_soon(listen)
            try:
                result = await work()
            except Exception as error:  # past the nursery, which would make a group of it
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return result
    raise KeyboardInterrupt
