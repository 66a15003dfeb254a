"""Lessons in a terminal: in colours there, in plain lines anywhere else; or as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import click
import trio
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from umktls.cli.interrupts import ended_by_signals
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.ground import hostclock
from umktls.lessons.player import Audience, Part, play

__all__ = ["run"]

WIDTH = 96


def run(
    name: str, *, pause: bool, solutions: bool, as_json: bool, capture: CaptureConfig | None = None
) -> None:
    """Play the lesson of that name. Raises UmktlsError where this machine cannot."""
    audience: Audience = Json(pause) if as_json else Terminal(pause)

    async def played() -> None:
        await play(name, audience, solutions=solutions, capture=capture)

    hostclock.run(ended_by_signals, played)


class Json:
    """`pause`: who reads it answers, too: a line for each question, an empty one for none."""

    def __init__(self, pause: bool) -> None:
        self._pause = pause

    async def hear(self, part: Part) -> None:
        click.echo(json.dumps(part))
        sys.stdout.flush()

    async def answer(self) -> str | None:
        return (await typed()).strip() or None if self._pause else None


class Terminal:
    """`pause`: somebody sits there who answers, and presses Enter."""

    def __init__(self, pause: bool) -> None:
        console = Console(highlight=False)
        self._console = Console(highlight=False, width=min(console.width, WIDTH))
        self._pause = pause
        self._shows: dict[str, Callable[[Part], None]] = {
            "lesson": self._lesson,
            "step": self._step,
            "question": self._question,
            "seen": lambda part: self._lines(part["lines"]),
            "check": self._check,
            "means": lambda part: self._paragraphs(part["text"]),
            "end": self._end,
        }

    async def hear(self, part: Part) -> None:
        self._shows[part["part"]](part)
        if self._pause and part["part"] in ("lesson", "means"):
            await pause()

    async def answer(self) -> str | None:
        if not self._pause:
            return None
        click.echo("Your answer: ", nl=False)
        return (await typed()).strip() or None

    def _lesson(self, part: Part) -> None:
        self._title(f"{part['title']}   ({part['minutes']} minutes)")
        self._paragraphs(part["text"])

    def _step(self, part: Part) -> None:
        self._title(f"{part['number']}. {part['title']}")
        self._paragraphs(part["text"])
        if part["given"]:
            self._lines(part["given"])

    def _question(self, part: Part) -> None:
        self._say(part["text"], "yellow", "Predict: ")
        for letter, choice in zip("abcdefgh", part["choices"], strict=False):
            self._indented(f"{letter}) {choice}", "yellow")

    def _check(self, part: Part) -> None:
        verdict = {None: "", True: "  Right!", False: f"  (You said: {part['given']}.)"}
        self._say(part["answer"] + verdict[part["right"]], "yellow", "Answer: ")

    def _end(self, part: Part) -> None:
        self._title("Exercises")
        for number, exercise in enumerate(part["exercises"], 1):
            self._say(exercise["text"], "", f"{number}. ")
            if "solution" in exercise:
                self._say(exercise["solution"], "green", "   Solution: ")
        self._title("To read")
        self._console.print()
        for code in part["code"]:
            self._indented(f"{code['file']}: {code['name']}", "")
        for rfc in part["rfcs"]:
            self._indented(f"RFC {rfc['rfc']} section {rfc['section']}: {rfc['about']}", "")

    def _title(self, title: str) -> None:
        self._console.print(Text(f"\n{title}", style="bold cyan"))

    def _paragraphs(self, texts: list[str]) -> None:
        for text in texts:
            self._say(text, "", "")

    def _say(self, text: str, style: str, before: str) -> None:
        self._console.print()
        self._console.print(Text(before + text, style=style))

    def _lines(self, lines: list[str]) -> None:
        """What was seen, or is there to begin with."""
        self._console.print()
        for line in lines:
            self._indented(line, "green")

    def _indented(self, line: str, style: str) -> None:
        self._console.print(Padding(Text(line, style=style), (0, 0, 0, 4), expand=False))


async def pause() -> None:
    """Until Enter, where somebody sits who can press it."""
    if sys.stdin.isatty():
        click.echo("\nEnter goes on. ", nl=False)
        await typed()


async def typed() -> str:
    """The next line of input. Until it is there hosts run on, and Ctrl-C ends the lesson."""
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        return sys.stdin.readline()
    line = b""
    # No further than the line: what comes behind it would lie in a buffer, and not be waited for.
    while not line.endswith(b"\n"):
        with suppress(OSError):  # a file is always readable, and cannot be waited for
            await trio.lowlevel.wait_readable(descriptor)
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line.decode(errors="replace")
