"""What the world refuses to a host, and how a host lives with it.

Descriptors, processes, threads, memory, disks: any system call of a host may fail at any time.
Where the code around a call does not say what comes of that, it ends the task that made it: one
connection, one process's calls, one answer, with a line in the trace. It never ends the host. (A
mistake in the program does, with its traceback.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace

__all__ = [
    "NoThread",
    "first_text",
    "in_own_thread",
    "in_thread",
    "no_thread",
    "outlived",
    "refusal_text",
]

R = TypeVar("R")

# What to do about it, for those refusals that have a name of their own.
ADVICE = {
    errno.EMFILE: "no descriptors are left to this process (ulimit -n)",
    errno.ENFILE: "no descriptors are left on this machine (sysctl fs.file-max)",
    errno.EAGAIN: "no processes or threads are left to this user (ulimit -u)",
    errno.ENOMEM: "no memory is left",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}
# threading.Thread.start has no exception of its own.
NO_THREAD = "can't start new thread"


class NoThread(WorldError):
    """The system starts no thread now."""

    default_errno = errno.EAGAIN


async def in_thread(
    function: Callable[..., R],
    *args: Any,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> R:
    """`trio.to_thread.run_sync`. Raises `NoThread` when there is none to be had."""
    try:
        return await trio.to_thread.run_sync(
            function, *args, limiter=limiter, abandon_on_cancel=abandon_on_cancel
        )
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        raise no_thread() from error


def no_thread() -> NoThread:
    """The error for a thread that could not be started."""
    return NoThread(f"cannot start a thread: {ADVICE[errno.EAGAIN]}")


async def in_own_thread(function: Callable[[], R]) -> R:
    """`in_thread` at two thirds of its cost, for those who count their threads: they are not named
    for each call, and have nothing of the task's context. Whoever waits cannot be cancelled."""
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def deliver(result: Any) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    try:
        trio.lowlevel.start_thread_soon(function, deliver)
    except RuntimeError as error:
        raise no_thread() from error
    result: R = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
    return result


async def outlived(trace: Trace, function: Callable[..., Awaitable[object]], *args: Any) -> None:
    """A task of a host that the host outlives: see the head of this file."""
    try:
        await function(*args)
    except* (OSError, MemoryError, UmktlsError) as group:
        name = getattr(function, "__qualname__", str(function))
        trace.emit("warning", None, reason=f"the task {name} ended: {first_text(group)}")


def first_text(group: BaseException) -> str:
    """The first error in a group, for people."""
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return refusal_text(error)


def refusal_text(error: BaseException) -> str:
    """What was refused and why, for people."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error) or type(error).__name__
    name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return name + ADVICE.get(error.errno, os.strerror(error.errno))
