"""The process of a daemon under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import trio
from trio.testing import MockClock

from tests.conftest import patience
from umktls.scenarios.subject import STOPPED, thread_states, until_stopped

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
