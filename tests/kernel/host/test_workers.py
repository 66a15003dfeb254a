"""Threads for what takes long: so many in all, and fair turns among clients."""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio
import trio.testing

from tests.conftest import patience
from umktls.kernel.ground.peers import Who
from umktls.kernel.host.workers import Places, Workers
from umktls.rpc.server import Lane

HERE, THERE = Who("192.0.2.0/24", "192.0.2.1/32"), Who("198.51.100.0/24", "198.51.100.1/32")
BESIDE = Who("192.0.2.0/24", "192.0.2.2/32")


class Work:
    """Functions for threads that end when they may."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._go_on: dict[str, threading.Event] = {}

    def named(self, name: str) -> Callable[[], str]:
        self._go_on[name] = threading.Event()

        def function() -> str:
            self.began.append(name)
            assert self._go_on[name].wait(20)
            return name

        return function

    def end(self, *names: str) -> None:
        for name in names:
            self._go_on[name].set()


async def reached(work: Work, count: int) -> None:
    """Wait until so many have begun."""
    with trio.fail_after(patience(20)):
        while len(work.began) < count:
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert len(work.began) == count


async def test_the_turn_goes_round() -> None:
    workers, work, done = Workers({Lane.SCAN: 2, Lane.DISK: 1, Lane.COPY: 1}), Work(), []

    async def run(name: str, who: Who, lane: Lane = Lane.SCAN) -> None:
        done.append(await workers.run(who, lane, work.named(name)))

    async with trio.open_nursery() as nursery:

        async def come(name: str, who: Who, lane: Lane = Lane.SCAN) -> None:
            nursery.start_soon(run, name, who, lane)
            await trio.testing.wait_all_tasks_blocked()

        for number in range(5):
            await come(f"crowd{number}", HERE)
        await come("beside", BESIDE)
        await come("there", THERE)
        await reached(work, 2)
        await come("disk", HERE, Lane.DISK)
        await reached(work, 3)  # another lane
        for number, name in enumerate(("crowd0", "crowd1", "crowd2", "there", "beside"), 4):
            work.end(name)
            await reached(work, number)
        work.end("crowd3", "crowd4", "disk")
    assert work.began[3:] == ["crowd2", "there", "beside", "crowd3", "crowd4"]
    assert sorted(done) == sorted(work.began)


async def test_an_address_leaves_places_to_others() -> None:
    places = Places(8)
    seated: list[Who] = []

    async def take(who: Who) -> None:
        await places.take(who)
        seated.append(who)

    async with trio.open_nursery() as nursery:
        for who in [HERE] * 10 + [BESIDE] * 10 + [THERE] * 10:
            nursery.start_soon(take, who)
            await trio.testing.wait_all_tasks_blocked()
        assert seated == [HERE] * 6 + [BESIDE] + [THERE]
        places.give(THERE)
        await trio.testing.wait_all_tasks_blocked()
        assert seated[8:] == [THERE]  # the others have their share
        nursery.cancel_scope.cancel()


async def test_who_gives_up_keeps_no_place() -> None:
    places = Places(1)
    await places.take(HERE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(places.take, THERE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    async def come_and_go() -> None:
        await places.take(THERE)
        places.give(THERE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_and_go)
        await trio.testing.wait_all_tasks_blocked()
        places.give(HERE)  # it is his, and he is cancelled before he knows
        nursery.cancel_scope.cancel()
    with trio.fail_after(patience(20)):
        await places.take(HERE)
