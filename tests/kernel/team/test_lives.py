"""A worker that hangs: when it is killed for it, and when not; what is left of one that ends."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.team.teamwork import config_of
from tests.passing import elapse
from umktls.kernel.ground.events import Trace
from umktls.kernel.team import lives
from umktls.kernel.team.lives import BOOT_SECONDS, PING_SECONDS, SILENT_SECONDS, Lives, watch
from umktls.kernel.team.worker import Outgoing, Reloads, Worker, pickled


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


# ---- what is left


class Recorded(Lives):
    """The lives of a team's workers, whose last process is known."""

    process: subprocess.Popen[bytes]

    def _start(self, worker: Worker, channel: int) -> subprocess.Popen[bytes]:
        self.process = super()._start(worker, channel)
        return self.process


def recorded(path: Path) -> Recorded:
    async def mend_door() -> None:
        await trio.lowlevel.checkpoint()

    team: Any = SimpleNamespace(
        config=config_of(path / "record", path),
        name="team",
        port=1,
        trace=Trace("team", "server"),
        knobs={},
        reloads=Reloads(),
        mend_door=mend_door,
        change=lambda: None,
    )
    return Recorded(team)


def busy(path: Path) -> Worker:
    """A worker that has two connections, as its supervisor knows it."""
    guests = {1: "192.0.2.1", 2: "192.0.2.1"}
    return Worker(1, path / "w1", up=True, guests=guests, homes=Counter(guests.values()))


async def test_who_has_died_is_asked_nothing_and_has_no_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it had would count against it for ever, when the next ones are given away."""
    monkeypatch.setattr(lives, "PROGRAM", ("true",))
    worker = busy(tmp_path)
    with trio.fail_after(patience(20)):  # not as long as one that hangs is given
        assert await recorded(tmp_path)._live(worker) == "ended with exit code 0"
    assert (worker.up, worker.guests, worker.homes) == (False, {}, {})


async def test_who_is_not_needed_any_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has not been sent is closed: connections, most likely."""
    monkeypatch.setattr(lives, "PROGRAM", ("sh", "-c", "exec sleep 100"))
    one, worker, closed = recorded(tmp_path), busy(tmp_path), list[int]()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one._live, worker)
            while not worker.starts:
                await trio.lowlevel.checkpoint()
            for number in range(4):
                worker.send(Outgoing({}, partial(closed.append, number)))
            nursery.cancel_scope.cancel()
        assert one.process.returncode is not None
        assert sorted(closed) == [0, 1, 2, 3]
        assert worker.queue is None
        assert (worker.up, worker.guests) == (False, {})
    finally:
        one.process.kill()


@pytest.mark.parametrize("program", ["true", "/there/is/no/such/program"])
def test_what_a_worker_is_told_is_not_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    told: list[int] = []

    def kept(value: object) -> int:
        told.append(pickled(value))
        return told[0]

    monkeypatch.setattr(lives, "PROGRAM", (program,))
    monkeypatch.setattr(lives, "pickled", kept)
    with suppress(FileNotFoundError):
        recorded(tmp_path)._start(Worker(1, tmp_path), 0).wait()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(told[0])


@pytest.mark.parametrize("end", ["not there", "closed", "broken"])
def test_what_cannot_be_sent_is_closed(end: str) -> None:
    queue, messages = trio.open_memory_channel[Outgoing](1)
    worker, closed = Worker(1, Path("w1"), queue=queue), list[str]()
    if end == "not there":
        worker.queue = None
    elif end == "closed":
        queue.close()
    else:
        messages.close()
    worker.send(Outgoing({}, lambda: closed.append(end)))
    assert closed == [end]
