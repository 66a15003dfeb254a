"""The process of a daemon under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.conftest import patience
from umktls.scenarios import subject
from umktls.scenarios.subject import STOPPED, Subject, thread_states, until_stopped

THREADS = 8
# Threads that never wait, so that each of them goes on until it is stopped.
BUSY = f"""
import signal, threading
for _ in range({THREADS - 1}):
    threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
print("ready", flush=True)
signal.pause()
"""


def wait_for(pid: int) -> None:
    async def wait() -> None:
        with trio.fail_after(patience(20)):
            await until_stopped(pid)

    trio.run(wait)


def test_who_is_stopped_is_so_with_all_threads() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.send_signal(signal.SIGSTOP)
            wait_for(process.pid)
            assert thread_states(process.pid) == [STOPPED] * THREADS
        finally:
            process.kill()


async def test_who_runs_is_waited_for(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as waiting:
        await until_stopped(os.getpid())
    assert waiting.cancelled_caught


def test_who_has_ended_is_not_waited_for() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        process.kill()
        wait_for(process.pid)  # it is ended, or there still
        process.wait()
        wait_for(process.pid)


@pytest.mark.parametrize("own", ["exit", "trap exit TERM; wait", "trap '' TERM; wait"])
@pytest.mark.parametrize("child", ["", "trap '' TERM; "], ids=["ends", "does not"])
async def test_nothing_of_its_group_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, child: str
) -> None:
    """A child's too, of a process that has gone by itself or did not wait for it."""
    monkeypatch.setattr(subject, "END_SECONDS", 0.5)
    there, held = os.pipe()
    script = f"({child}echo up >/proc/self/fd/{held}; exec sleep 1000) & {own}"
    daemon = Subject([], {}, tmp_path / "log")
    daemon.process = await trio.lowlevel.open_process(
        ["/bin/sh", "-c", script], pass_fds=[held], start_new_session=True
    )
    os.close(held)
    with os.fdopen(there, "rb", buffering=0) as pipe, trio.fail_after(patience(20)):
        await trio.lowlevel.wait_readable(pipe)
        assert pipe.read(3) == b"up\n"
        if own == "exit":
            await daemon.process.wait()
        await daemon.end()
        await trio.lowlevel.wait_readable(pipe)
        assert pipe.read() == b""  # nobody has the other end any more


async def test_a_group_without_a_process_is_nobody_s(tmp_path: Path) -> None:
    daemon = Subject([], {}, tmp_path / "log")
    daemon.process = await trio.lowlevel.open_process(["true"], start_new_session=True)
    await daemon.process.wait()
    await daemon.end()
    assert daemon.process is None
