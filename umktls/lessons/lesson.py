"""What a lesson is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from umktls.dataclass import dataclass
from umktls.kernel.captures.config import CaptureConfig

__all__ = ["Code", "Exercise", "Lesson", "Question", "Rfc", "Seen", "Step"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Question:
    """What the reader is to predict. Without `choices` the answer is a number or a word."""

    text: str
    choices: tuple[str, ...] = ()

    def right(self, given: str, answer: str) -> bool:
        """Whether what the reader typed is the answer; a choice may be its letter (a, b, ...)."""
        word = " ".join(given.lower().split()).rstrip(".")
        letters = {chr(ord("a") + n): choice for n, choice in enumerate(self.choices)}
        return letters.get(word, word).lower() == answer.lower()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a step showed.

    `lines` are for people; `answer` is what the step's question should have been answered, as this
    run has it; `facts` are the numbers behind the lines, for programs and tests, fit for JSON.
    """

    lines: tuple[str, ...]
    answer: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """`text` and the lines that `given` makes come before the question, `do` behind it, then
    `means`: what follows from what was seen."""

    title: str
    text: str
    question: Question
    do: Callable[[S], Awaitable[Seen]]
    means: str
    given: Callable[[S], tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Exercise:
    text: str
    solution: str


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to read: a file of this project, and a function, class, method or constant in it."""

    file: str
    name: str


@dataclass(frozen=True, slots=True)
class Rfc:
    """`number` of the RFC, the section, and what it is about."""

    number: int
    section: str
    about: str


@dataclass(frozen=True, slots=True)
class Lesson(Generic[S]):
    """`stage` sets up what the steps work on; `text` is the introduction, in paragraphs. `captured`
    is the same stage where there are hosts with sockets, with a capture of what passes them.
    `sockets`: it works with KTLS sockets alone, which are shown to who watches (shown.py)."""

    title: str
    text: str
    stage: Callable[[], AbstractAsyncContextManager[S]]
    steps: tuple[Step[S], ...]
    exercises: tuple[Exercise, ...]
    code: tuple[Code, ...]
    rfcs: tuple[Rfc, ...]
    captured: Callable[[CaptureConfig], AbstractAsyncContextManager[S]] | None = None
    sockets: bool = False
