"""Steps: a clock that stands still, gates, and who goes through them; by a clock made by hand."""

from __future__ import annotations

import math
import select
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.ground import hostclock
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.ground.steps import STEPS
from umktls.standstill import STEPPED, WATCHED, ClockFile, KernelClock
from umktls.userland.exchange import Exchange
from umktls.userland.failures import KernelGone
from umktls.userland.streams import Deadline, DeadlinePassed


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def nothing() -> None:
    """What happens when stops come and go."""


def test_a_clock_that_stands() -> None:
    hand = Hand()
    clock = HostClock(hand)
    assert clock.deadline_to_sleep_time(103.0) == 3.0
    clock.hold("one", True)
    clock.hold("other", True)
    hand.at = 150.0
    assert clock.current_time() == 100.0
    assert clock.deadline_to_sleep_time(103.0) == math.inf
    assert clock.deadline_to_sleep_time(100.0) == 0.0
    clock.hold("one", False)
    assert clock.stands
    clock.hold("other", False)
    hand.at = 151.0
    assert clock.current_time() == 101.0
    assert clock.deadline_to_sleep_time(103.0) == 2.0


def test_daemons_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()
    monkeypatch.setattr("time.monotonic", hand)
    clock, file = HostClock(hand), ClockFile(tmp_path)
    clock.show_in(file)
    seen = KernelClock(tmp_path)
    deadline = Deadline.after(5.0, seen.now)
    clock.hold("viewer", True)
    hand.at = 1000.0
    assert (seen.now(), deadline.left()) == (100.0, 5.0)
    clock.hold("viewer", False)
    hand.at = 1002.0
    assert (deadline.left(), deadline.part(0.5).left()) == (3.0, 1.5)
    file.mark(WATCHED, True)
    file.mark(STEPPED, True)
    file.mark(WATCHED, False)
    assert seen.asks == STEPPED


def test_a_host_without_such_a_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()
    monkeypatch.setattr("time.monotonic", hand)
    seen = KernelClock(tmp_path)
    assert (seen.now(), seen.asks) == (100.0, 0)


async def test_daemons_see_it_in_a_run_directory_that_was_made_anew(tmp_path: Path) -> None:
    steps = Trace("h", "client").steps
    steps.show_in(ClockFile(tmp_path))
    steps.mark(STEPPED, True)
    steps.mark(WATCHED, True)
    before = KernelClock(tmp_path)
    steps.show_in(ClockFile(tmp_path))
    after = KernelClock(tmp_path)
    assert (before.asks, after.asks) == (STEPPED | WATCHED, STEPPED | WATCHED)
    steps.mark(STEPPED, False)
    assert (before.asks, after.asks) == (WATCHED, WATCHED)


def run_by_hand(hand: Hand, function: object) -> None:
    trio.run(function, clock=HostClock(hand))  # type: ignore[arg-type]


def test_no_deadline_passes_at_a_stop() -> None:
    hand = Hand()
    trace = Trace("h", "client")
    done: list[str] = []

    async def probed() -> None:
        with trio.move_on_after(10.0) as patience:
            await trace.steps.stop("probe", "c1")
            done.append("probed")
            await trio.sleep_forever()
        assert patience.cancelled_caught
        done.append("timed out")

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            with trace.steps.viewing(nothing):
                trace.steps.choose(["probe"])
                nursery.start_soon(probed)
                await trio.testing.wait_all_tasks_blocked()
                hand.at += 1_000_000
                await trio.testing.wait_all_tasks_blocked()
                (stop,) = trace.steps.stops
                assert (stop.step, stop.connection, done) == ("probe", "c1", [])
                trace.steps.next(stop.number)
                await trio.testing.wait_all_tasks_blocked()
                assert (done, trace.steps.stops) == (["probed"], [])
                hand.at += 9.0
                await trio.testing.wait_all_tasks_blocked()
                assert done == ["probed"]
                hand.at += 1.5
                await trio.testing.wait_all_tasks_blocked()
                assert done == ["probed", "timed out"]

    run_by_hand(hand, life)
    kinds = [event["event"] for event in trace.since()]
    assert kinds == ["stopped", "gone-on"]


def test_who_goes_away_leaves_nothing_standing() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            with steps.viewing(nothing):
                steps.choose(STEPS)
                steps.hold(True)
                nursery.start_soon(steps.stop, "upcall", "c1", "CONNECT")
                nursery.start_soon(steps.stop, "close", "c2", "the end")
                await trio.testing.wait_all_tasks_blocked()
                assert len(steps.stops) == 2
        assert not steps.stops
        assert not trio.lowlevel.current_clock().stands  # type: ignore[attr-defined]
        await steps.stop("upcall", "c1", "CONNECT")

    run_by_hand(Hand(), life)


