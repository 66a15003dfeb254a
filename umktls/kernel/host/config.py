"""How a host is to come up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.abi.rpctls import DEFAULT_CONNECTS
from umktls.dataclass import dataclass
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.commands import DaemonCommand
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice

__all__ = ["CERTS_PLACE", "OWN_DAEMON_SECONDS", "REQUEST_BYTES", "HostConfig"]

# In advice, where nobody has said which directory.
CERTS_PLACE = Path("CERTS")
# How long a daemon that the host has started has to register. If it fails, its end is seen at once;
# on a machine that is very busy it takes more than a quarter of a minute.
OWN_DAEMON_SECONDS = 60.0
# 128 of the largest requests.
REQUEST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How a host comes up. Times are in seconds.

    role: "client" or "server".
    rundir: the run directory; None: a new one.
    personality: whose kernel it is.
    daemons: those that the host starts, and keeps alive; with none, one has to register by itself.
    engine: what seals and opens records.
    bounce: whether a direction that its engine does not take may be bounced.
    upcall_seconds: the deadline of each upcall; None: the personality's.
    connects: how many CONNECTs a daemon of version 2 is given at once.
    daemon_seconds: how long a daemon has to register. The host sees the end of its own ones.
    rekey: how keys are renewed (umktls.kernel.upcalls.renewal).
    by_hand: the arguments, by daemon, with which to start one by hand.
    facts: what else the host's description says, and `umktls stat`.
    name: the host's, if it is not its run directory's.
    first, step: connections have the number `first` and every `step`th behind it.
    request_bytes: the limit of umktls.kernel.ground.budget, and of umktls.kernel.ground.unread.
    capture: where what passes its sockets goes (umktls.kernel.captures).
    """

    role: str
    rundir: Path | None = None
    personality: Personality = DEFAULT_PERSONALITY
    daemons: tuple[DaemonCommand, ...] = ()
    engine: EngineChoice = DEFAULT_CHOICE
    bounce: bool = False
    upcall_seconds: float | None = None
    connects: int = DEFAULT_CONNECTS
    daemon_seconds: float = OWN_DAEMON_SECONDS
    rekey: str = "auto"
    by_hand: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    first: int = 1
    step: int = 1
    request_bytes: int = REQUEST_BYTES
    capture: CaptureConfig | None = None
