"""Which of pyfuse3's workers reads the next request.

Theory of operation. A worker of pyfuse3 that has read a request lets another one read on at once,
before it is known whether the request has to wait for anything: a turn of trio's loop for each
request, although most of them are answered from what the mount knows (four of the five of a create,
every stat of a name that is known). Here a worker keeps the turn until its request really waits,
and if that does not happen, reads the next one itself.

A worker that has answered looks at once whether there is another request, and reads that: what is
there already costs no turn of the loop. It looks whether it has the turn or not. Meanwhile whoever
has the turn waits in the loop, so that nobody has to be woken for reading on when a request does
wait. The request that woke that worker may be taken by then: it looks again before it reads, since
reading would stop everything until there is a request. After some requests that were found like
that all others have a turn.

A program mostly makes its next system call some microseconds after the last one was answered, which
is less than what a turn of the loop costs. So where nothing else can be done, no task being ready
and no call under way, looking takes up to LOOK_SECONDS.

pyfuse3 has its lock and its waiting from what stands as `trio` in it, which its own `asyncio` puts
something else in place of in the same way. The lock is here a turn that is not given back behind
the reading but when the request waits (`pass_on`) or the worker ends, whyever that is. Who waits
for the turn has it last in, first out: the buffers of a few workers are used, not those of all.
"""

from __future__ import annotations

import select
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import pyfuse3
import trio

from umktls.kernel.ground.dwelling import FD_SETSIZE, Dwell
from umktls.kernel.ground.wakeful import Wakeful

from .scopes import kept_scope

__all__ = ["READ_TURN", "ReadTurn", "begin"]

T = TypeVar("T")

# So many requests are found by looking before all others have a turn: where something else is under
# way, and where nothing is.
STREAK, QUIET_STREAK = 8, 32
# Found like that on a busy machine: 93 of 100 requests, and 36 to 50 without.
LOOK_SECONDS = 0.0001
# Before that it is awake for so long (wakeful.py).
AWAKE_SECONDS = 0.00006

look = Wakeful(AWAKE_SECONDS)


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


def never() -> bool:
    return False


class Workers:
    """A nursery, as far as pyfuse3 uses one: each of its workers has a cancel scope (scopes.py)."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(
        self, loop: Callable[..., Awaitable[None]], *args: object, name: object = None
    ) -> None:
        self._nursery.start_soon(self._work, loop, *args, name=name)

    async def _work(self, loop: Callable[..., Awaitable[None]], *args: object) -> None:
        with kept_scope():
            try:
                await loop(*args)
            except ConnectionAbortedError:
                # The mount has ended while this worker took a request from it, mostly the RELEASE
                # of the last file (Linux' fuse_dev_do_read; a moment later it would be ENODEV).
                pyfuse3.terminate()


@asynccontextmanager
async def workers() -> AsyncIterator[Workers]:
    async with trio.open_nursery() as nursery:
        yield Workers(nursery)


class Ready:
    """To be awaited where there is nothing to wait for: cheaper than a coroutine."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return NO_STEPS


NO_STEPS = cast(Generator[Any, Any, None], iter(()))
READY = Ready()


class ReadTurn(trio.abc.Instrument):
    """See the module. One for all mounts of the process, as what pyfuse3 has is."""

    def __init__(self) -> None:
        self._reader: trio.lowlevel.Task | None = None
        self._idle: list[trio.lowlevel.Task] = []
        self._session: select.poll | None = None  # looks whether there is a request
        self._selected: tuple[int, ...] = ()  # the same for select
        self._quiet = never  # whether no call is under way
        self._dwell: Dwell | None = None
        self._ready = 0  # how many other tasks can go on
        self._streak = 0  # requests that were found by looking
        self._found = False  # one by a worker that has no turn, and is about to read it

    def __aenter__(self) -> Awaitable[None]:
        """Wait for the turn, unless this worker has it still, or there is a request to be read."""
        task = trio.lowlevel.current_task()
        if self._reader is None:
            self._reader = task
        if self._reader is task:
            return READY
        if self._finds():
            self._found = True
            return READY
        return self._await_turn(task)

    def __aexit__(self, *_: object) -> Awaitable[None]:
        """The turn is kept."""
        return READY

    async def _await_turn(self, task: trio.lowlevel.Task) -> None:
        self._idle.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _finds(self) -> bool:
        """Whether there is a request, and it is not time to let others do something."""
        if self._session is None:
            return False
        quiet = not self._ready and self._quiet()
        if self._streak >= (QUIET_STREAK if quiet else STREAK):
            self._streak = 0
            return False
        if quiet:
            found: object = look(self._selected, (), (), LOOK_SECONDS)[0]
        else:
            found = self._session.poll(0)
        self._streak = self._streak + 1 if found else 0
        return bool(found)

    def wait_readable(self, session: int) -> Awaitable[None]:
        """In place of trio's, for whoever reads next."""
        if self._session is None:
            self._session = select.poll()
            self._session.register(session, select.POLLIN)
            self._selected = (session,)
            if session >= FD_SETSIZE:
                self._quiet = never
            if self._dwell is not None:
                self._dwell.begin(session, lambda: not self._ready)
        if self._found or self._finds():
            self._found = False
            return READY
        return self._until_readable(session, self._session)

    async def _until_readable(self, session: int, looking: select.poll) -> None:
        while True:
            await trio.lowlevel.wait_readable(session)
            self._streak = 0
            if looking.poll(0):  # nobody else has taken it
                return

    def pass_on(self) -> None:
        """The present task waits: if the turn is its, another worker reads."""
        self._streak = 0
        if self._reader is trio.lowlevel.current_task():
            self._next()

    def task_scheduled(self, _: trio.lowlevel.Task) -> None:
        """A task can go on. As an instrument: called by trio, as what follows is."""
        self._ready += 1

    def before_task_step(self, _: trio.lowlevel.Task) -> None:
        """One of them does."""
        if self._ready:  # else it was ready before this was installed
            self._ready -= 1

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """No worker ends with the turn."""
        if self._reader is task:
            self._next()

    def _next(self) -> None:
        self._reader = self._idle.pop() if self._idle else None
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)

    @contextmanager
    def installed(
        self, quiet: Callable[[], bool] = never, dwell: Dwell | None = None
    ) -> Iterator[None]:
        """pyfuse3's workers take turns this way inside the block. quiet: whether no call of this
        mount is under way. dwell: the short waits of whoever makes its calls."""
        self._quiet, self._dwell, self._ready = quiet, dwell, 0
        before = pyfuse3.trio  # type: ignore[attr-defined]
        pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
            Lock=lambda: self,
            open_nursery=workers,
            lowlevel=types.SimpleNamespace(
                current_task=trio.lowlevel.current_task,
                current_trio_token=trio.lowlevel.current_trio_token,
                notify_closing=trio.lowlevel.notify_closing,
                wait_readable=self.wait_readable,
            ),
            ClosedResourceError=trio.ClosedResourceError,
        )
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            pyfuse3.trio = before  # type: ignore[attr-defined]
            if self._dwell is not None:
                self._dwell.end()
            self._reader = self._session = self._dwell = None
            self._found = False


READ_TURN = ReadTurn()
