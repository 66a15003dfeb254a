"""Deadlines that one task keeps for all."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from umktls.kernel.ground import alarms
from umktls.kernel.ground.alarms import Alarms, Completion, alarm_at


async def test_each_rings_at_its_time(autojump_clock: MockClock) -> None:
    rung: list[tuple[str, float]] = []
    began = trio.current_time()

    def ring(name: str) -> None:
        rung.append((name, trio.current_time() - began))

    for name, seconds in (("c", 3), ("a", 1), ("d", 3), ("b", 2)):
        alarm_at(began + seconds, partial(ring, name))
    await trio.sleep(2.5)
    assert rung == [("a", 1), ("b", 2)]
    # Earlier than what the task sleeps for, and behind that again.
    alarm_at(began + 2.75, partial(ring, "e"))
    alarm_at(began + 9, partial(ring, "f"))
    await trio.sleep(17.5)
    assert [name for name, _ in rung] == ["a", "b", "e", "c", "d", "f"]
    assert [when for _, when in rung] == [1, 2, 2.75, 3, 3, 9]


async def test_one_in_the_past_rings_at_once(mock_clock: MockClock) -> None:
    alarm_at(trio.current_time() + 100, lambda: None)
    await wait_all_tasks_blocked()
    rung: list[bool] = []
    alarm = alarm_at(trio.current_time() - 1, lambda: rung.append(True))
    await wait_all_tasks_blocked()
    assert rung == [True]
    assert alarm.rung


async def test_one_that_was_taken_back_does_not_ring(autojump_clock: MockClock) -> None:
    rung: list[str] = []
    first = alarm_at(trio.current_time() + 1, lambda: rung.append("first"))
    alarm_at(trio.current_time() + 2, lambda: rung.append("second"))
    first.cancel()
    await trio.sleep(3)
    assert rung == ["second"]
    assert not first.rung


async def test_those_that_were_taken_back_are_not_kept(mock_clock: MockClock) -> None:
    kept = Alarms()
    stays = kept.set(1000.0, lambda: None)
    for number in range(50 * alarms.FEW):
        kept.set(float(number), lambda: None).cancel()
    assert len(kept._heap) <= alarms.FEW
    assert any(alarm is stays for *_, alarm in kept._heap)


async def test_what_is_waited_for_comes_or_does_not(autojump_clock: MockClock) -> None:
    completion, said = Completion(), []
    began = trio.current_time()

    async def wait() -> None:
        said.append((await completion.wait(began + 5), trio.current_time() - began))
        said.append((await completion.wait(began + 50), trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(7)
        assert said == [(False, 5)]
        completion.set()
    assert said == [(False, 5), (True, 7)]
    assert completion.is_set()
    assert await completion.wait()
    await trio.sleep(100)  # no alarm is left that would wake somebody


async def test_who_waits_can_be_cancelled(autojump_clock: MockClock) -> None:
    completion = Completion()
    with trio.move_on_after(1) as scope:
        await completion.wait(trio.current_time() + 2)
    assert scope.cancelled_caught
    completion.set()  # nobody waits any more
    await trio.sleep(5)
    with trio.move_on_after(1) as scope:
        assert await completion.wait()
    assert not scope.cancelled_caught
