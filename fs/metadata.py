"""What is known about a file, and changing it: attributes, permissions, symbolic links, space."""

from __future__ import annotations

import errno
import os
import time

from pyfuse3 import EntryAttributes, SetattrFields, StatvfsData

from umktls.nfs.types import (
    ACCESS3_DELETE,
    ACCESS3_EXECUTE,
    ACCESS3_EXTEND,
    ACCESS3_LOOKUP,
    ACCESS3_MODIFY,
    ACCESS3_READ,
    SERVER_TIME,
    SETATTR3resok,
    nfstime3,
    sattr3,
)
from umktls.rpc.client import ProcedureUnavailable
from umktls.rpc.message import OpaqueAuth

from . import killpriv
from .attributes import AttributeCache
from .calls import Calls, NfsFailure
from .inodes import NOTHING, Inode
from .intent import Intent
from .knownnames import KnownNames
from .owners import Owners

__all__ = ["Metadata"]

PERMISSIONS = 0o7777
BLOCK = 4096
LAST_SECOND = (1 << 32) - 1  # of nfstime3: in the year 2106
NAME_MAX = 255

_FILE_ACCESS = {
    os.R_OK: ACCESS3_READ,
    os.W_OK: ACCESS3_MODIFY | ACCESS3_EXTEND,
    os.X_OK: ACCESS3_EXECUTE,
}
_DIRECTORY_ACCESS = {
    os.R_OK: ACCESS3_READ,
    os.W_OK: ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE,
    os.X_OK: ACCESS3_LOOKUP,
}


class Metadata:
    """Everything about a file but its names and its data."""

    def __init__(
        self, calls: Calls, attributes: AttributeCache, known: KnownNames, intent: Intent
    ) -> None:
        self._intent = intent
        self._calls = calls
        self._known = known
        self._attributes = attributes
        self._name_max: int | None = None

    async def getattr(self, inode: Inode, credential: OpaqueAuth, pid: int = 0) -> EntryAttributes:
        """Attributes, from the cache as long as they may be believed. `pid`: of the thread that
        asks, 0 if unknown.

        A little data that was written behind is sent first, so that mtime is what it will be; who
        writes a stream is not waited for. Nor is that done for a thread that reads: the machine's
        kernel asks for the size then, in front of each read behind a write.
        """
        writer = inode.writer
        if writer is not None and writer.small and not self._intent.reads(pid):
            await writer.drain()
        if not self._attributes.fresh(inode):
            started = await self._attributes.ask(self._calls, inode, credential)
            return self._attributes.reply(inode, started)
        return self._attributes.reply(inode)

    async def setattr(
        self, inode: Inode, entry: EntryAttributes, fields: SetattrFields, credential: OpaqueAuth
    ) -> EntryAttributes:
        """Change attributes. What was written before comes before: it would change mtime again.

        What a server may refuse to who is not the owner is asked for again in the way in which he
        may have it: times as the server's now, a size without the mode (killpriv.py).
        """
        if inode.writer is not None:
            await (inode.writer.flush() if fields.update_size else inode.writer.drain())
        started = self._attributes.stamp()
        wanted = _sattr3(entry, fields, self._attributes.owners)
        with self._attributes.changing(inode):
            result = await self._setattr(inode, wanted, credential)
        if fields.update_size:
            inode.data_version += 1
        inode.granted = NOTHING  # the server's clock may tick slowly: see `AttributeCache.grant`
        if not self._known.changed(inode, result.obj_wcc, started):
            await self._attributes.ask(self._calls, inode, credential)
        return self._attributes.reply(inode)

    async def _setattr(self, inode: Inode, wanted: sattr3, credential: OpaqueAuth) -> SETATTR3resok:
        try:
            return await self._calls.setattr(inode.handle, wanted, credential)
        except NfsFailure as failure:
            instead = _without_mode(wanted) or _as_now(wanted)
            if failure.errno not in (errno.EPERM, errno.EACCES) or instead is None:
                raise
            return await self._calls.setattr(inode.handle, instead, credential)

    def without_bits(self, inode: Inode) -> EntryAttributes:
        """The attributes when a write has taken the bits of the mode (killpriv.py) away."""
        self._attributes.expire(inode)
        entry = self._attributes.reply(inode)
        entry.st_mode &= ~killpriv.BITS
        return entry

    async def access(self, inode: Inode, mode: int, credential: OpaqueAuth) -> bool:
        """access(2): whether the server would permit all that `mode` (R_OK...) asks about. As on
        Linux, what it has permitted counts until the attributes change or are too old."""
        table = _DIRECTORY_ACCESS if self._attributes.is_directory(inode) else _FILE_ACCESS
        wanted = 0
        for bit, meaning in table.items():
            if mode & bit:
                wanted |= meaning
        if self._attributes.permits(inode, wanted, credential):
            return True
        started = self._attributes.stamp()
        result = await self._calls.access(inode.handle, wanted, credential)
        if self._attributes.update(inode, result.obj_attributes, started):
            self._attributes.grant(inode, result.access & wanted, credential)
        return result.access & wanted == wanted

    async def readlink(self, inode: Inode, credential: OpaqueAuth) -> bytes:
        started = self._attributes.stamp()
        result = await self._calls.readlink(inode.handle, credential)
        self._attributes.update(inode, result.symlink_attributes, started)
        return result.data

    async def _longest_name(self, credential: OpaqueAuth) -> int:
        """What PATHCONF says, which not every server has, nor every one knows."""
        try:
            return (await self._calls.pathconf(credential)).name_max or NAME_MAX
        except (NfsFailure, ProcedureUnavailable):
            return NAME_MAX

    async def statfs(self, credential: OpaqueAuth) -> StatvfsData:
        if self._name_max is None:
            self._name_max = await self._longest_name(credential)
        space = await self._calls.fsstat(credential)
        stats = StatvfsData()
        stats.f_bsize = stats.f_frsize = BLOCK
        stats.f_blocks = space.tbytes // BLOCK
        stats.f_bfree = space.fbytes // BLOCK
        stats.f_bavail = space.abytes // BLOCK
        stats.f_files = space.tfiles
        stats.f_ffree = space.ffiles
        stats.f_favail = space.afiles
        stats.f_namemax = self._name_max
        return stats


