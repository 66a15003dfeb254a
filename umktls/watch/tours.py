"""A lesson for the page, or for a recording: played by a process of its own.

The process is `umktls lesson NAME --json --pause`. Its hosts go by a clock of theirs, which can
stand still for who steps, and what a lesson computes holds up no page. They have their run
directories where all hosts have them, so the feed finds them, and wait for it; the process's number
is in their names. What is heard:

    {"part": "process", "pid"}      first; then the parts of umktls.lessons.player
    {"part": "failed", "text"}      where they break off
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import IO, Any

import trio

from umktls.errors import PeerError
from umktls.kernel.host.commands import program_path
from umktls.lessons.player import Part
from umktls.watch.feed import Feed
from umktls.watch.hosts import lines

__all__ = ["tour"]

Hear = Callable[[Part], Awaitable[None]]
Answer = Callable[[], Awaitable[str | None]]
END_SECONDS = 10.0


async def tour(feed: Feed, name: str, hear: Hear, answer: Answer) -> None:
    """Play the lesson of that name to its end; `answer` gives the prediction to each question that
    was heard, None for none. `feed.tours` has what was heard, with the times. Raises `WorldError`
    where there is no such program."""
    command = [program_path("umktls"), "lesson", name, "--json", "--pause", "--solutions"]
    kept: dict[str, Any] = {"name": name, "parts": []}

    async def tell(part: Part) -> None:
        kept["parts"].append({**part, "mono": feed.now()})
        await hear(part)

    with tempfile.TemporaryFile() as log:
        async with playing(command, log) as process:
            feed.tours.append(kept)
            with feed.showing(process.pid):
                await tell({"part": "process", "pid": process.pid})
                await through(process, tell, answer)
                failed = await process.wait()
        if failed:
            log.seek(0)
            words = log.read().decode(errors="replace").split("\n")
            text = next((line for line in reversed(words) if line.strip()), f"code {failed}")
            await tell({"part": "failed", "text": text.removeprefix("umktls: ")})


async def through(process: trio.Process, tell: Hear, answer: Answer) -> None:
    """Its parts as they come, to the end of what it says."""
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with aclosing(lines(process.stdout)) as parts:
            async for part in parts:
                await tell(part)
                if part.get("part") == "question":
                    given = " ".join((await answer() or "").split())
                    await process.stdin.send_all(given.encode() + b"\n")
    except (trio.BrokenResourceError, PeerError):
        return  # it has ended; why, it has said elsewhere


@asynccontextmanager
async def playing(command: list[str], log: IO[bytes]) -> AsyncIterator[trio.Process]:
    """The process. Who leaves the block early ends it as Ctrl-C does: hosts go down in order."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            with trio.move_on_after(END_SECONDS):
                await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)
