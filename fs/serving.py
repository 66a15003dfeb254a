"""Serving FUSE: requests are answered until somebody unmounts or the mount is told to end.

mount.py has the life around it, and says how long the end may take.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyfuse3
import trio

from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.events import Trace
from umktls.rpc.message import OpaqueAuth

from .calls import NfsCaller
from .credentials import Credentials
from .mountpoint import set_readahead
from .operations import NfsOperations
from .options import MountOptions
from .readturn import READ_TURN
from .session import fuse_session

__all__ = ["serve_fuse", "serving"]

FINISH_SECONDS = 20.0  # for written data, after a signal
GRACE_SECONDS = 5.0  # for requests under way, after that
# Two requests of the 1 MiB that FUSE allows: one is answered while the next is on its way.
# Measured: sequential reads are 15 % faster than with 1024, and no faster with 4096.
READAHEAD_KIB = 2048
# pyfuse3 starts a worker whenever none waits for a request, and ends it when more than `min` wait.
MIN_TASKS = 16
MAX_TASKS = 96

log = logging.getLogger(__name__)


async def serve_fuse(
    client: NfsCaller,
    mountpoint: str,
    options: MountOptions,
    fuse: set[str],
    ready: Callable[[], None],
    stop: trio.Event,
    show: Callable[[Callable[[], dict[str, Any]]], None] = lambda facts: None,
    trace: Trace | None = None,
    dwell: Dwell | None = None,
    mounted: Callable[[], None] = lambda: None,
) -> None:
    """Serve FUSE requests until somebody unmounts or `stop` is set. Raises UmktlsError.

    show: is given a function that says, for people, what the mount has to do. trace: of the host.
    mounted: called as soon as the mount is there.
    """
    async with trio.open_nursery() as background:
        operations = NfsOperations(
            client, options, background.start_soon, trace=trace, mountpoint=mountpoint
        )
        show(operations.facts)
        background.start_soon(operations.run)
        with fuse_session(operations, mountpoint, fuse) as connected:
            operations.requests.connected = connected
            mounted()
            with trio.CancelScope() as life:
                background.start_soon(_bounded, stop, life)
                async with serving(stop, operations, dwell):
                    await operations.ready.wait()
                    await operations.check(_own_credential())
                    set_readahead(mountpoint, READAHEAD_KIB)
                    ready()
                life.deadline = min(life.deadline, trio.current_time() + options.deadline)
                await operations.finish()
        if life.cancelled_caught and operations.behind.held:
            log.error("the mount ends, and %d written bytes are lost", operations.behind.held)
        background.cancel_scope.cancel()


async def _bounded(stop: trio.Event, life: trio.CancelScope) -> None:
    """From a signal on the mount's end is near, whatever it waits for."""
    await stop.wait()
    limit = trio.current_time() + FINISH_SECONDS + GRACE_SECONDS
    life.deadline = min(life.deadline, limit)


def _own_credential() -> OpaqueAuth:
    groups = tuple(os.getgroups())
    return Credentials(trio.current_time).of_user(os.geteuid(), os.getegid(), groups)


@asynccontextmanager
async def serving(
    stop: trio.Event, operations: NfsOperations, dwell: Dwell | None = None
) -> AsyncIterator[None]:
    """FUSE requests are answered inside the block, and behind it until the mount ends."""
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            with READ_TURN.installed(operations.calls.quiet, dwell):
                await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()

        async def end() -> None:
            await stop.wait()
            with trio.move_on_after(FINISH_SECONDS):
                await operations.behind.flush()
            if not operations.requests.connected():
                return  # unmounted before; what is left is for `finish`
            pyfuse3.terminate()
            await trio.sleep(GRACE_SECONDS)
            nursery.cancel_scope.cancel()

        nursery.start_soon(answer)
        nursery.start_soon(end)
        yield
