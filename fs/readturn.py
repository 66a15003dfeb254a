"""Which of pyfuse3's workers reads the next request.

Theory of operation. A worker of pyfuse3 that has read a request lets another one read on at once,
before it is known whether the request has to wait for anything: a turn of trio's loop for each
request, although most of them are answered from what the mount knows (four of the five of a create,
every stat of a name that is known). Here a worker keeps the turn until its request really waits,
and if that does not happen, reads the next one itself.

pyfuse3 has its lock and its waiting from what stands as `trio` in it, which its own `asyncio` puts
something else in place of in the same way. The lock is here a turn that is not given back behind
the reading but when the request waits (`pass_on`) or the worker ends, whyever that is. Who waits
for the turn has it last in, first out: the buffers of a few workers are used, not those of all.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pyfuse3
import trio

__all__ = ["READ_TURN", "ReadTurn", "begin"]

T = TypeVar("T")


def begin(steps: Coroutine[Any, Any, T]) -> tuple[T | None, Coroutine[Any, Any, T] | None]:
    """Run a coroutine until it has to wait: what it returns and None, or else what is left of it.

    Where it has to wait, no cancel scope may be open in it: whoever awaits the rest will want to
    open one around that (`trio.lowlevel.cancel_shielded_checkpoint` before, in the rare case)."""
    try:
        wait = steps.send(None)
    except StopIteration as done:
        return done.value, None
    return None, _rest(steps, wait)


@types.coroutine
def _rest(steps: Coroutine[Any, Any, T], wait: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine, which waits for the first time."""
    try:
        while True:
            outcome = yield wait
            wait = steps.send(outcome)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        steps.close()


class ReadTurn(trio.abc.Instrument):
    """See the module. One for all mounts of the process, as what pyfuse3 has is."""

    def __init__(self) -> None:
        self._reader: trio.lowlevel.Task | None = None
        self._idle: list[trio.lowlevel.Task] = []

    async def __aenter__(self) -> None:
        """Wait for the turn, unless this worker has it still."""
        task = trio.lowlevel.current_task()
        if self._reader is None:
            self._reader = task
        elif self._reader is not task:
            self._idle.append(task)

            def abort(_: object) -> trio.lowlevel.Abort:
                self._idle.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

    async def __aexit__(self, *_: object) -> None:
        """The turn is kept."""

    def pass_on(self) -> None:
        """The present task waits: if the turn is its, another worker reads."""
        if self._reader is trio.lowlevel.current_task():
            self._next()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """No worker ends with the turn. As an instrument: called by trio."""
        if self._reader is task:
            self._next()

    def _next(self) -> None:
        self._reader = self._idle.pop() if self._idle else None
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """pyfuse3's workers take turns this way inside the block."""
        before = pyfuse3.trio  # type: ignore[attr-defined]
        pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
            Lock=lambda: self,
            open_nursery=trio.open_nursery,
            lowlevel=trio.lowlevel,
            ClosedResourceError=trio.ClosedResourceError,
        )
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            pyfuse3.trio = before  # type: ignore[attr-defined]
            self._reader = None


READ_TURN = ReadTurn()
