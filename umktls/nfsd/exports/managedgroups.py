"""The groups of callers, looked up here in place of what clients say: rpc.mountd(8) --manage-gids.

AUTH_SYS has room for 16 groups (RFC 5531 appendix A); who is in more is refused what only the
others would give. The primary group stays as it is said, so that newgrp(1) means something. A user
whom this machine does not know has no other groups.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from dataclasses import replace

from umktls.rpc.message import AuthSys

__all__ = ["ManagedGroups"]

# As rpc.mountd has it. Of users that are not known less: the service that knows them may be away.
KEPT_SECONDS, UNKNOWN_SECONDS = 1800.0, 60.0
USERS_LIMIT = 4096


def groups_of(uid: int) -> tuple[int, ...] | None:
    """The groups of a user of this machine, None for one that it does not know. May ask the
    network."""
    try:
        found = pwd.getpwuid(uid)
        return tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    except (KeyError, OSError):
        return None


class ManagedGroups:
    """What is known of users, for a while. Threads may share it."""

    def __init__(
        self,
        look_up: Callable[[int], tuple[int, ...] | None] = groups_of,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._now = now
        self._known: dict[int, tuple[float, tuple[int, ...]]] = {}  # uid: (until when, groups)

    def waits(self, credential: AuthSys | None) -> bool:
        """Whether somebody has to be looked up, which may take its time."""
        return credential is not None and self._fresh(credential.uid) is None

    def of(self, credential: AuthSys) -> AuthSys:
        """The credential with the groups that the user has here."""
        gids = self._fresh(credential.uid)
        if gids is None:
            gids = self._learn(credential.uid)
        return replace(credential, gids=gids)

    def forget(self) -> None:
        """Forget what is known: everybody is looked up anew."""
        self._known.clear()

    def _fresh(self, uid: int) -> tuple[int, ...] | None:
        until, gids = self._known.get(uid, (0.0, ()))
        return gids if self._now() < until else None

    def _learn(self, uid: int) -> tuple[int, ...]:
        found = self._look_up(uid)
        if len(self._known) >= USERS_LIMIT:
            self._known.clear()
        gids = found or ()
        seconds = UNKNOWN_SECONDS if found is None else KEPT_SECONDS
        self._known[uid] = (self._now() + seconds, gids)
        return gids
