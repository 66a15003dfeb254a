"""Single steps by the control socket."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.host.test_control import send_slowly
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.ground.steps import Steps
from umktls.kernel.host import stepping
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.rundir import RunDirectory
from umktls.kernel.host.stepping import announce, expected, serve_stepping, viewer_comes


class Line:
    """The viewer's end of the control socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._kept = b""

    async def say(self, **order: Any) -> None:
        await self.stream.send_all(json.dumps(order).encode() + b"\n")

    async def stops(self) -> list[dict[str, Any]]:
        while b"\n" not in self._kept:
            data = await self.stream.receive_some()
            assert data
            self._kept += data
        line, _, self._kept = self._kept.partition(b"\n")
        stops: list[dict[str, Any]] = json.loads(line)["stops"]
        return stops


@asynccontextmanager
async def viewing(steps: Steps, **request: Any) -> AsyncIterator[Line]:
    ours, theirs = trio.socket.socketpair()

    async def serve() -> None:
        async with trio.SocketStream(theirs) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await serve_stepping(stream, steps, request)

    with trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with trio.SocketStream(ours) as stream:
                yield Line(stream)


def by_a_clock_that_can_stand(life: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(life, clock=HostClock())


def test_stops_are_told_and_let_go() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with viewing(steps, kinds=["probe", "upcall"]) as line, trio.open_nursery() as tasks:
            assert await line.stops() == []
            tasks.start_soon(steps.stop, "probe", "c1")
            (probe,) = await line.stops()
            assert (probe["step"], probe["connection"]) == ("probe", "c1")
            tasks.start_soon(steps.stop, "upcall", "c2", "CONNECT")
            _, upcall = await line.stops()
            assert upcall["what"] == "CONNECT"
            await line.say(next=probe["number"])
            await line.say(next=12345)  # one that has gone already
            while upcall not in (stops := await line.stops()) or len(stops) > 1:
                pass
            await line.say(kinds=[])
            while await line.stops():
                pass

    by_a_clock_that_can_stand(life)


@pytest.mark.parametrize("nonsense", [b"[]\n", b"{\n", b'{"kinds": 5}\n', b'{"kinds": ["no"]}\n'])
def test_who_goes_or_talks_nonsense_leaves_nothing_standing(nonsense: bytes) -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        viewer = viewing(steps, kinds=["probe"], hold=True)
        async with trio.open_nursery() as tasks, viewer as line:
            await line.stops()
            tasks.start_soon(steps.stop, "probe", "c1")
            await line.stops()
            await line.stream.send_all(nonsense)
            assert await line.stream.receive_some() == b""
        assert not steps.kinds

    by_a_clock_that_can_stand(life)


def test_the_longest_order() -> None:
    order = json.dumps({"kinds": ["probe"]}).encode().ljust(stepping.LINE_LIMIT)
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with viewing(steps) as line:
            await line.stream.send_all(order)
            await trio.testing.wait_all_tasks_blocked()
            await line.stream.send_all(b"\n")
            await trio.testing.wait_all_tasks_blocked()
            assert steps.kinds == {"probe"}
            await line.stream.send_all(order)
            await trio.testing.wait_all_tasks_blocked()
            await line.stream.send_all(b" ")
            await trio.testing.wait_all_tasks_blocked()
            assert not steps.kinds

    by_a_clock_that_can_stand(life)


def test_a_line_without_an_end_is_not_kept() -> None:
    steps = Trace("h", "client").steps

    async def life() -> None:
        async with viewing(steps) as line:
            with pytest.raises(trio.BrokenResourceError):
                await send_slowly(line.stream, 1 << 20)

    by_a_clock_that_can_stand(life)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path))
    return tmp_path


def announced(base: Path, pid: int, *names: str, name: str = stepping.ANNOUNCEMENTS) -> None:
    path = base / name.format(pid)
    path.write_text(json.dumps({"pid": pid, "hosts": names}))


def test_which_hosts_are_waited_for(base: Path) -> None:
    rundir = base / "client-7"
    parent = os.getppid()
    assert not expected(rundir, "client-7")
    announced(base, parent)
    assert expected(rundir, "client-7")
    assert expected(base / "server-3" / "worker-1", "w")
    assert not expected(base.parent / "elsewhere", "client-7")
    announced(base, parent, "server-1")
    assert not expected(rundir, "client-7")
    announced(base, parent, "client-7")
    assert expected(rundir, "client-7")
    (base / stepping.ANNOUNCEMENTS.format(parent)).write_text("[")
    announced(base, 2**22 + 5)  # that was killed: no process has that number
    assert not expected(rundir, "client-7")
    assert not (base / stepping.ANNOUNCEMENTS.format(2**22 + 5)).exists()


def test_two_that_step_do_not_take_away_each_others_announcement(base: Path) -> None:
    announced(base, os.getppid(), "client-7")
    announce(base, ("server-1",))
    assert expected(base / "client-7", "client-7")
    announce(base, None)
    assert expected(base / "client-7", "client-7")


def test_announcing(base: Path) -> None:
    announce(base, ("one",))
    told = json.loads((base / stepping.ANNOUNCEMENTS.format(os.getpid())).read_text())
    assert told == {"pid": os.getpid(), "hosts": ["one"]}
    announce(base, None)
    announce(base, None)
    assert list(base.iterdir()) == []


@dataclass
class Booting:
    """A host that comes up."""

    rundir: RunDirectory
    name: str = "client-7"
    trace: Trace = field(default_factory=lambda: Trace("client-7", "client"))


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_host_waits_for_its_viewer_and_not_for_long(base: Path) -> None:
    host = Booting(RunDirectory("client", base / "client-7"))
    hand, come = Hand(), trio.Event()

    async def boot() -> None:
        await viewer_comes(host)
        come.set()

    async def life() -> None:
        nonlocal come
        async with trio.open_nursery() as nursery:
            await boot()  # nobody has announced himself
            announced(base, os.getppid())
            come = trio.Event()
            nursery.start_soon(boot)
            await trio.testing.wait_all_tasks_blocked()
            assert not come.is_set()
            hand.at += stepping.ARRIVAL_SECONDS
            await come.wait()
            come = trio.Event()
            nursery.start_soon(boot)
            await trio.testing.wait_all_tasks_blocked()
            assert not come.is_set()
            host.trace.steps.arrived.set()
            await come.wait()

    trio.run(life, clock=HostClock(hand))


async def test_a_host_waits_for_who_wants_to_watch_it_from_its_beginning(
    base: Path, autojump_clock: trio.testing.MockClock
) -> None:
    host = Booting(RunDirectory("client", base / "client-7"))
    announced(base, os.getppid(), "client-7", name=stepping.WATCHERS)
    await viewer_comes(host)
    assert trio.current_time() == stepping.ARRIVAL_SECONDS  # he has not come
    assert trio.current_time() < HostConfig("client").daemon_seconds
    async with trio.open_nursery() as nursery:
        nursery.start_soon(viewer_comes, host)
        await trio.testing.wait_all_tasks_blocked()
        with host.trace.watched(lambda event: None):
            pass
    await viewer_comes(Booting(RunDirectory("client", base / "client-8"), "client-8"))
    assert trio.current_time() == stepping.ARRIVAL_SECONDS


async def test_a_host_whose_clock_cannot_stand_waits_for_nobody(
    base: Path, autojump_clock: trio.testing.MockClock
) -> None:
    announced(base, os.getppid())
    await viewer_comes(Booting(RunDirectory("client", base / "client-7")))
    assert trio.current_time() == 0.0
