"""How a server of several workers is to come up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality

__all__ = ["TeamConfig"]


@dataclass(frozen=True, slots=True)
class TeamConfig:
    """How many workers, and what they do. `target` is "module:function" of a coroutine function,
    which is called with the worker's `Inlet` and what `argument` returns at the time, pickled.
    `shared` is the descriptor of what they share. `together`: all connections of a client's address
    go to one worker. Listening is as in `ServerConfig`."""

    count: int
    target: str
    argument: Callable[[], Any]
    shared: int
    hosts: tuple[str, ...] = ("localhost",)
    port: int = 2049
    rundir: Path | None = None
    personality: Personality = DEFAULT_PERSONALITY
    together: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
