"""The scenarios: each with what it is about, what is expected, and the script of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from types import MappingProxyType

from umktls.abi.freebsd import TLS_MINOR_VER_THREE
from umktls.abi.personality import Personality
from umktls.dataclass import dataclass
from umktls.scenarios.bench import Bench, Role

__all__ = [
    "ALPN",
    "DEMAND",
    "DEPOSIT",
    "GOODBYE",
    "HANGING_UP",
    "OWN_SOCKET",
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
    """What a scenario takes for granted of the kernel, and of the daemon. `lacking` says why it
    cannot be had, of a personality's name. `of_agents`: why it cannot be had of a handshake agent
    (Linux's netlink family `handshake`), whatever the kernel, with the source; nothing if it can.
    """

    known: Callable[[Personality], bool]
    lacking: str
    of_agents: str = ""

    def met(self, personality: Personality, agent: bool) -> bool:
        return self.known(personality) and not (agent and self.of_agents)

    def why_not(self, personality: Personality, agent: bool) -> str:
        if agent and self.of_agents:
            return self.of_agents
        return self.lacking.format(personality.name)


def any_kernel(personality: Personality) -> bool:
    return True


SESSION = Need(
    lambda personality: personality.keys.rx_newest >= TLS_MINOR_VER_THREE,
    "{} cannot receive TLS 1.3, and the other side speaks nothing older",
)
TICKETS = Need(
    lambda personality: personality.receiving.handed_up == "control",
    "the kernel of {} has the daemon take alerts and nothing else",
    "behind DONE no record goes to an agent (Linux, net/sunrpc/xprtsock.c)",
)
SECOND_KEY = Need(
    lambda personality: personality.keys.rekey,
    "the kernel of {} takes no second key",
    "behind DONE nobody asks an agent for keys (Linux, net/handshake/netlink.c)",
)
ALPN = Need(
    any_kernel,
    "",
    "agents say nothing of ALPN, and look at nothing (oracle/ktls-utils, issue 31)",
)
DEMAND = Need(
    any_kernel,
    "",
    "agents ask for a client's certificate and do not demand it: DONE tells the kernel whether "
    "there was one (ktls-utils, src/tlshd/server.c; Linux, net/sunrpc/svcauth_unix.c)",
)
DEPOSIT = Need(
    any_kernel, "", "a session is the kernel's alone from DONE on (Linux, net/handshake/request.c)"
)
GOODBYE = Need(
    any_kernel,
    "",
    "the kernel passes over a warning, such as close_notify (Linux, net/sunrpc/xprtsock.c)",
)
HANGING_UP = Need(
    any_kernel,
    "",
    "no kernel notices that an agent has gone: the caller's own time ends the request (Linux, "
    "net/handshake/tlshd.c)",
)
OWN_SOCKET = Need(
    any_kernel,
    "",
    "an agent may have a process of its own for each handshake (ktls-utils, src/tlshd/netlink.c), "
    "and what that may open is not known here",
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

    def under(self, personality: Personality, agent: bool = False) -> Expected:
        """What is to be expected of that kernel, and of such a daemon."""
        lacking = next((need for need in self.needs if not need.met(personality, agent)), None)
        if lacking is None:
            return Expected(self.expected)
        if lacking in self.otherwise:
            return Expected(self.otherwise[lacking])
        return Expected("nothing", lacking.why_not(personality, agent))


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
