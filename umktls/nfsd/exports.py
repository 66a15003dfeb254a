"""What is exported, how it is called, and what a connection must have to use it.

The levels of security are those of RFC 9289 section 5.2: none, server authenticated (tls), both
sides authenticated (mtls). The gate answers AUTH_TOOWEAK to a call whose connection is below what
every export asks; what one export of several asks beyond that is answered by ACCES, because only
the arguments tell which export is meant. The NULL procedure is always let through: it is the probe.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from umktls.errors import CallerError
from umktls.rpc.message import AuthStat
from umktls.rpc.program import Procedure
from umktls.rpc.server import CallContext, Gate, Peer

__all__ = ["Export", "Security", "Squash", "gate_for", "level_of"]

Security = Literal["none", "tls", "mtls"]
Squash = Literal["none", "root", "all"]
LEVELS: dict[str, int] = {"none": 0, "tls": 1, "mtls": 2}
SQUASHES = ("none", "root", "all")


@dataclass(frozen=True)
class Export:
    """A directory that is served.

    path: the directory on this host. name: what clients mount; "" for the absolute path.
    squash: who becomes nobody: no caller, root, or all. secure: callers from ports of 1024 and more
    without a verified certificate become nobody, because any user of their machine may be behind
    them. fsid: the number of the file system that clients see, 0 for one derived from the path; no
    two exports may share one.
    """

    path: str
    name: str = ""
    read_only: bool = False
    security: Security = "none"
    squash: Squash = "root"
    secure: bool = True
    fsid: int = 0

    def __post_init__(self) -> None:
        path = os.path.realpath(self.path)
        if not os.path.isdir(path):
            raise CallerError(f"export {self.path}: not a directory; name one that exists")
        if self.security not in LEVELS or self.squash not in SQUASHES:
            raise CallerError(f"export {self.path}: no option {self.security} or {self.squash}")
        object.__setattr__(self, "name", self.name or os.path.abspath(self.path))
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "fsid", self.fsid or _fsid_of(path))

    @property
    def level(self) -> int:
        """0 none, 1 TLS, 2 mutual TLS: what a connection must have at least."""
        return LEVELS[self.security]


def _fsid_of(path: str) -> int:
    digest = hashlib.blake2s(os.fsencode(path), digest_size=8, person=b"fsid").digest()
    return int.from_bytes(digest, "big")


def level_of(peer: Peer) -> int:
    """The level of security that a connection has."""
    if not peer.tls:
        return 0
    return 2 if peer.verified else 1


def gate_for(exports: Iterable[Export]) -> Gate:
    """The gate of services that serve these exports."""
    needed = min((export.level for export in exports), default=0)

    def gate(procedure: Procedure[Any, Any], context: CallContext) -> AuthStat | None:
        if procedure.number == 0 or level_of(context.peer) >= needed:
            return None
        return AuthStat.AUTH_TOOWEAK

    return gate
