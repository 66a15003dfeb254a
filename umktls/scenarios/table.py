"""The scenarios: each with what it is about, what is expected, and the script of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from umktls.abi.freebsd import TLS_MINOR_VER_THREE
from umktls.abi.personality import Personality
from umktls.scenarios.bench import Bench, Role

__all__ = [
    "SCENARIOS",
    "SECOND_KEY",
    "SESSION",
    "TICKETS",
    "Expected",
    "Scenario",
    "Skipped",
    "scenario",
]

BOTH: tuple[Role, ...] = ("client", "server")
# Plays the scenario; returns what was seen. Raises an error when it is not as expected.
Script = Callable[[Bench], Awaitable[str]]


class Skipped(Exception):
    """The scenario is about something that this daemon, or this kernel, need not do."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a scenario takes for granted of the kernel. `lacking` says why it cannot be had, of a
    personality's name."""

    met: Callable[[Personality], bool]
    lacking: str


SESSION = Need(
    lambda personality: personality.keys.rx_newest >= TLS_MINOR_VER_THREE,
    "{} cannot receive TLS 1.3, and the other side speaks nothing older",
)
TICKETS = Need(
    lambda personality: personality.receiving.handed_up == "control",
    "the kernel of {} has the daemon take alerts and nothing else",
)
SECOND_KEY = Need(
    lambda personality: personality.keys.rekey, "the kernel of {} takes no second key"
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`about` is a paragraph for people, `expected` a few words, `roles` whose daemons it is
    for, `needs` what it takes for granted, and `otherwise` what is expected where one of that is
    not to be had; without such words it cannot be played there."""

    name: str
    expected: str
    about: str
    roles: tuple[Role, ...]
    script: Script
    needs: tuple[Need, ...] = ()
    otherwise: Mapping[Need, str] = field(default_factory=dict)

    def under(self, personality: Personality) -> Expected:
        """What is to be expected of that kernel."""
        lacking = next((need for need in self.needs if not need.met(personality)), None)
        if lacking is None:
            return Expected(self.expected)
        if lacking in self.otherwise:
            return Expected(self.otherwise[lacking])
        return Expected("nothing", lacking.lacking.format(personality.name))


@dataclass(frozen=True, slots=True)
class Expected:
    """In a few words what is expected; if the scenario cannot be played, why."""

    words: str
    skipped: str = ""


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str,
    expected: str,
    roles: tuple[Role, ...] = BOTH,
    *,
    needs: tuple[Need, ...] = (),
    otherwise: Mapping[Need, str] = MappingProxyType({}),
) -> Callable[[Script], Script]:
    """Enters a function into the table; its docstring is the paragraph."""

    def enter(script: Script) -> Script:
        about = " ".join((script.__doc__ or "").split())
        SCENARIOS[name] = Scenario(name, expected, about, roles, script, needs, otherwise)
        return script

    return enter