def _sattr3(entry: EntryAttributes, fields: SetattrFields, owners: Owners) -> sattr3:
    return sattr3(
        mode=entry.st_mode & PERMISSIONS if fields.update_mode else None,
        uid=owners.sent_uid(entry.st_uid) if fields.update_uid else None,
        gid=owners.sent_gid(entry.st_gid) if fields.update_gid else None,
        size=entry.st_size if fields.update_size else None,
        atime=_time(entry.st_atime_ns) if fields.update_atime else None,
        mtime=_time(entry.st_mtime_ns) if fields.update_mtime else None,
    )


def _time(nanoseconds: int) -> nfstime3:
    """The nearest time that NFS version 3 can say: from 1970 to 2106."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    if seconds < 0:
        return nfstime3(0, 0)
    if seconds > LAST_SECOND:
        return nfstime3(LAST_SECOND, 999_999_999)
    return nfstime3(seconds, rest)


def _without_mode(wanted: sattr3) -> sattr3 | None:
    """The same for who may truncate, but not change the mode; None if it is no truncation."""
    if wanted.size is None or wanted.mode is None:
        return None
    return sattr3(None, wanted.uid, wanted.gid, wanted.size, wanted.atime, wanted.mtime)


def _as_now(wanted: sattr3) -> sattr3 | None:
    """The same with the server's clock, if both times are set to about now.

    Who may write a file may set its times to now, but to nothing else (utimensat(2)), and FUSE does
    not tell now from a time that was named.
    """
    atime, mtime = wanted.atime, wanted.mtime
    if not isinstance(atime, nfstime3) or atime != mtime or abs(atime.seconds - time.time()) > 2:
        return None
    others = (wanted.mode, wanted.uid, wanted.gid, wanted.size)
    return sattr3(*others, SERVER_TIME, SERVER_TIME)
