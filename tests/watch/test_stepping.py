"""Single steps through several hosts: one stop at a time, and all clocks stand."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.cli.control import Host
from umktls.errors import CallerError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.ground.steps import STEPS, Steps
from umktls.kernel.host.stepping import ANNOUNCEMENTS, serve_stepping
from umktls.watch.feed import Feed
from umktls.watch.stepping import Stepper

OURS = ANNOUNCEMENTS.format(os.getpid())


class World:
    """Hosts with control sockets of which one operation works, and who steps through them."""

    def __init__(self, base: Path, nursery: trio.Nursery, *, from_start: bool = False) -> None:
        self.base, self.nursery = base, nursery
        self.feed = Feed()
        self.stepper = Stepper(self.feed, ("a", "b"), base, from_start=from_start)
        self.held: dict[str, bool] = {}

    async def boot(self, name: str) -> Steps:
        rundir = self.base / name
        rundir.mkdir()
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(rundir / "control.sock"))
        sock.listen()
        steps = Trace(name, "client").steps
        hold = steps.hold

        def told(yes: bool) -> None:
            self.held[name] = yes
            hold(yes)

        steps.hold = told  # type: ignore[method-assign]
        self.nursery.start_soon(self._serve, sock, steps)
        self.feed.hosts[name] = Host(rundir, {"name": name, "pid": 1})
        return steps

    async def _serve(self, listener: trio.socket.SocketType, steps: Steps) -> None:
        with listener:
            while True:
                sock, _ = await listener.accept()
                async with trio.SocketStream(sock) as stream:
                    request = json.loads(await stream.receive_some())
                    with contextlib.suppress(trio.BrokenResourceError):
                        try:
                            await serve_stepping(stream, steps, request)
                        except CallerError as error:
                            await stream.send_all(
                                json.dumps({"error": str(error)}).encode() + b"\n"
                            )

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is so: each step there takes trips through sockets."""
        while not true():
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def world(base: Path, *, from_start: bool = False) -> AsyncIterator[World]:
    with trio.fail_after(patience(30)):
        async with trio.open_nursery() as nursery:
            made = World(base, nursery, from_start=from_start)
            nursery.start_soon(made.stepper.run)
            yield made
            nursery.cancel_scope.cancel()


def run(life: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(life, clock=HostClock())


def places(stepper: Stepper) -> list[str]:
    return [f"{stop['host']} {stop['step']}" for stop in stepper.message()["stops"]]


def test_one_stop_at_a_time(tmp_path: Path) -> None:
    """The hosts' clock is the viewer's too here, so it looks for hosts before anything stands."""

    async def life() -> None:
        async with world(tmp_path) as made:
            one, other = await made.boot("a"), await made.boot("b")
            stepper = made.stepper
            with stepper.page():
                await stepper.obey({"on": True})
                assert json.loads((tmp_path / OURS).read_text())["hosts"] == ["a", "b"]
                await made.until(lambda: one.kinds and other.kinds)
                made.nursery.start_soon(one.stop, "probe", "c1")
                await made.until(lambda: places(stepper) == ["a probe"] and made.held.get("b"))
                made.nursery.start_soon(other.stop, "STARTTLS", "s1")
                await made.until(lambda: places(stepper) == ["a probe", "b STARTTLS"])
                await stepper.obey({"next": True})
                await made.until(lambda: not one.stops)
                await made.until(lambda: made.held == {"a": True, "b": False})
                assert places(stepper) == ["b STARTTLS"]
                await stepper.obey({"next": True})
                await made.until(lambda: not other.stops and not any(made.held.values()))
                await stepper.obey({"next": True})  # nothing stands
                assert not trio.lowlevel.current_clock().stands  # type: ignore[attr-defined]

    run(life)


@pytest.mark.parametrize("from_start", [False, True])
def test_a_page_that_is_closed_has_everything_go_on(tmp_path: Path, from_start: bool) -> None:
    async def life() -> None:
        async with world(tmp_path, from_start=from_start) as made:
            steps = await made.boot("a")
            with made.stepper.page():
                if not from_start:
                    await made.stepper.obey({"on": True})
                await made.until(lambda: steps.kinds)
                made.nursery.start_soon(steps.stop, "upcall", "c1")
                await made.until(lambda: places(made.stepper))
            await made.until(lambda: not steps.stops and not steps.viewed)
            assert not (tmp_path / OURS).exists()
            assert not made.stepper.on
            await made.stepper.obey({"on": True})  # nobody could say "next"
            assert not made.stepper.on

    run(life)


def test_kinds_are_chosen_while_it_runs(tmp_path: Path) -> None:
    async def life() -> None:
        async with world(tmp_path) as made:
            steps = await made.boot("a")
            with made.stepper.page():
                await made.stepper.obey({"kinds": ["keys", "close"], "on": True})
                await made.until(lambda: steps.kinds == {"keys", "close"})
                await made.stepper.obey({"kinds": ["close"]})
                await made.until(lambda: steps.kinds == {"close"})
                nonsense: object
                for nonsense in ("keys", ["dance"], [["keys"]], [{}]):
                    with pytest.raises(CallerError, match="no list of steps"):
                        await made.stepper.obey({"kinds": nonsense})
                assert made.stepper.message()["kinds"] == ["close"]

    run(life)


def test_a_host_through_which_somebody_else_steps(tmp_path: Path) -> None:
    async def life() -> None:
        async with world(tmp_path) as made:
            steps = await made.boot("a")
            with steps.viewing(lambda: None), made.stepper.page():
                await made.stepper.obey({"on": True})
                await made.until(lambda: made.stepper.message()["problems"])
                (problem,) = made.stepper.message()["problems"]
                assert "goes through this host's steps already" in problem

    run(life)


def test_every_kind_is_offered() -> None:
    assert Stepper(Feed()).message()["kinds"] == list(STEPS)
