"""A session whose daemon has gone; what becomes of it is in handover.py."""

from __future__ import annotations

from dataclasses import field

import trio

from umktls.dataclass import dataclass
from umktls.kernel.owners.upcalls import DaemonHandle

__all__ = ["Orphan"]


@dataclass(eq=False)
class Orphan:
    """A session without a daemon.

    The daemon that had it was called `daemon`, and ran as user `uid`. `adopter` has asked for it.
    `over`: it is adopted, or its connection has ended.
    """

    daemon: str
    uid: int
    adopter: DaemonHandle | None = None
    over: trio.Event = field(default_factory=trio.Event)
