"""Listing directories: FUSE's readdir with attributes is NFS's READDIRPLUS (or READDIR, if asked).

Theory of operation. FUSE asks for a few entries at a time and names a place in the listing by a
signed 64-bit number of our choice; NFS cookies are unsigned and may not fit. So a place is the
count of entries before it, and the cookies are kept in an array (8 bytes an entry). FUSE often goes
back a few entries, when the reader's buffer took fewer than it was given; those are still there.
Going back to the beginning (rewinddir) lists the directory anew.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from dataclasses import field

from pyfuse3 import EntryAttributes, ReaddirToken

from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError
from umktls.nfs.types import (
    READDIR3args,
    READDIRPLUS3args,
    READDIRPLUS3resok,
    dirlistplus3,
    entryplus3,
    fattr3,
    nfsstat3,
)
from umktls.rpc.message import OpaqueAuth

from .attributes import AttributeCache, entry_attributes
from .calls import Calls, NfsFailure
from .inodes import Inode, InodeTable
from .known import Version
from .knownnames import NAMES_LIMIT, KnownNames, version_of

__all__ = ["Directories", "Emit"]

NO_VERIFIER = bytes(8)
REPLY_BYTES = 128 << 10
LEAST_REPLY_BYTES = 8 << 10
# Entries that a slow reader has not fetched by then are fetched anew, for their attributes.
KEEP_SECONDS = 3.0
NO_INODE = 3 << 62  # numbers from here on are given to no inode

# Offers FUSE one entry, as pyfuse3.readdir_reply does: False if it does not fit any more.
Emit = Callable[[ReaddirToken, bytes, EntryAttributes, int], bool]


@dataclass(slots=True, eq=False)
class OpenDirectory:
    """One open of a directory. `entries` are those from place `base` on, fetched by a call that
    was `started` (see AttributeCache.stamp) and answered at the time `fetched`. `ends`: the cookies
    with which answers ended, and the places behind them. `names`: all before `ends`, as long as the
    directory has the `version` that it had at the time `began`; None where that is not so."""

    inode: Inode
    credential: OpaqueAuth
    entries: list[entryplus3] = field(default_factory=list)
    base: int = 0
    complete: bool = False  # nothing comes behind `entries`
    cookies: array[int] = field(default_factory=lambda: array("Q"))
    ends: dict[int, int] = field(default_factory=dict)
    verifier: bytes = NO_VERIFIER
    started: int = 0
    fetched: float = 0.0
    names: set[bytes] | None = None
    version: Version | None = None
    began: float = 0.0
    begun: bool = False  # the first entries are there, and nobody has read them

    def rewind(self) -> None:
        self.entries = []
        self.base = 0
        self.complete = False
        self.cookies = array("Q")
        self.ends = {}
        self.verifier = NO_VERIFIER

    def cut(self, place: int) -> None:
        """Forget what is known of the entries from a place on."""
        if place < len(self.cookies):
            del self.cookies[place:]
            self.ends = {cookie: end for cookie, end in self.ends.items() if end <= place}

    def goes_round(self, entries: list[entryplus3]) -> bool:
        """Whether these, which come next, end where others before them have ended: then a server
        would have us go through the same entries for ever."""
        place = len(self.cookies) + len(entries)
        return self.ends.setdefault(entries[-1].cookie, place) != place

    def holds(self, place: int) -> bool:
        """Whether the entry at a place is here, or is known not to exist."""
        behind = place - self.base
        return 0 <= behind < len(self.entries) or (behind >= len(self.entries) and self.complete)


class Directories:
    """All open directories of a mount, by the number (fh) that FUSE has for them."""

    def __init__(
        self,
        calls: Calls,
        inodes: InodeTable,
        attributes: AttributeCache,
        known: KnownNames,
        emit: Emit,
        clock: Callable[[], float],
        *,
        plus: bool = True,
        cto: bool = True,
    ) -> None:
        self._calls = calls
        self._inodes = inodes
        self._attributes = attributes
        self._known = known
        self._emit = emit
        self._clock = clock
        self._plus = plus
        self._cto = cto
        self._open: dict[int, OpenDirectory] = {}
        self._last = 0
        self._maxcount = max(LEAST_REPLY_BYTES, min(calls.fsinfo.dtpref, REPLY_BYTES))

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, inode: Inode, credential: OpaqueAuth, lists: bool = False) -> int:
        """Returns fh. The server checks the permission when it is read.

        It is asked whether the directory is still there: the machine's kernel looks its name up
        again upon ESTALE, and finds what has taken its place (close-to-open, nfs(5)). lists: it
        will be read, so that the first entries can be asked for as well.
        """
        directory = OpenDirectory(inode, credential)
        if self._cto and not (lists and await self._begin(directory)):
            started = self._attributes.stamp()
            attr = await self._calls.getattr(inode.handle, credential)
            self._attributes.update(inode, attr, started)
        inode.opens += 1
        self._last += 1
        self._open[self._last] = directory
        return self._last

    async def _begin(self, directory: OpenDirectory) -> bool:
        """Have the first entries; False if that is refused: of a directory that is not there any
        more GETATTR tells, of others who reads is to be told."""
        try:
            await self._fetch(directory, 0)
        except NfsFailure:
            return False
        directory.begun = True
        return True

    def release(self, fh: int) -> None:
        inode = self._open.pop(fh).inode
        inode.opens -= 1
        self._inodes.drop_if_unused(inode)

    async def read(self, fh: int, place: int, token: ReaddirToken) -> None:
        """Give FUSE entries from a place on, until it has enough."""
        try:
            directory = self._open[fh]
        except KeyError:
            raise CallerError(f"no open directory {fh}", errno.EBADF) from None
        if place == 0 and directory.cookies and not directory.begun:
            directory.rewind()
        directory.begun = False
        old = self._clock() - directory.fetched > KEEP_SECONDS
        if old or not directory.holds(place):
            await self._fetch(directory, place)
        for entry in directory.entries[place - directory.base :]:
            place += 1
            if not self._offer(directory, entry, place, token):
                return

    async def _fetch(self, directory: OpenDirectory, place: int) -> None:
        """Have the entries from a place on, as many as one call brings."""
        if place > len(directory.cookies):
            raise CallerError(f"no place {place} in the listing", errno.EINVAL)
        cookie = directory.cookies[place - 1] if place else 0
        verifier = directory.verifier if place else NO_VERIFIER
        started = self._attributes.stamp()
        began = self._clock()
        result = await self._list(directory, cookie, verifier)
        self._attributes.update(directory.inode, result.dir_attributes, started)
        directory.cut(place)
        if result.reply.entries and directory.goes_round(result.reply.entries):
            raise PeerError("READDIR: the server's listing goes round in a circle", errno.ELOOP)
        directory.base = place
        directory.entries = result.reply.entries
        directory.complete = result.reply.eof or not result.reply.entries
        directory.verifier = result.cookieverf
        directory.started = started
        directory.fetched = self._clock()
        directory.cookies.extend(entry.cookie for entry in result.reply.entries)
        if place == 0:
            directory.names, directory.version, directory.began = set(), None, began
        if directory.names is not None:
            self._note(directory, directory.names, result.dir_attributes)

    def _note(self, directory: OpenDirectory, names: set[bytes], attr: fattr3 | None) -> None:
        """Add what was fetched to the names of the whole directory, if it has not changed."""
        version = None if attr is None else version_of(attr)
        names.update(entry.name for entry in directory.entries)
        if version is None or directory.version not in (None, version) or len(names) > NAMES_LIMIT:
            directory.names = None
        elif directory.complete:
            self._known.listed(directory.inode, names, version, directory.began)
            directory.names = None
        else:
            directory.version = version

    async def _list(
        self, directory: OpenDirectory, cookie: int, verifier: bytes
    ) -> READDIRPLUS3resok:
        """One call: READDIRPLUS, or with nordirplus, or where the server has no other, READDIR,
        whose entries are names alone."""
        handle, size = directory.inode.handle, self._maxcount
        if self._plus:
            args = READDIRPLUS3args(handle, cookie, verifier, size // 4, size)
            try:
                return await self._calls.readdirplus(args, directory.credential)
            except NfsFailure as failure:
                # As Linux has it (fs/nfs/dir.c, nfs_readdir_xdr_filler): never again.
                if failure.status is not nfsstat3.NFS3ERR_NOTSUPP:
                    raise
                self._plus = False
        names = await self._calls.readdir(
            READDIR3args(handle, cookie, verifier, size), directory.credential
        )
        entries = [
            entryplus3(entry.fileid, entry.name, entry.cookie, None, None)
            for entry in names.reply.entries
        ]
        listed = dirlistplus3(entries, names.reply.eof)
        return READDIRPLUS3resok(names.dir_attributes, names.cookieverf, listed)

    def _offer(
        self, directory: OpenDirectory, entry: entryplus3, place: int, token: ReaddirToken
    ) -> bool:
        """Give FUSE one entry; it remembers the inode of what it takes. False: it is full."""
        handle, attr = entry.name_handle, entry.name_attributes
        if handle is None or attr is None or entry.name in (b".", b".."):
            number = directory.inode.number if entry.name == b"." else entry.fileid
            return self._emit(token, entry.name, _unlinked(number, attr), place)
        inode = self._inodes.of_handle(handle, attr.fileid)
        self._attributes.update(inode, attr, directory.started, directory.fetched)
        told = inode.told_size, inode.told_version, inode.told
        told_now = self._attributes.reply(inode, asked=directory.fetched)
        if not self._emit(token, entry.name, told_now, place):
            inode.told_size, inode.told_version, inode.told = told
            self._inodes.drop_if_unused(inode)
            return False
        inode.lookups += 1
        self._inodes.bind(directory.inode, entry.name, inode)
        return True


def _unlinked(number: int, attr: fattr3 | None) -> EntryAttributes:
    """An entry that FUSE only passes on: the directory itself, its parent, or one of which the
    server tells the name alone. For the last FUSE must get a number that no inode has, and mode 0,
    which makes it forget that number at once and look the name up when somebody needs it."""
    if attr is not None:
        return entry_attributes(attr, number, 0)
    bare = EntryAttributes()
    bare.st_mode = 0
    bare.st_ino = NO_INODE | number & NO_INODE - 1
    return bare
