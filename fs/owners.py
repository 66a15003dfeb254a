"""Whose a file is said to be: the options uid=, gid=, umask= and idmap=user.

The first three change what is shown, as libfuse does for sshfs (fuse.c, set_stat), and nothing
else: the server goes on deciding by its own owners. idmap=user is a translation in both directions,
as sshfs has it: there the remote user is the owner of the directory where a login begins, here the
owner of the export's root. His files are shown as those of who mounts, and what who mounts does is
sent in his name.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pyfuse3 import ROOT_INODE, EntryAttributes

from .options import MountOptions

__all__ = ["Owners"]

_PERMISSIONS = 0o7777


class Owners:
    """Translates ids between this machine and the server.

    me: user and group of who mounts, where the options do not name them.
    """

    def __init__(
        self, options: MountOptions, me: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        uid, gid = me() if me is not None else (os.geteuid(), os.getegid())
        self._uid, self._gid, self._umask = options.uid, options.gid, options.umask
        self._maps = options.idmap_user
        self._local = (
            uid if options.uid is None else options.uid,
            gid if options.gid is None else options.gid,
        )
        self._remote: tuple[int, int] | None = None
        self.active = self._maps or not (self._uid is self._gid is self._umask is None)

    def show(self, entry: EntryAttributes) -> None:
        """Change attributes as the server has them to what is shown here."""
        if self._maps and entry.st_ino == ROOT_INODE and self._remote is None:
            self._remote = (entry.st_uid, entry.st_gid)
        if self._remote is not None:
            remote_uid, remote_gid = self._remote
            if entry.st_uid == remote_uid:
                entry.st_uid = self._local[0]
            if entry.st_gid == remote_gid:
                entry.st_gid = self._local[1]
        if self._uid is not None:
            entry.st_uid = self._uid
        if self._gid is not None:
            entry.st_gid = self._gid
        if self._umask is not None:
            entry.st_mode = entry.st_mode & ~_PERMISSIONS | 0o777 & ~self._umask

    @property
    def settled(self) -> bool:
        """Whether ids are translated now as they will be from now on: idmap=user translates nothing
        until the root's owner is known."""
        return not self._maps or self._remote is not None

    def sent_uid(self, uid: int) -> int:
        """What the server is told in the place of a user's number here."""
        return self._remote[0] if self._remote and uid == self._local[0] else uid

    def sent_gid(self, gid: int) -> int:
        """The same for a group."""
        return self._remote[1] if self._remote and gid == self._local[1] else gid
