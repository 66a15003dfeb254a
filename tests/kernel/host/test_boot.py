"""How a host comes up and goes down: who is waited for, what lets go, what is finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.capture.blocks import STATISTICS, blocks, packets
from tests.kernel.clientworld import Clock, world
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.captures.line import HOST
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.ground.steps import STEPS
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.owners.request import DaemonGone


async def test_a_daemon_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, daemon_seconds=7.0) as w:
        began = trio.current_time()
        with trio.fail_after(100), pytest.raises(DaemonGone) as caught:
            await w.host.daemon_ready("rpctlscd")
        assert trio.current_time() - began == pytest.approx(7.0)
    said = str(caught.value)
    assert said.startswith("no rpctlscd registered within 7 s, ")
    assert "try again with --rundir " in said
    assert f"rpctlscd --rundir {tmp_path / 'h'}" in said


def test_who_ends_a_host_is_held_up_by_no_step(tmp_path: Path) -> None:
    """Not even where something has to be done yet before the host goes down."""
    kinds = []

    async def life() -> None:
        with trio.CancelScope() as scope:
            async with booted(HostConfig("client", tmp_path / "h")) as host:
                steps = host.trace.steps
                with steps.viewing(lambda: None):
                    steps.choose(STEPS)
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.testing.wait_all_tasks_blocked()
                        kinds.append(steps.kinds)

    trio.run(life, clock=HostClock())
    assert kinds == [frozenset()]


async def test_all_of_a_capture_is_in_its_file_when_the_host_is_down(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    async with booted(HostConfig("client", tmp_path / "h", capture=CaptureConfig(path))):
        pass
    assert packets(path, HOST)[-1].text["name"] == "host-down"
    assert [one.kind for one in blocks(path)][-3:] == [STATISTICS] * 3
