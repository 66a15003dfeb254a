"""Which engines this machine can run, and what each can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from umktls.errors import UnsupportedError
from umktls.ktls.engines import Engine, Route, directions_of, problem_of, route_of
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.session import Direction, Session
from umktls.ktls.suites import SUITES, TLS_1_3, Suite

__all__ = ["Ability", "abilities", "chosen_engines", "problem"]

VERSION_NAMES = {TLS_1_3: "TLS 1.3"}


def problem(engine: Engine) -> str | None:
    """Why the engine cannot run on this machine; None where it can."""
    return problem_of(engine)


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
    """What an engine can do in one direction: suites by version, and why not the others."""

    suites: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def abilities(engine: Engine) -> dict[Direction, Ability]:
    """What the engine can do, by direction."""
    return {direction: ability(engine, direction) for direction in directions_of(engine)}


def ability(engine: Engine, direction: Direction) -> Ability:
    found = Ability()
    for session in trial_sessions():
        version = VERSION_NAMES[session.version]
        reason = None
        # The daemon's library does what is bounced; in clear nobody does anything.
        if route_of(engine) is not Route.BOUNCE:
            reason = engine.supports(session, direction)
        if reason is None:
            found.suites.setdefault(version, []).append(session.suite.name)
        else:
            found.refused[f"{version} {session.suite.name}"] = reason
    return found


def trial_sessions() -> list[Session]:
    """A session of each suite, under a key that nobody uses."""
    return [trial_session(suite) for suite in SUITES.values()]


def trial_session(suite: Suite) -> Session:
    return Session(TLS_1_3, suite, bytes(suite.key_length), bytes(suite.iv_length))
