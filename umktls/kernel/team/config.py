"""How a server of several workers is to come up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.dataclass import dataclass

__all__ = ["TeamConfig"]


@dataclass(frozen=True, slots=True)
class TeamConfig:
    """How many workers, and what they do. Listening is as in `ServerConfig`.

    target: "module:function" of a coroutine function, which is called with the worker's `Inlet` and
        with what `argument` returns at the time, pickled.
    shared: the descriptor of what the workers share (umktls.kernel.team.shared).
    mount_port: where MOUNT alone is to be had besides; None: nowhere.
    together: all connections of a client's address go to one worker.
    facts: what else the host's description says.
    """

    count: int
    target: str
    argument: Callable[[], Any]
    shared: int
    hosts: tuple[str, ...] = ("localhost",)
    port: int = 2049
    mount_port: int | None = None
    rundir: Path | None = None
    personality: Personality = DEFAULT_PERSONALITY
    together: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
