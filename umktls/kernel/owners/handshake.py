"""One handshake of Linux's handshake upcall: struct handshake_req of net/handshake/request.c."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import trio

from umktls.dataclass import dataclass
from umktls.kernel.ground.alarms import Completion
from umktls.kernel.owners.request import Offered, Takeable
from umktls.upcall.states import Upcall

__all__ = ["Handshake", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an agent says in the end: a status (an errno of Linux, 0 for success), and the serial
    numbers of what the peer has shown, in the agent's keyring."""

    status: int
    remote_auth: tuple[int, ...] = ()

    @property
    def peer(self) -> int:
        """The first of these, which is all that SunRPC is told; 0 (TLS_NO_PEERID) for none."""
        return self.remote_auth[0] if self.remote_auth else 0


@dataclass(eq=False)
class Handshake(Takeable):
    """A handshake that is to be made on `sock`; `task` is what ACCEPT's answer says of it.

    `pid` is the agent's that has accepted it.
    """

    sock: Offered
    task: Mapping[str, Any]
    upcall: Upcall
    taken: bool = False
    pid: int = 0
    outcome: Outcome | None = None
    done: Completion = field(default_factory=Completion)
    watch: trio.CancelScope | None = None

    @property
    def offers(self) -> bool:
        """It is what all of it is for."""
        return True

    def end(self, outcome: Outcome) -> None:
        """An agent has said DONE (or cannot have the socket)."""
        self.outcome = outcome
        self.finish()