def test_a_peer_that_stands_has_the_clock_stand() -> None:
    steps = Trace("h", "server").steps
    hand = Hand()

    async def life() -> None:
        with steps.viewing(nothing):
            steps.hold(True)
            hand.at += 50
            assert trio.current_time() == 100.0
            steps.hold(False)
            hand.at += 1
            assert trio.current_time() == 101.0

    run_by_hand(hand, life)


def test_only_what_was_chosen() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            with steps.viewing(nothing):
                steps.choose(["keys"])
                await steps.stop("probe", "c1")
                nursery.start_soon(steps.stop, "keys", "c1", "TX")
                await trio.testing.wait_all_tasks_blocked()
                assert [stop.what for stop in steps.stops] == ["TX"]
                steps.choose(["probe"])  # who stands in front of another one goes on
                await trio.testing.wait_all_tasks_blocked()
                assert not steps.stops
                with pytest.raises(CallerError, match="no step 'dance'"):
                    steps.choose(["dance"])

    run_by_hand(Hand(), life)


def test_one_viewer_at_a_time() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        with steps.viewing(nothing), pytest.raises(CallerError, match="already"):  # noqa: SIM117
            with steps.viewing(nothing):
                pass
        with steps.viewing(nothing):
            pass

    run_by_hand(Hand(), life)


async def test_a_clock_that_cannot_stand() -> None:
    steps = Trace("h", "client").steps
    with pytest.raises(UnsupportedError, match="cannot stand"), steps.viewing(nothing):
        pass


def test_a_host_that_ends_stops_nowhere() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            with steps.viewing(nothing):
                steps.choose(STEPS)
                steps.hold(True)
                nursery.start_soon(steps.stop, "close", "c1", "the end")
                await trio.testing.wait_all_tasks_blocked()
                assert len(steps.stops) == 1
                steps.leave()
                await trio.testing.wait_all_tasks_blocked()
                assert not steps.stops
                assert not trio.lowlevel.current_clock().stands  # type: ignore[attr-defined]
                steps.choose(STEPS)
                steps.hold(True)
                await steps.stop("close", "c2", "the end")
                await trio.testing.wait_all_tasks_blocked()
                assert not steps.stops
                assert not trio.lowlevel.current_clock().stands  # type: ignore[attr-defined]

    run_by_hand(Hand(), life)


class Poller:
    """poll(2) that times out at once, and once has something."""

    def __init__(self, ready_at: int, each: object) -> None:
        self.asked: list[float] = []
        self._ready_at, self._each = ready_at, each

    def register(self, fd: int, events: int) -> None:
        """Nothing is watched."""

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.asked.append(milliseconds)
        assert callable(self._each)
        self._each()
        return [(3, select.POLLIN)] if len(self.asked) == self._ready_at else []


def test_a_daemon_waits_on_while_the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()
    poller = Poller(5, lambda: None)
    monkeypatch.setattr("select.poll", lambda: poller)
    Deadline.after(0.01, hand).wait(3, select.POLLIN)
    # The first time until the deadline; then it is looked at now and then, not in a circle.
    assert [round(each) for each in poller.asked] == [11, 51, 51, 51, 51]


def test_a_daemon_waits_no_longer_than_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()

    def passes() -> None:
        hand.at += 6.0

    poller = Poller(5, passes)
    monkeypatch.setattr("select.poll", lambda: poller)
    with pytest.raises(DeadlinePassed):
        Deadline.after(10.0, hand).wait(3, select.POLLIN)
    assert len(poller.asked) == 2


def test_a_system_call_may_take_as_long_as_its_host_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand = Hand()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    poller = Poller(4, lambda: None)
    with ours, theirs:
        exchange = Exchange(ours, 10.0, hand)
        theirs.send((7).to_bytes(4, "big") + b"answer")
        monkeypatch.setattr("select.poll", lambda: poller)
        answers = exchange.trip({7: b"request"})
        assert answers == {7: ((7).to_bytes(4, "big") + b"answer", [])}
        assert len(poller.asked) == 4
        hand_over = Poller(9, lambda: setattr(hand, "at", hand.at + 6.0))
        monkeypatch.setattr("select.poll", lambda: hand_over)
        with pytest.raises(KernelGone, match="timed out"):
            exchange.trip({8: b"request"})
        assert len(hand_over.asked) == 2


def test_what_must_be_looked_at_is_when_the_clock_stands() -> None:
    async def life() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, HostClock)
        await hostclock.real_pause(0.001)
        assert not hostclock.stands()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hostclock.real_pause, 0.01)
            await trio.testing.wait_all_tasks_blocked()
            clock.hold("a", True)
        assert hostclock.stands()
        await hostclock.real_pause(0.01)
        clock.hold("a", False)
        assert not hostclock.stands()
        await hostclock.real_pause(0.001)

    hostclock.run(life)
