"""The scenarios: each with what it is about, what is expected, and the script of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from umktls.scenarios.bench import Bench, Role

__all__ = ["SCENARIOS", "Scenario", "Skipped", "scenario"]

BOTH: tuple[Role, ...] = ("client", "server")
# Plays the scenario; returns what was seen. Raises an error when it is not as expected.
Script = Callable[[Bench], Awaitable[str]]


class Skipped(Exception):
    """The scenario is about something that this daemon need not do."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`about` is a paragraph for people, `expected` a few words, `roles` whose daemons it is
    for."""

    name: str
    expected: str
    about: str
    roles: tuple[Role, ...]
    script: Script


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, expected: str, roles: tuple[Role, ...] = BOTH
) -> Callable[[Script], Script]:
    """Enters a function into the table; its docstring is the paragraph."""

    def enter(script: Script) -> Script:
        about = " ".join((script.__doc__ or "").split())
        SCENARIOS[name] = Scenario(name, expected, about, roles, script)
        return script

    return enter
