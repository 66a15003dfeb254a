"""A team of daemons whose processes are played: what ends its start, and what its end is."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from umktls_daemons.programs import inspector, workers
from umktls_daemons.programs.workers import Team, Worker

from tests.descriptors import descriptors
from umktls.abi.rpctls import RpctlsSysc
from umktls.errors import WorldError

KERNEL = 1000  # a descriptor that is never looked at


class Played(Team):
    """No process is made; `word` says which descriptors can be read, in turn."""

    heard: list[int]

    def _fork(self, worker: Worker) -> None:
        worker.pid = 1

    def _wait(self, seconds: float | None) -> set[int]:
        return {self.heard.pop(0)}

    def _reap(self) -> None:
        self._workers[0].pid = 0


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def never() -> None:
    raise AssertionError("it is not ready")


def nothing(*of: object) -> None: ...


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "told to end before all daemons served"),
        (signal.SIGTERM, "told to end before all daemons served"),
        (signal.SIGCHLD, "a daemon ended before it served"),
    ],
)
def test_what_ends_the_start_of_a_team(number: int, words: str) -> None:
    """The kernel has gone (0), a signal says so, or a daemon has ended."""
    with pipe() as word, pipe() as lifeline, pipe() as wakeup:
        team = Played("rpctlssd", 2, nothing, word, lifeline, (wakeup[0], KERNEL))
        team.heard = [word[0], wakeup[0] if number else KERNEL, word[0]]
        for end in (word[1], word[1]):
            os.write(end, b"r")
        os.write(wakeup[1], bytes((number,)))
        # One of two serves at first.
        os.read(word[0], 1)
        with pytest.raises(WorldError, match=words):
            team.start(never)


def no_process() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_team_that_can_start_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", no_process)
    with pipe() as word, pipe() as lifeline, pipe() as wakeup:
        team = Team("rpctlssd", 2, nothing, word, lifeline, (wakeup[0], KERNEL))
        with pytest.raises(WorldError, match="cannot start a daemon: Resource temporarily"):
            team.start(never)


def test_a_daemon_that_cannot_be_replaced_yet_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The world refuses a process, twice; the third one is there."""
    refusals: list[Callable[[], int]] = [no_process, no_process, lambda: 7]
    pauses = list[float | None]()

    class Lacking(Played):
        _fork = Team._fork

        def _wait(self, seconds: float | None) -> set[int]:
            pauses.append(seconds)
            return super()._wait(seconds)

    monkeypatch.setattr(os, "fork", lambda: refusals.pop(0)())
    monkeypatch.setattr(workers, "PAUSES", (0.0,))
    with pipe() as word, pipe() as lifeline, pipe() as wakeup:
        team = Lacking("rpctlssd", 1, nothing, word, lifeline, (wakeup[0], KERNEL))
        team.heard = [-1, -1, -1, KERNEL]
        team.mind()
    assert pauses == [0.0, 0.0, 0.0, None]
    assert team._workers[0].pid == 7
    assert caplog.text.count("cannot be started: Resource temporarily unavailable") == 2


@pytest.mark.parametrize(
    ("problem", "code"), [(None, 0), (WorldError("the kernel has gone"), 1), (SystemExit(7), 1)]
)
def test_a_daemon_that_ends_does_not_go_on_as_another_master(
    problem: BaseException | None, code: int
) -> None:
    """It would end the others."""

    def work(*of: object) -> None:
        if problem is not None:
            raise problem

    with pipe() as word, pipe() as lifeline, pipe() as wakeup, pipe() as kernel:
        team = Team("rpctlssd", 1, work, word, lifeline, (wakeup[0], kernel[0]))
        pid = os.fork()
        if not pid:
            try:
                team._be(0)
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def test_a_team_ends_its_daemons_whatever_it_ends_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Kernel:
        rpctls_versions = (1,)

        def __init__(self, rundir: Path) -> None:
            assert rundir == tmp_path

        def fileno(self) -> int:
            return KERNEL

        def close(self) -> None:
            told.append("closed")

        def rpctls_syscall(self, operation: int) -> None:
            told.append(operation)

    class Minding(Team):
        def start(self, ready: Any) -> None:
            told.append("started")

        def mind(self) -> None:
            raise WorldError("the world ends")

        def end(self) -> None:
            told.append("ended")

    monkeypatch.setattr(workers, "Kernel", Kernel)
    monkeypatch.setattr(workers, "Team", Minding)
    monkeypatch.setattr(workers, "set_title", nothing)
    before = descriptors()
    with pytest.raises(WorldError, match="the world ends"):
        workers.run_workers("rpctlssd", tmp_path, 2, nothing, never)
    assert descriptors() <= before
    startup, shutdown = RpctlsSysc.RPCTLS_SYSC_SRVSTARTUP, RpctlsSysc.RPCTLS_SYSC_SRVSHUTDOWN
    assert told == [startup, "started", "ended", shutdown, "closed"]


def test_an_inspector_without_a_host(tmp_path: Path) -> None:
    arguments = [f"--{name}={tmp_path}" for name in ("rundir", "report", "certdir")]
    result = CliRunner().invoke(inspector.main, arguments)
    assert result.exit_code == 1
    assert "Error: no host at" in result.output
