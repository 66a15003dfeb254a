"""Names of one directory that were fetched ahead; `foresight.py` has when, and what for."""

from __future__ import annotations

from typing import NamedTuple

import trio

from umktls.nfs.types import fattr3
from umktls.rpc.message import OpaqueAuth

from .known import Version

__all__ = ["Ahead", "Seen"]


class Seen(NamedTuple):
    """What a name leads to. `started`: the stamp of the call that said so (AttributeCache.stamp);
    `asked`: when it was made, from which time on the answer is as good as any."""

    handle: bytes
    attr: fattr3
    started: int
    asked: float


class Ahead:
    """What was fetched of one directory for one user.

    missed: look-ups for which the server had to be asked. used: look-ups that were answered from
    here. fetched: how many names have come. fetching: set when the READDIRPLUS under way has been
    answered; None where none is. touched: names of which something newer is known than that will
    say. The rest is how far the listing is, and what it has brought.
    """

    __slots__ = (
        "began",
        "complete",
        "cookie",
        "credential",
        "entries",
        "fetched",
        "fetching",
        "last",
        "maxcount",
        "missed",
        "names",
        "touched",
        "used",
        "verifier",
        "version",
    )

    def __init__(self, credential: OpaqueAuth, maxcount: int) -> None:
        self.credential = credential
        self.maxcount = maxcount
        self.missed = self.used = self.fetched = 0
        self.last = self.began = 0.0
        self.entries: dict[bytes, Seen] = {}
        self.touched: set[bytes] = set()
        self.names: set[bytes] = set()
        self.version: Version | None = None
        self.fetching: trio.Event | None = None
        self.complete = False
        self.cookie = 0
        self.verifier = bytes(8)

    def touch(self, name: bytes) -> None:
        """Something newer is known of the name: what was fetched of it is not used."""
        self.entries.pop(name, None)
        if self.fetching is not None:
            self.touched.add(name)
        if not self.complete:
            self.names.add(name)
