"""Who is told what of descriptors, and that the rest of a host runs beside it."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from tests.conftest import Pair, patience
from umktls.run.reactor import CLOSED, ENDED, READ_BY_PEER, READABLE, Reactor


@asynccontextmanager
async def running() -> AsyncIterator[Reactor]:
    reactor = Reactor()
    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            yield reactor
            nursery.cancel_scope.cancel()


class Told(list[int]):
    """Notes events; `next` waits for one that has all of some bits."""

    def __init__(self) -> None:
        self._news = trio.Event()

    def tell(self, events: int) -> None:
        self.append(events)
        self._news.set()
        self._news = trio.Event()

    async def having(self, bits: int) -> None:
        while not any(events & bits == bits for events in self):
            await self._news.wait()


async def test_what_the_other_end_does_is_told(pair: Pair) -> None:
    near, far = pair
    told = Told()
    async with running() as reactor:
        reactor.add(near.fileno(), READ_BY_PEER, told.tell)
        await told.having(select.EPOLLOUT)  # there is room
        near.send(b"data")
        await wait_all_tasks_blocked()
        told.clear()
        assert far.recv(10) == b"data"
        await told.having(select.EPOLLOUT)
        assert not any(events & (READABLE | ENDED) for events in told)
        far.send(b"answer")
        await told.having(READABLE)
        far.shutdown(socket.SHUT_WR)
        await told.having(select.EPOLLRDHUP)
        assert not any(events & CLOSED for events in told)
        far.close()
        await told.having(CLOSED)


async def test_what_can_be_received_is_told_until_it_was(pair: Pair) -> None:
    near, far = pair
    got: list[bytes] = []
    done = trio.Event()

    def tell(events: int) -> None:
        got.append(near.recv(1))
        if len(got) == 3:
            done.set()

    async with running() as reactor:
        reactor.add(near.fileno(), READABLE, tell)
        far.send(b"abc")
        await done.wait()
    assert got == [b"a", b"b", b"c"]


async def test_who_was_removed_is_told_nothing(pair: Pair) -> None:
    near, far = pair
    told = Told()
    async with running() as reactor:
        reactor.add(near.fileno(), READABLE, told.tell)
        reactor.remove(near.fileno())
        reactor.remove(near.fileno())
        far.send(b"x")
        await wait_all_tasks_blocked()
        assert told == []
        reactor.add(near.fileno(), READABLE, told.tell)
        await told.having(READABLE)
        reactor.remove(near.fileno())


async def test_what_is_for_later_comes_when_others_had_their_turn(pair: Pair) -> None:
    near, far = pair
    order: list[str] = []
    done = trio.Event()

    def first(events: int) -> None:
        order.append("first")
        near.recv(1)
        reactor.later(lambda: order.append("later"))
        reactor.later(done.set)

    def second(events: int) -> None:
        order.append("second")
        other.recv(1)

    other, its_peer = socket.socketpair()
    with other, its_peer:
        far.send(b"1")
        its_peer.send(b"2")
        async with running() as reactor:
            reactor.add(near.fileno(), READABLE, first)
            reactor.add(other.fileno(), READABLE, second)
            await done.wait()
    assert order == ["first", "second", "later"]


async def test_the_rest_of_the_host_runs_beside_work_that_does_not_end() -> None:
    turns = 0

    def again() -> None:
        nonlocal turns
        turns += 1
        reactor.later(again)

    async with running() as reactor:
        await wait_all_tasks_blocked()  # what is for later wakes who waits for something to happen
        reactor.later(again)
        while turns < 3:
            await trio.lowlevel.checkpoint()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
    assert turns >= 3
