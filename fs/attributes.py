"""The attribute cache: what the server last said about a file, and how long that may be believed.

Theory of operation. Nearly every NFS reply carries attributes, and replies may overtake each other:
attributes count if their call was started after the newest update, or if the file itself says that
they are newer: by ctime, then by size, as writes in flight only make files longer (unless the file
was made shorter since, or is a directory). Where a server's clock ticks slowly, neither tells what
a change of our own has overtaken: then they are asked for again.

They are believed for a time between `acregmin` and `acregmax` (directories: `acdirmin`,
`acdirmax`), as nfs(5) has it: each time they are found unchanged at the end of that time it
doubles, and a change resets it. FUSE gets the rest of that time as its own timeout, so nothing is
cached twice in a row.

A file whose data is still being written behind is as long as that data says, and FUSE is asked not
to cache its attributes at all: size and mtime change when the data reaches the server.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyfuse3 import EntryAttributes

from umktls.nfs.filetypes import MODE_TYPES
from umktls.nfs.listed import CTIME, MTIME, SIZE, Facts, facts_of
from umktls.nfs.types import fattr3, ftype3, nfstime3
from umktls.rpc.message import OpaqueAuth

from .calls import Calls, NfsFailure
from .inodes import Granted, Inode
from .known import Version
from .options import MountOptions
from .owners import Owners

__all__ = ["AttributeCache", "entry_attributes", "time_ns"]

_NANOSECONDS = 1_000_000_000
NF3DIR = int(ftype3.NF3DIR)
LAST_OFFSET = (1 << 63) - 1
# What opendir(3) reads at a time is a directory's st_blksize. FUSE and pyfuse3 clear as much memory
# for each request, whatever comes of it; this is what one READDIRPLUS brings.
DIRECTORY_BLOCK = 128 << 10
# include/linux/kdev_t.h
LAST_MAJOR, LAST_MINOR = (1 << 12) - 1, (1 << 20) - 1


def time_ns(time: nfstime3) -> int:
    """Nanoseconds since the epoch."""
    return time.seconds * _NANOSECONDS + time.nseconds


def device(major: int, minor: int) -> int:
    """A device number, or 0 for one that Linux cannot have (fs/nfs/nfs3xdr.c, decode_fattr3)."""
    if major > LAST_MAJOR or minor > LAST_MINOR:
        return 0
    return os.makedev(major, minor)


def state_of(facts: Facts) -> Version:
    """What tells one state of a file from another. The size is at most what off_t can say, as Linux
    has it (nfs_size_to_loff_t)."""
    size = facts[SIZE]
    changed = facts[CTIME] * _NANOSECONDS + facts[CTIME + 1]
    modified = facts[MTIME] * _NANOSECONDS + facts[MTIME + 1]
    return changed, size if size <= LAST_OFFSET else LAST_OFFSET, modified


def newer(version: Version, known: Version, grows: bool) -> bool:
    """Whether a state of a file says so itself. grows: nothing may have made it shorter since."""
    if version[0] != known[0]:
        return version[0] > known[0]
    return version[1] > known[1] and grows


def entry_attributes(
    facts: Facts, number: int, block_size: int, state: Version | None = None
) -> EntryAttributes:
    """The server's attributes as FUSE wants them; timeouts are not set. state: theirs, if it is
    known already."""
    changed, size, modified = state or state_of(facts)
    kind, mode, nlink, uid, gid, _, used, major, minor, _, _, seconds, nseconds, *_ = facts
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode = MODE_TYPES[kind] | mode & 0o7777
    entry.st_nlink = nlink
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_rdev = device(major, minor) if major or minor else 0
    entry.st_size = size
    entry.st_blksize = block_size
    if kind == NF3DIR and block_size > DIRECTORY_BLOCK:
        entry.st_blksize = DIRECTORY_BLOCK
    entry.st_blocks = -(-used // 512)
    entry.st_atime_ns = seconds * _NANOSECONDS + nseconds
    entry.st_mtime_ns = modified
    entry.st_ctime_ns = changed
    return entry


class AttributeCache:
    """Attributes of all inodes of a mount.

    clock: seconds, monotonic.
    """

    def __init__(self, options: MountOptions, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._block_size = options.wsize
        self._entry_timeout = (
            0.0 if options.noac or options.lookupcache == "none" else options.acdirmin
        )
        self._limits = {
            False: (options.acregmin, options.acregmax),
            True: (options.acdirmin, options.acdirmax),
        }
        self._off = options.noac
        self.owners = Owners(options)
        self._serial = 0

    def stamp(self) -> int:
        """To be taken before a call is made: `update` tells by it whether newer attributes have
        come meanwhile."""
        self._serial += 1
        return self._serial

    def update(
        self, inode: Inode, attr: fattr3 | None, started: int, asked: float | None = None
    ) -> bool:
        """A reply to a call that was started at `started` carried attributes (or none); whether
        nothing newer is known.

        asked: from when on they may be believed, if not from now on.
        """
        return attr is not None and self.learn(inode, facts_of(attr), started, asked)

    async def ask(self, calls: Calls, inode: Inode, credential: OpaqueAuth) -> int:
        """GETATTR, and `update` by it. Returns the stamp from before. Raises UmktlsError."""
        started = self.stamp()
        self.update(inode, await calls.getattr(inode.handle, credential), started)
        return started

    def changed(self, inode: Inode, attr: fattr3 | None, started: int, end: int = 0) -> bool:
        """The same of a call that has changed the file; whether it is known how it is now.

        Where the reply has no attributes (RFC 1813 section 2.6), or what came meanwhile may be from
        before the change, what is known is wrong. end: of a WRITE, data goes as far now, at least.
        """
        known = inode.version
        if attr is not None:
            facts = facts_of(attr)
            if self.learn(inode, facts, started):
                return True
            assert known is not None
            changed, size, _ = state_of(facts)
            if changed < known[0] or (end and size <= known[1]):
                return True
        self.expire(inode)
        if known is not None and end > known[1]:
            inode.version = known[0], end, known[2]
        return False

    @contextmanager
    def changing(self, inode: Inode) -> Iterator[None]:
        """Inside the block a call is made that changes the file. If nobody waits for its reply to
        the end, it may have done so."""
        try:
            yield
        except NfsFailure:
            raise
        except BaseException:
            self.expire(inode)
            raise

    def learn(self, inode: Inode, facts: Facts, started: int, asked: float | None = None) -> bool:
        """The same with what certainly came."""
        version = state_of(facts)
        known = inode.version
        overtaken = started < inode.updated
        if overtaken and known is not None:
            grows = facts[0] != NF3DIR and started >= inode.shortened
            if not newer(version, known, grows):
                return False
        wrong = overtaken and not inode.expires  # by what has been done since the call was made
        if known is not None and version[1:] != known[1:]:
            inode.data_version += 1
            if version[1] < known[1]:
                inode.shortened = self._serial + 1
        now = self._clock() if asked is None else asked
        self._lend(inode, version == known, facts[0] == NF3DIR, now)
        if wrong:
            inode.expires = 0.0
        self._serial += 1
        inode.updated = self._serial
        inode.version = version
        inode.attributes = entry_attributes(facts, inode.number, self._block_size, version)
        if self.owners.active:
            self.owners.show(inode.attributes)
        return True

    def _lend(self, inode: Inode, unchanged: bool, directory: bool, now: float) -> None:
        """Say until when the attributes may be believed."""
        low, high = self._limits[directory]
        if not unchanged:
            inode.lease = low
        elif now >= inode.expires:
            inode.lease = min(inode.lease * 2, high)
        inode.expires = now + inode.lease

    def expire(self, inode: Inode | None) -> None:
        """The cached attributes are wrong, and so are those of calls that are under way: something
        was done to the file."""
        if inode is not None:
            inode.expires = 0.0
            inode.updated = self.stamp()

    def fresh(self, inode: Inode) -> bool:
        """Whether the attributes may be believed without asking the server."""
        return inode.attributes is not None and not self._off and self._clock() < inode.expires

    def reply(
        self, inode: Inode, started: int | None = None, asked: float | None = None
    ) -> EntryAttributes:
        """The attributes for FUSE, with their timeouts; the same object is filled anew by the next
        call. They must have been updated once.

        started: the `stamp` at which the request began, where it was not answered at once. If
        another answer has overtaken this one, the machine's kernel may drop it: then it is not
        known what the kernel has. asked: from when on the name may be believed; None: from now on.
        """
        entry = inode.attributes
        assert entry is not None
        entry.entry_timeout = self._entry_timeout
        if asked is not None:
            entry.entry_timeout = max(0.0, asked + self._entry_timeout - self._clock())
        entry.attr_timeout = 0.0 if self._off else max(0.0, inode.expires - self._clock())
        writer = inode.writer
        if writer is not None and writer.dirty:
            entry.attr_timeout = 0.0
        size = entry.st_size = self.size(inode)
        overtaken = started is not None and started < inode.told and size != inode.told_size
        inode.told_size = None if overtaken else size
        inode.told_version = inode.version
        inode.told = self.stamp()
        return entry

    def size(self, inode: Inode) -> int:
        """The size now: the server's, or where data ends that is on its way there."""
        assert inode.version is not None
        size = inode.version[1]
        return size if inode.writer is None else max(size, inode.writer.end)

    def grant(self, inode: Inode, access: int, credential: OpaqueAuth) -> None:
        """The server permits this (ACCESS3_*), by a reply behind which nothing newer is known
        (`update`). It counts as long as the present attributes may be
        believed. That these are found unchanged later does not prolong it: where a server's clock
        ticks slowly, a change may not show in them."""
        if inode.granted.version != inode.version or self._clock() >= inode.granted.until:
            inode.granted = Granted(inode.version, inode.expires, {})
        known = inode.granted.access.get(credential, 0)
        inode.granted.access[credential] = known | access

    def permits(self, inode: Inode, access: int, credential: OpaqueAuth) -> bool:
        """Whether the server has permitted it, and that may still be believed."""
        granted = inode.granted
        if not self.fresh(inode) or self._clock() >= granted.until:
            return False
        permitted = granted.access.get(credential, 0)
        return granted.version == inode.version and permitted & access == access

    def is_directory(self, inode: Inode) -> bool:
        """What the last attributes said."""
        entry = inode.attributes
        return entry is not None and stat.S_ISDIR(entry.st_mode)
