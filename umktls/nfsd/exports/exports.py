"""What is exported, how it is called, and what a connection must have to use it.

The levels of security are those of RFC 9289 section 4.2: none, server authenticated (tls), both
sides authenticated (mtls); and FreeBSD's tlscertuser (certuser): both sides authenticated, and the
client's certificate names the user.

A call whose connection has less than its export asks for is rejected with AUTH_TOOWEAK, as by
FreeBSD's nfsd, because Linux's client says why then (knfsd's answer is ACCES). If the connection
has less than every export asks for, the gate rejects the call; else the call is rejected when its
arguments have told which export is meant. A client that may not use an export for another reason
gets ACCES. The NULL procedure is always let through: it is the probe. What MOUNT asks is another
matter: see `umktls.nfsd.program.mountd`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import field
from typing import Any, Literal

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines.choice import EngineChoice
from umktls.nfsd.exports.rules import ANYBODY, Rules
from umktls.rpc.message import AuthStat
from umktls.rpc.program import Procedure
from umktls.rpc.server import CallContext, Peer

__all__ = [
    "LEVELS",
    "NOBODY_ID",
    "Export",
    "LevelGate",
    "Security",
    "Squash",
    "least_security",
    "level_of",
    "overlaps",
]

Security = Literal["none", "tls", "mtls", "certuser"]
Squash = Literal["none", "root", "all"]
LEVELS: dict[Security, int] = {"none": 0, "tls": 1, "mtls": 2, "certuser": 3}
MUTUAL = LEVELS["mtls"]
SQUASHES = ("none", "root", "all")
NOBODY_ID = 65534


@dataclass(frozen=True)
class Export:
    """A directory that is served.

    path: the directory on this host. name: what clients mount; "" for the absolute path.
    squash: who is made anonymous: no caller, root, or all. anonymous: uid, gid and groups of those.
    secure: callers from ports of 1024 and more without a verified certificate become nobody,
    because any user of their machine may be behind them. rules: which clients it is for. fsid: the
    number of the file system that clients see, 0 for one derived from the path; no two exports may
    share one. engine: what the connections of its clients go by, None for the server's choice.
    """

    path: str
    name: str = ""
    read_only: bool = False
    security: Security = "none"
    squash: Squash = "root"
    anonymous: tuple[int, ...] = (NOBODY_ID, NOBODY_ID)
    secure: bool = True
    rules: Rules = ANYBODY
    fsid: int = 0
    engine: EngineChoice | None = None
    level: int = field(init=False, repr=False, compare=False)
    guarded: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        path = os.path.realpath(self.path)
        if not os.path.isdir(path):
            raise CallerError(f"export {self.path}: not a directory; name one that exists")
        if self.security not in LEVELS or self.squash not in SQUASHES:
            raise CallerError(f"export {self.path}: no option {self.security} or {self.squash}")
        level = max(LEVELS[self.security], MUTUAL if self.rules.about_certificates else 0)
        derived = {
            "name": self.name or os.path.abspath(self.path),
            "path": path,
            "fsid": self.fsid or _fsid_of(path),
            "rules": ANYBODY if self.rules == ANYBODY else self.rules,
            "level": level,
            "guarded": level > 0 or self.rules != ANYBODY,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def wants_certificate(self) -> bool:
        """Whether clients have to show a certificate."""
        return self.level >= MUTUAL

    def weakness(self, peer: Peer) -> str | None:
        """What a connection lacks in security; None if nothing."""
        if level_of(peer) >= self.level:
            return None
        return f"the export asks for {security_of(self.level)}, and the connection has less"

    def objection(self, peer: Peer) -> str | None:
        """Why a client may not use the export; None if it may."""
        weakness = self.weakness(peer)
        if weakness is not None or self.rules is ANYBODY:
            return weakness
        return self.rules.objection(peer)


def _fsid_of(path: str) -> int:
    digest = hashlib.blake2s(os.fsencode(path), digest_size=8, person=b"fsid").digest()
    return int.from_bytes(digest, "big")


def level_of(peer: Peer) -> int:
    """The level of security that a connection has."""
    if not peer.tls:
        return 0
    if not peer.verified:
        return 1
    return MUTUAL if peer.user is None else LEVELS["certuser"]


def security_of(level: int) -> Security:
    """The name of a level."""
    return next(name for name, each in LEVELS.items() if each == level)


def least_security(exports: Iterable[Export]) -> Security:
    """What every export asks for at least."""
    return security_of(min((export.level for export in exports), default=0))


def overlaps(exports: Iterable[Export]) -> list[str]:
    """Warnings about exports that are within others which ask for less or allow more: a client of
    the outer one reaches the inner one too."""
    all_of_them = list(exports)
    return [
        f"{inner.name} lies in {outer.name} and {stricter}: who may use {outer.name} "
        "gets there without"
        for inner in all_of_them
        for outer in all_of_them
        if inner.path.startswith(os.path.join(outer.path, ""))
        and (stricter := _stricter(inner, outer))
    ]


def _stricter(one: Export, other: Export) -> str:
    """In what an export is stricter than another; empty if in nothing."""
    differences = {
        "asks for more": one.level > other.level or one.rules not in (ANYBODY, other.rules),
        "is read-only": one.read_only and not other.read_only,
        "squashes more": SQUASHES.index(one.squash) > SQUASHES.index(other.squash),
        "believes less (no -insecure)": one.secure and not other.secure,
    }
    return ", ".join(what for what, differs in differences.items() if differs)


class LevelGate:
    """The gate of services that serve exports; `set_exports` when those change."""

    def __init__(self, exports: Iterable[Export]) -> None:
        self.set_exports(exports)

    def set_exports(self, exports: Iterable[Export]) -> None:
        self._needed = LEVELS[least_security(exports)]

    def __call__(self, procedure: Procedure[Any, Any], context: CallContext) -> AuthStat | None:
        """AUTH_TOOWEAK, or None to let the call through."""
        if not self._needed or procedure.number == 0 or level_of(context.peer) >= self._needed:
            return None
        least = security_of(self._needed)
        why = f"all of them ask for {least} at least, and the connection has less"
        context.peer.refused("any of the exports", why)
        return AuthStat.AUTH_TOOWEAK
