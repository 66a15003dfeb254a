"""Calls that are made and not waited for: their replies are read with others'."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.kernel.krpc.replypeer import ReplyPeer, answered, dwelling
from umktls.errors import WorldError
from umktls.kernel.krpc.posted import Posted
from umktls.rpc.message import NULL_AUTH, Call
from umktls.testing.echo import SAY

Clock = trio.testing.MockClock
both = pytest.mark.parametrize("sealed", [False, True])


def post(peer: ReplyPeer, what: bytes) -> Posted[bytes]:
    return peer.client.post(SAY, what, NULL_AUTH)


@both
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_reply_that_comes_with_another_costs_no_turn(
    sealed: bool, order: tuple[int, int], autojump_clock: Clock
) -> None:
    """The peer is the wait, and answers both at once."""

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        calls: list[Call] = []
        while len(calls) < 2:
            if (call := peer.has_come()) is None:
                peer.feed()
            else:
                calls.append(call)
        peer.ends[-1].sendall(b"".join(peer.wire(calls[place]) for place in order))
        return reading[:1], [], []

    async with dwelling(sealed, wait) as (peer, dwell):
        posted = post(peer, b"posted")
        with pytest.raises(StopIteration):
            peer.ask(b"asked").send(None)
        assert peer.answers == {b"asked": b"asked"}

        async def result() -> bytes:
            return await posted.result()

        with pytest.raises(StopIteration) as done:
            result().send(None)
        assert done.value.value == b"posted"
        dwell.end()
        await peer.settle()


@both
@pytest.mark.parametrize("beside", [False, True])
async def test_a_reply_that_is_not_there_is_waited_for(
    sealed: bool, beside: bool, autojump_clock: Clock
) -> None:
    async with answered(sealed) as peer:
        posted = post(peer, b"posted")
        call = await peer.come()
        if beside:
            await peer.answer(*await peer.asked(b"asked"))
            assert peer.answers == {b"asked": b"asked"}
        await trio.testing.wait_all_tasks_blocked()
        came: list[bytes] = []

        async def result() -> None:
            came.append(await posted.result())

        peer.nursery.start_soon(result)
        await trio.testing.wait_all_tasks_blocked()
        assert came == []
        await peer.answer(call)
        assert came == [b"posted"]
        await peer.settle()


async def test_a_reply_that_nobody_asks_for(autojump_clock: Clock) -> None:
    async with answered() as peer:
        post(peer, b"posted")
        await peer.answer(await peer.come())
        await peer.settle()
        assert peer.client.waiting == 0


async def test_it_is_sent_again_unless_it_was_dropped(autojump_clock: Clock) -> None:
    async with answered() as peer:
        kept, dropped = post(peer, b"kept"), post(peer, b"dropped")
        for _ in range(2):
            await peer.come()
        dropped.drop()
        peer.ends[-1].close()
        while len(peer.ends) < 2:
            autojump_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
        call = await peer.come()
        assert bytes(call.body).endswith(b"kept")
        peer.ends[-1].sendall(peer.wire(call))
        assert await kept.result() == b"kept"
        assert peer.client.waiting == 0


async def test_its_failure_is_told_to_who_asks(autojump_clock: Clock) -> None:
    async with answered(deadline=5.0) as peer:
        one, other = post(peer, b"one"), post(peer, b"other")
        autojump_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.client.waiting == 0
        with pytest.raises(WorldError, match="no answer"):
            await one.result()
        other.drop()
        for _ in range(2):
            await peer.come()
        await peer.settle()


@both
async def test_a_reply_that_comes_at_once_is_there(sealed: bool, autojump_clock: Clock) -> None:
    """The peer is the wait; the second time it says nothing."""
    waits = 0

    def wait(reading: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        nonlocal waits
        waits += 1
        if waits > 1:
            return [], [], []
        peer.answer_now()
        return reading[:1], [], []

    async with dwelling(sealed, wait) as (peer, dwell):
        one, other = post(peer, b"one"), post(peer, b"other")
        assert one.comes()
        assert one.comes()
        assert waits == 1
        assert not other.comes()
        dwell.end()
        assert await one.result() == b"one"
        await peer.answer(await peer.come())
        assert await other.result() == b"other"
        await peer.settle()
