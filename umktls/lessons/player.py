"""Plays a lesson to an audience, as parts that are fit for JSON.

    {"part": "lesson", "name", "title", "minutes", "text"}
    for each step:
        {"part": "step", "number", "title", "text", "given"}
        {"part": "question", "text", "choices"}     behind it the audience is asked
        {"part": "seen", "lines", "facts"}
        {"part": "check", "answer", "given", "right"}   the last two are null if nobody answered
        {"part": "means", "text"}
    {"part": "end", "exercises", "code", "rfcs"}

Texts are paragraphs. An exercise has its "solution" only where solutions are wanted.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from umktls.errors import UnsupportedError
from umktls.kernel.captures.config import CaptureConfig
from umktls.lessons.lesson import Lesson, Step
from umktls.lessons.shown import sockets_shown
from umktls.lessons.table import LESSONS, load

__all__ = ["Audience", "Part", "play"]

Part = dict[str, Any]


class Audience(Protocol):
    async def hear(self, part: Part) -> None:
        """The next part."""

    async def answer(self) -> str | None:
        """The reader's prediction, as typed; None where nobody is asked, or does not answer."""


def paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


async def play(
    name: str, audience: Audience, *, solutions: bool = False, capture: CaptureConfig | None = None
) -> None:
    """The whole lesson. Raises what its stage raises (UmktlsError), and `UnsupportedError` where
    there is nothing to capture."""
    lesson = load(name)
    stage_of = staged(name, lesson, capture)
    first = {"name": name, "title": lesson.title, "minutes": LESSONS[name].minutes}
    await audience.hear({"part": "lesson", **first, "text": paragraphs(lesson.text)})
    async with sockets_shown() if lesson.sockets else nullcontext(), stage_of as stage:
        for number, step in enumerate(lesson.steps, 1):
            await _play_step(number, step, stage, audience)
    await audience.hear(_end(lesson, solutions))


def staged(
    name: str, lesson: Lesson[Any], capture: CaptureConfig | None
) -> AbstractAsyncContextManager[Any]:
    if capture is None:
        return lesson.stage()
    if lesson.captured is None:
        able = ", ".join(each for each in LESSONS if load(each).captured is not None)
        raise UnsupportedError(
            f"lesson {name} has no hosts with sockets of their own, so there is nothing to "
            f"capture: take one of {able}"
        )
    return lesson.captured(capture)


async def _play_step(number: int, step: Step[Any], stage: Any, audience: Audience) -> None:
    hear, question = audience.hear, step.question
    given = list(step.given(stage)) if step.given else []
    text = paragraphs(step.text)
    await hear(
        {"part": "step", "number": number, "title": step.title, "text": text, "given": given}
    )
    await hear(
        {
            "part": "question",
            "text": " ".join(question.text.split()),
            "choices": list(question.choices),
        }
    )
    reply = await audience.answer()
    seen = await step.do(stage)
    await hear({"part": "seen", "lines": list(seen.lines), "facts": dict(seen.facts)})
    right = None if reply is None else question.right(reply, seen.answer)
    await hear({"part": "check", "answer": seen.answer, "given": reply, "right": right})
    await hear({"part": "means", "text": paragraphs(step.means)})


def _end(lesson: Lesson[Any], solutions: bool) -> Part:
    exercises = []
    for exercise in lesson.exercises:
        both = {"text": exercise.text, "solution": exercise.solution}
        whole = {key: " ".join(text.split()) for key, text in both.items()}
        exercises.append(whole if solutions else {"text": whole["text"]})
    code = [{"file": code.file, "name": code.name} for code in lesson.code]
    rfcs = [{"rfc": rfc.number, "section": rfc.section, "about": rfc.about} for rfc in lesson.rfcs]
    return {"part": "end", "exercises": exercises, "code": code, "rfcs": rfcs}
