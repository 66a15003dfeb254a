"""Requests one after the other in one task, whose cancel scope stays open between them."""

from __future__ import annotations

import errno

import pytest
import trio
from pyfuse3 import FUSEError
from trio.testing import wait_all_tasks_blocked

from fs.requests import Request, Requests
from fs.scopes import kept_scope, open_scope


class Worker:
    """A task with requests under way, one at a time."""

    def __init__(self) -> None:
        self.requests = Requests(lambda: 0.0, 10.0, errno.EIO, lambda: 0.0)
        self.under_way: Request | None = None

    async def ask(self, event: trio.Event, *, shield: bool = False) -> str:
        request = self.under_way = Request("read", 0.0)
        try:
            return await self.requests.heeded(request, self._wait(event, shield))
        except FUSEError as error:
            return errno.errorcode[error.errno]

    async def _wait(self, event: trio.Event, shield: bool) -> str:
        with trio.CancelScope(shield=shield):
            await event.wait()
        return "done"

    def give_up(self) -> None:
        assert self.under_way is not None
        self.under_way.give_up(errno.EINTR)


async def later(event: trio.Event, worker: Worker, *, give_up: bool) -> None:
    await wait_all_tasks_blocked()
    if give_up:
        worker.give_up()
    await wait_all_tasks_blocked()
    event.set()


async def results(kept: bool, *rows: tuple[bool, bool]) -> list[str]:
    """What becomes of requests of which each is (given up, shielded)."""
    worker = Worker()
    seen: list[str] = []

    async def ask() -> None:
        for give_up, shield in rows:
            event = trio.Event()
            helpers.start_soon(lambda e, g: later(e, worker, give_up=g), event, give_up)
            seen.append(await worker.ask(event, shield=shield))

    async with trio.open_nursery() as helpers, trio.open_nursery() as tasks:

        async def task() -> None:
            if kept:
                with kept_scope():
                    await ask()
            else:
                await ask()

        tasks.start_soon(task)
    return seen


GIVEN_UP, LEFT, SHIELDED = (True, False), (False, False), (True, True)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_request_that_was_given_up_leaves_the_next_ones_alone(kept: bool) -> None:
    rows = (LEFT, GIVEN_UP, LEFT, GIVEN_UP, GIVEN_UP, LEFT)
    wanted = ["done", "EINTR", "done", "EINTR", "EINTR", "done"]
    assert await results(kept, *rows) == wanted


@pytest.mark.parametrize("kept", [True, False])
async def test_one_that_comes_to_its_end_all_the_same_does_too(kept: bool) -> None:
    assert await results(kept, SHIELDED, LEFT, GIVEN_UP, LEFT) == ["done", "done", "EINTR", "done"]


async def test_the_scope_is_the_same_until_it_is_cancelled() -> None:
    worker, event = Worker(), trio.Event()
    event.set()
    with kept_scope():
        scope = open_scope()
        await worker.ask(event)
        assert open_scope() is scope
        request = Request("read", 0.0)
        with request:
            request.give_up(errno.EINTR)
            await trio.lowlevel.checkpoint()
        assert open_scope() is not scope


async def test_who_cancels_the_worker_has_it_end() -> None:
    worker = Worker()
    with trio.CancelScope() as outside, kept_scope():
        kept = open_scope()
        outside.cancel()
        await worker.ask(trio.Event())
    assert outside.cancelled_caught
    assert not kept.cancelled_caught
