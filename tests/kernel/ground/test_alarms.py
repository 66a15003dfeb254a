"""Deadlines that one task keeps for all."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from umktls.kernel.ground import alarms
from umktls.kernel.ground.alarms import Alarms, Completion, alarm_at


async def later(clock: MockClock, seconds: float) -> None:
    """So much later, when all is done that there is to do then."""
    clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_each_rings_at_its_time(mock_clock: MockClock) -> None:
    rung: list[str] = []
    began = trio.current_time()
    for name, seconds in (("c", 3), ("a", 1), ("d", 3), ("b", 2)):
        alarm_at(began + seconds, partial(rung.append, name))
    await later(mock_clock, 1)
    assert rung == ["a"]
    await later(mock_clock, 1.5)
    assert rung == ["a", "b"]
    # Earlier than what the task sleeps for, and behind that again.
    alarm_at(began + 2.75, partial(rung.append, "e"))
    alarm_at(began + 9, partial(rung.append, "f"))
    await later(mock_clock, 0.25)
    assert rung == ["a", "b", "e"]
    await later(mock_clock, 0.25)
    assert rung == ["a", "b", "e", "c", "d"]
    await later(mock_clock, 5.75)
    assert rung == ["a", "b", "e", "c", "d"]
    await later(mock_clock, 0.25)
    assert rung == ["a", "b", "e", "c", "d", "f"]


async def test_one_in_the_past_rings_at_once(mock_clock: MockClock) -> None:
    alarm_at(trio.current_time() + 100, lambda: None)
    await wait_all_tasks_blocked()
    rung: list[bool] = []
    alarm = alarm_at(trio.current_time() - 1, lambda: rung.append(True))
    await wait_all_tasks_blocked()
    assert rung == [True]
    assert alarm.rung


async def test_one_that_was_taken_back_does_not_ring(mock_clock: MockClock) -> None:
    rung: list[str] = []
    first = alarm_at(trio.current_time() + 1, lambda: rung.append("first"))
    alarm_at(trio.current_time() + 2, lambda: rung.append("second"))
    first.cancel()
    await later(mock_clock, 1)
    assert rung == []
    await later(mock_clock, 1)
    assert rung == ["second"]
    assert not first.rung


async def test_those_that_were_taken_back_are_not_kept(mock_clock: MockClock) -> None:
    kept = Alarms()
    stays = kept.set(1000.0, lambda: None)
    for number in range(50 * alarms.FEW):
        kept.set(float(number), lambda: None).cancel()
    assert len(kept._heap) <= alarms.FEW
    assert any(alarm is stays for *_, alarm in kept._heap)


async def test_what_is_waited_for_comes_or_does_not(mock_clock: MockClock) -> None:
    completion, said = Completion(), []
    began = trio.current_time()

    async def wait() -> None:
        said.append((await completion.wait(began + 5), trio.current_time() - began))
        said.append((await completion.wait(began + 50), trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await later(mock_clock, 5)
        assert said == [(False, 5)]
        await later(mock_clock, 2)
        completion.set()
    assert said == [(False, 5), (True, 7)]
    assert completion.is_set()
    assert await completion.wait()
    await later(mock_clock, 100)  # no alarm is left that would wake somebody


async def test_who_waits_can_be_cancelled(mock_clock: MockClock) -> None:
    completion, scope = Completion(), trio.CancelScope()

    async def wait() -> None:
        with scope:
            await completion.wait(trio.current_time() + 2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert scope.cancelled_caught
    completion.set()  # nobody waits any more
    await later(mock_clock, 5)
    assert await completion.wait()
