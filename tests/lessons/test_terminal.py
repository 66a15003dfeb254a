"""`umktls lesson --pause` in a real terminal: it waits for Enter, and Ctrl-C ends it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.cli.lesson_player import typed
from umktls.kernel.host.commands import program_path


class Terminal:
    """What somebody sees and types."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self.seen = ""

    def until(self, words: str) -> None:
        """Wait until that is there, behind what was waited for before."""
        while words not in self.seen:
            readable, _, _ = select.select([self._leader], [], [], patience(20))
            assert readable, self.seen
            self.seen += os.read(self._leader, 65536).decode()
        self.seen = self.seen.partition(words)[2]

    def type(self, keys: bytes) -> None:
        os.write(self._leader, keys)


@contextmanager
def lesson(name: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [program_path("umktls"), "lesson", name, "--pause"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(follower)
    try:
        yield Terminal(leader), process
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_it_waits_asks_and_ends_with_ctrl_c() -> None:
    with lesson("sequence") as (terminal, process):
        terminal.until("Enter goes on.")
        terminal.type(b"\n")
        terminal.until("Your answer:")
        terminal.type(b"zz\n")
        terminal.until("You said: zz.")
        terminal.until("Enter goes on.")
        terminal.type(b"\n")
        terminal.until("Your answer:")
        terminal.type(b"\x03")
        assert process.wait(patience(20)) == 1
        terminal.until("Aborted!")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """What is written there comes in at standard input."""
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys


async def test_half_a_line_stops_nothing_else(keys: BinaryIO) -> None:
    heard: list[str] = []

    async def hear() -> None:
        heard.append(await typed())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        keys.write(b"half")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not heard
        keys.write(b" a line\nand more")
    assert heard == ["half a line\n"]
    keys.close()
    assert await typed() == "and more"
