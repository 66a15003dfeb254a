"""Whose rights a call has on the host's file system.

Theory of operation. A server that runs as root does each call with the caller's uid, gid and groups
of AUTH_SYS (RFC 5531 appendix A) as the file system ids of the thread that serves it, so that the
kernel itself decides about permissions, access control lists and quotas. Linux keeps these ids per
thread; giving up fsuid 0 also gives up the capabilities that override permissions
(capabilities(7)). They are put back before the handler returns, because the thread goes on with the
host's own work.

A server that does not run as root cannot do that: everything runs with the rights of its user, and
credentials are not looked at.

The ids in AUTH_SYS are what the caller says. They are believed only when root of the other machine
let it speak: it has a verified certificate, or a port below 1024 (the export's `secure`). Where the
client's certificate names a user (rpc.tlsservd(8) -u), the call is that user's, whatever it says.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from umktls.dataclass import dataclass
from umktls.errors import UnsupportedError
from umktls.nfsd.exports.exports import NOBODY_ID, Export
from umktls.nfsd.exports.managedgroups import ManagedGroups
from umktls.nfsd.tree import hostcalls
from umktls.rpc.message import AuthSys
from umktls.rpc.server import Peer

__all__ = ["NOBODY", "Actor", "Identity", "believed"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with his groups, as the file system sees him."""

    uid: int
    gid: int
    gids: tuple[int, ...] = ()


NOBODY = Identity(NOBODY_ID, NOBODY_ID)


def believed(
    export: Export,
    credential: AuthSys | None,
    peer: Peer,
    groups: ManagedGroups | None = None,
) -> Identity:
    """Who the caller is for this export, after squashing. groups: where they are looked up, None
    to believe the caller."""
    if export.squash == "all":
        return _anonymous(export.anonymous)
    if credential is None:
        return NOBODY
    if export.secure and not (peer.verified or peer.reserved_port):
        return NOBODY
    squashed = export.anonymous if export.squash == "root" else None
    user = peer.user
    if user is None:
        user = credential if groups is None else groups.of(credential)
    return _identity(user, squashed)


@lru_cache(maxsize=256)
def _anonymous(ids: tuple[int, ...]) -> Identity:
    uid, gid, *gids = ids
    return Identity(uid, gid, tuple(gids))


@lru_cache(maxsize=256)
def _identity(credential: AuthSys, root_becomes: tuple[int, ...] | None) -> Identity:
    """`root_becomes`: the ids that take the place of root's, None to leave root alone."""
    squashed = {hostcalls.NO_ID: NOBODY_ID}
    if root_becomes is not None:
        if credential.uid == 0:
            return _anonymous(root_becomes)
        squashed[0] = root_becomes[1]
    uid, gid, *gids = (
        squashed.get(number, number)
        for number in (credential.uid, credential.gid, *credential.gids)
    )
    return Identity(uid, gid, tuple(gids))


class Actor:
    """Acts on the file system for callers: knows its own ids, and takes on theirs."""

    def __init__(self) -> None:
        self.privileged = os.geteuid() == 0
        self._own = Identity(os.geteuid(), os.getegid(), tuple(os.getgroups()))
        self.as_oneself = nullcontext()
        self._switches: dict[Identity, _Switch] = {}
        if self.privileged:
            self._prove()

    def acting(self, identity: Identity) -> AbstractContextManager[None]:
        """`with actor.acting(identity):` the calling thread has its rights. Not to be nested."""
        own = self._own
        if not self.privileged or (identity.uid == own.uid and identity.gid == own.gid):
            return self.as_oneself  # more groups would give root nothing more
        switch = self._switches.get(identity)
        if switch is None:
            if len(self._switches) >= SWITCHES_LIMIT:
                self._switches.clear()
            switch = _Switch(own, identity)
            switch.prove()
            self._switches[identity] = switch
        return switch

    def _prove(self) -> None:
        """Root without CAP_SETUID would silently serve every caller as root."""
        try:
            self.acting(NOBODY)
        except OSError as error:
            raise UnsupportedError(
                "the server runs as root but may not change its file system ids (no CAP_SETUID, "
                "CAP_SETGID): it could not keep callers apart; start it as another user"
            ) from error


SWITCHES_LIMIT = 256


class _Switch:
    """To another identity and back. Has no state of its own: any thread may use it at any time."""

    __slots__ = ("_back", "_groups", "_identity", "_own")

    def __init__(self, own: Identity, identity: Identity) -> None:
        self._own = own
        self._identity = identity
        self._groups: hostcalls.GroupList | None = None
        self._back: hostcalls.GroupList | None = None
        if identity.gids != own.gids:
            self._groups = hostcalls.GroupList(identity.gids)
            self._back = hostcalls.GroupList(own.gids)

    def prove(self) -> None:
        """OSError EACCES if this process cannot be that user: ids without a counterpart in a user
        namespace are refused silently, and the call would be done as root."""
        with self:
            uid, gid = hostcalls.setfsuid(hostcalls.NO_ID), hostcalls.setfsgid(hostcalls.NO_ID)
        if (uid, gid) != (self._identity.uid, self._identity.gid):
            raise OSError(errno.EACCES, f"cannot act for user {self._identity.uid}")

    def __enter__(self) -> None:
        if self._groups is not None:
            hostcalls.setgroups(self._groups)  # the one that may fail, before all others
        hostcalls.setfsgid(self._identity.gid)
        hostcalls.setfsuid(self._identity.uid)

    def __exit__(self, *exc_info: object) -> None:
        hostcalls.setfsuid(self._own.uid)
        hostcalls.setfsgid(self._own.gid)
        if self._back is not None:
            hostcalls.setgroups(self._back)
