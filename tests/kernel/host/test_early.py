"""Daemons that start before their host is there: who has them, and what becomes of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conftest import patience
from umktls.abi.rpctls import HOST_PIPE
from umktls.errors import WorldError
from umktls.kernel.host.commands import AgentCommand
from umktls.kernel.host.early import claim, starting_early

# Says what it reads in the pipe; at its end nothing.
WAITS = f"import os; print('read', os.read(int(os.environ['{HOST_PIPE}']), 9), flush=True)"
SECONDS = 20


@dataclass(frozen=True)
class Waiting:
    code: str = WAITS
    program: str = "waiting"
    directory: Path | None = None
    waits: ClassVar[bool] = True

    def line(self, rundir: Path) -> Sequence[str]:
        if not self.code:
            raise WorldError("no such program")
        return [sys.executable, "-c", self.code, str(rundir)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All processes that were started; none is left behind."""
    made: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def note(*args: object, **how: object) -> subprocess.Popen[bytes]:
        made.append(real(*args, **how))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    yield made
    for process in made:
        process.kill()
        process.wait(patience(SECONDS))


def test_the_host_has_the_one_that_waits(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    rundir, command = tmp_path / "run", Waiting()
    with starting_early("client", rundir, [command]):
        line = command.line(rundir.resolve())
        assert claim([*line, "--other"]) is None
        process = claim(line)
        assert [process] == started
        assert claim(line) is None
        assert process is not None
        assert process.wait(patience(SECONDS)) == 0
        assert (rundir / "waiting.log").read_text() == "read b'\\n'\n"
    assert not rundir.exists()


def test_nobody_waits_for_ever(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """The host has not come so far."""
    rundir = tmp_path / "run"
    commands = [Waiting(), Waiting(f"{WAITS} # the other")]
    with pytest.raises(ZeroDivisionError), starting_early("client", rundir, commands):
        raise ZeroDivisionError
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert not rundir.exists()


def test_what_is_wrong_is_said_by_who_starts_it_in_order(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "host.json").write_text(json.dumps({"pid": os.getppid()}))
    agent = AgentCommand("rpctlscd", words=("tlshd", "-s"))
    for rundir, command in (
        (tmp_path / "run", Waiting()),  # of a host that lives
        (tmp_path / ("long" * 40), Waiting()),
        (tmp_path / "other", Waiting(code="")),
        (tmp_path / "unused", agent),  # which begins at once
    ):
        with starting_early("client", rundir, [command]):
            assert started == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "host.json").exists()
