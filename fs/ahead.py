"""Names of one directory that were fetched ahead; `foresight.py` has when, and what for."""

from __future__ import annotations

from typing import NamedTuple

import trio

from umktls.nfs.types import fattr3
from umktls.rpc.message import OpaqueAuth

from .known import Version

__all__ = ["Ahead", "Seen"]


class Seen(NamedTuple):
    """What a name led to, by a call that was `started` (AttributeCache.stamp) and whose answer is
    as good as of the time `asked`, when it was made."""

    handle: bytes
    attr: fattr3
    started: int
    asked: float


class Ahead:
    """Of one directory, for one user. missed, used: look-ups that had to be asked for, and that had
    not. fetched: how many names. fetching: set when the call that is under way has been answered;
    None if there is none. touched: names of which something newer is known than it says. The rest
    is where the listing is, and what it has brought."""

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
        """Something newer is known of a name."""
        self.entries.pop(name, None)
        if self.fetching is not None:
            self.touched.add(name)
