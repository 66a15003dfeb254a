"""A worker that hangs: when it is killed for it, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.passing import elapse
from umktls.kernel.team.lives import BOOT_SECONDS, PING_SECONDS, SILENT_SECONDS, watch
from umktls.kernel.team.worker import Outgoing, Worker


class Watched:
    """A worker that is watched. It answers what `answers` says that it does."""

    def __init__(self, up: bool) -> None:
        queue, self._messages = trio.open_memory_channel[Outgoing](1000)
        self.worker = Worker(1, Path("w1"), up=up, queue=queue)
        self.answers = True
        self.asked = 0
        self.killed: list[float] = []

    async def live(self) -> None:
        async for message in self._messages:
            assert message.content == {"ping": True}
            self.asked += 1
            self.worker.heard += self.answers

    async def watch(self) -> None:
        await watch(self.worker, lambda: self.killed.append(trio.current_time()))


@pytest.mark.parametrize(("up", "seconds"), [(True, SILENT_SECONDS), (False, BOOT_SECONDS)])
async def test_one_that_says_nothing_is_killed(
    autojump_clock: trio.testing.MockClock, up: bool, seconds: float
) -> None:
    """It gets no more connections from then on."""
    one = Watched(up)
    began = trio.current_time()
    await one.watch()
    assert one.killed == [began + seconds]
    assert str(one.worker.failure) == f"worker 1 had not answered for {seconds:g} s"
    assert not one.worker.up


async def test_one_that_answers_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    """And one that was silent for a while; a silence before it was up does not count."""
    one = Watched(up=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.live)
        nursery.start_soon(one.watch)
        one.answers = False
        await elapse(BOOT_SECONDS - 2 * PING_SECONDS)
        one.worker.up, one.answers = True, True
        one.worker.heard += 1  # it has said so
        for _ in range(5):
            await elapse(100 * PING_SECONDS)
            one.answers = False
            await elapse(SILENT_SECONDS - 2 * PING_SECONDS)
            one.answers = True
        assert one.asked > 500
        assert one.killed == []
        nursery.cancel_scope.cancel()


async def test_any_word_is_an_answer(autojump_clock: trio.testing.MockClock) -> None:
    """A worker with much to say need not come to the question."""
    one = Watched(up=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.watch)
        for _ in range(10):
            await elapse(SILENT_SECONDS - PING_SECONDS - 1)
            one.worker.heard += 1
        assert one.killed == []
        await elapse(SILENT_SECONDS + 2 * PING_SECONDS)
        assert len(one.killed) == 1
