"""Which engines this machine can run, and what each can do."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import field

from umktls.dataclass import dataclass
from umktls.errors import UnsupportedError
from umktls.kernel.sockets import hosttls
from umktls.ktls.engines import Engine, Route, directions_of, problem_of, route_of
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import ALL_SUITES, SUITES, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3, Suite

__all__ = ["Ability", "abilities", "bound", "chosen_engines", "problem"]

VERSION_NAMES = {TLS_1_0: "TLS 1.0", TLS_1_1: "TLS 1.1", TLS_1_2: "TLS 1.2", TLS_1_3: "TLS 1.3"}


def problem(engine: Engine) -> str | None:
    """Why the engine cannot run on this machine; None where it can."""
    own = problem_of(engine)
    return hosttls.problem() if own is None and route_of(engine) is Route.HOST else own


def bound(engine: Engine, sock: socket.socket) -> Engine:
    """The engine for one real socket, where it makes a difference which."""
    return hosttls.BoundEngine(sock) if route_of(engine) is Route.HOST else engine


def chosen_engines(choice: EngineChoice) -> Mapping[Direction, Engine]:
    """The engines that were chosen.

    Raises `CallerError` for one that is not there, `UnsupportedError` for one that cannot run here.
    """
    engines = choice.engines()
    for engine in engines.values():
        reason = problem(engine)
        if reason is not None:
            raise UnsupportedError(
                f"engine {engine.name} cannot be used here: {reason}; `umktls engines` lists those "
                "that can"
            )
    return engines


@dataclass(frozen=True, slots=True)
class Ability:
    """What an engine can do in one direction: suites by version; the others by version, why not."""

    suites: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)


def abilities(engine: Engine) -> dict[Direction, Ability]:
    """What the engine can do, by direction."""
    return {direction: ability(engine, direction) for direction in directions_of(engine)}


def ability(engine: Engine, direction: Direction) -> Ability:
    found = Ability()
    for session in trial_sessions():
        version = VERSION_NAMES[session.version]
        if route_of(engine) is not Route.BOUNCE:
            reason = engine.supports(session, direction)
        else:  # then it is what the daemons offer
            reason = None if session.suite.name in SUITES else "the daemons do not offer that"
        if reason is None:
            found.suites.setdefault(version, []).append(session.suite.name)
        else:
            found.refused.setdefault(version, {})[session.suite.name] = reason
    return found


def trial_sessions() -> list[Session]:
    """A session of each suite in each version, under a key that nobody uses; newest first."""
    pairs = [(version, suite) for suite in ALL_SUITES.values() for version in suite.versions]
    pairs.sort(key=lambda pair: -pair[0])
    return [trial_session(version, suite) for version, suite in pairs]


def trial_session(version: int, suite: Suite) -> Session:
    mac_key = bytes(suite.tag_length) if suite.mac else b""
    return Session(version, suite, bytes(suite.key_length), bytes(suite.iv_length), 0, mac_key)
