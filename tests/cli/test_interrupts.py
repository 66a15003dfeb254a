"""Commands that are ended early leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from umktls.cli.interrupts import ended_by_signals
from umktls.errors import WorldError
from umktls.kernel.host.commands import program_path

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def place() -> Iterator[Path]:
    """For run directories and temporary ones: short, because sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="umktls-") as directory:
        yield Path(directory)


@pytest.mark.parametrize("number", ENDS)
def test_run_daemon_takes_its_daemon_along(place: Path, number: int) -> None:
    fifo, runs, temporary = place / "fifo", place / "runs", place / "tmp"
    temporary.mkdir()
    os.mkfifo(fifo)
    environment = os.environ | {"TMPDIR": str(temporary), "UMKTLS_RUNDIR": str(runs)}
    daemon = ["/bin/sh", "-c", f"exec 3>{fifo}; echo up >&3; exec sleep 1000"]
    command = [program_path("umktls"), "run-daemon", "--only", "good", "--", *daemon]
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        fifo.open() as there,
    ):
        assert there.readline() == "up\n"
        process.send_signal(number)
        _, complaints = process.communicate(timeout=patience(60))
        assert there.read() == ""  # the daemon has gone, or this would wait for ever
    assert process.returncode == 1
    assert complaints.strip() == "Aborted!"
    assert list(temporary.iterdir()) == []
    assert [path for path in runs.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("number", ENDS)
def test_probe_leaves_nothing(place: Path, number: int) -> None:
    environment = os.environ | {"TMPDIR": str(place), "UMKTLS_RUNDIR": str(place / "runs")}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(patience(60))
        target = f"localhost:{silent.getsockname()[1]}"
        command = [program_path("umktls"), "probe", "--timeout", "60", target]
        with (
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, text=True
            ) as process,
            silent.accept()[0],
        ):
            process.send_signal(number)
            _, complaints = process.communicate(timeout=patience(60))
    assert process.returncode == 1
    assert complaints.strip() == "Aborted!"
    assert [path for path in place.iterdir() if path.name != "runs"] == []


@pytest.mark.parametrize("number", ENDS)
def test_a_lesson_leaves_nothing(place: Path, number: int) -> None:
    temporary, runs = place / "tmp", place / "runs"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "UMKTLS_RUNDIR": str(runs)}
    command = [program_path("umktls"), "lesson", "sequence", "--json", "--pause"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"question"' in line)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=patience(60))
    assert process.returncode == 1
    assert complaints.strip() == "Aborted!"
    assert list(temporary.iterdir()) == []
    assert [path for path in runs.glob("*") if path.is_dir()] == []


async def test_what_has_cleaned_up_is_interrupted() -> None:
    cleaned = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                cleaned.append(True)

    with trio.fail_after(patience(20)), pytest.raises(KeyboardInterrupt):
        await ended_by_signals(work)
    assert cleaned == [True]


async def test_what_nobody_ends_returns() -> None:
    async def work() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    assert await ended_by_signals(work) == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_what_fails_does_so_with_its_own_error() -> None:
    async def work() -> None:
        await trio.lowlevel.checkpoint()
        raise WorldError("no such thing")

    with pytest.raises(WorldError, match="no such thing"):
        await ended_by_signals(work)


async def test_an_ignored_signal_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        async def work() -> None:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            await trio.lowlevel.checkpoint()

        await ended_by_signals(work)
    finally:
        signal.signal(signal.SIGHUP, before)
