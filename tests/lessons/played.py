"""A lesson, played without a terminal."""

from __future__ import annotations

import trio

from tests.conftest import patience
from umktls.kernel.captures.config import CaptureConfig
from umktls.lessons.player import Part, play


class Listener:
    """Hears everything; gives the answers that it was given, then none."""

    def __init__(self, answers: list[str]) -> None:
        self.parts: list[Part] = []
        self._answers = iter(answers)

    async def hear(self, part: Part) -> None:
        self.parts.append(part)

    async def answer(self) -> str | None:
        return next(self._answers, None)

    def all(self, part: str) -> list[Part]:
        return [each for each in self.parts if each["part"] == part]

    @property
    def facts(self) -> list[Part]:
        """Of each step."""
        return [part["facts"] for part in self.all("seen")]

    @property
    def answers(self) -> list[str]:
        return [part["answer"] for part in self.all("check")]


def played(
    name: str,
    answers: list[str] | None = None,
    *,
    solutions: bool = False,
    capture: CaptureConfig | None = None,
) -> Listener:
    """The lesson, run in an event loop of its own; every answer is one of the choices."""
    listener = Listener(answers or [])

    async def run() -> None:
        with trio.fail_after(patience(50)):
            await play(name, listener, solutions=solutions, capture=capture)

    trio.run(run)
    for question, answer in zip(listener.all("question"), listener.answers, strict=True):
        assert not question["choices"] or answer in question["choices"]
    return listener
