"""Listing directories: FUSE's readdir with attributes is NFS's READDIRPLUS (or READDIR, if asked).

Theory of operation. FUSE asks for a few entries at a time and names a place in the listing by a
signed 64-bit number of our choice; NFS cookies are unsigned and may not fit. So a place is the
count of entries before it, and the cookies are kept in an array (8 bytes an entry). FUSE often goes
back a few entries, when the reader's buffer took fewer than it was given; those are still there.
Going back to the beginning (rewinddir) lists the directory anew. Places behind stay good (seekdir).

While a page (what one call brings) is given to FUSE, the next one is asked for already, so that
the server lists while this mount and its user work on what there is. At most one page is ahead.
What comes of it is as old as its call, and no more used than what was read and waits: for
KEEP_SECONDS.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

import trio
from pyfuse3 import EntryAttributes, ReaddirToken

from umktls.errors import CallerError, UmktlsError
from umktls.nfs.listed import FILEID, Facts, Listed, ListedEntry, ListedPage
from umktls.nfs.types import READDIR3args, READDIRPLUS3args, nfsstat3
from umktls.rpc.message import OpaqueAuth

from .attributes import AttributeCache, entry_attributes
from .calls import Calls, NfsFailure
from .inodes import Inode, InodeTable
from .knownnames import NAMES_LIMIT, KnownNames, version_of
from .opendirectory import Coming, OpenDirectory, Page

__all__ = ["Directories", "Emit"]

log = logging.getLogger(__name__)

REPLY_BYTES = 128 << 10
LEAST_REPLY_BYTES = 8 << 10
# Entries that a slow reader has not fetched by then are fetched anew, for their attributes.
KEEP_SECONDS = 3.0
NO_INODE = 3 << 62  # numbers from here on are given to no inode

# Offers FUSE one entry, as pyfuse3.readdir_reply does: False if it does not fit any more.
Emit = Callable[[ReaddirToken, bytes, EntryAttributes, int], bool]


class Directories:
    """All open directories of a mount, by the number (fh) that FUSE has for them.

    start: starts a background task. clock: seconds, monotonic.
    """

    def __init__(
        self,
        calls: Calls,
        inodes: InodeTable,
        attributes: AttributeCache,
        known: KnownNames,
        emit: Emit,
        start: Callable[..., Any],
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
        self._start = start
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
            await self._attributes.ask(self._calls, inode, credential)
        inode.opens += 1
        self._last += 1
        self._open[self._last] = directory
        return self._last

    async def _begin(self, directory: OpenDirectory) -> bool:
        """Have the first entries; False if that is refused: of a directory that is not there any
        more GETATTR tells, of others who reads is to be told."""
        try:
            await self._turn(directory, 0)
        except NfsFailure:
            return False
        directory.begun = True
        return True

    def release(self, fh: int) -> None:
        directory = self._open.pop(fh)
        directory.close()
        inode = directory.inode
        inode.opens -= 1
        self._inodes.drop_if_unused(inode)

    async def read(self, fh: int, place: int, token: ReaddirToken) -> None:
        """Give FUSE entries from a place on, until it has enough."""
        try:
            directory = self._open[fh]
        except KeyError:
            raise CallerError(f"no open directory {fh}", errno.EBADF) from None
        if place == 0 and directory.cookies and not directory.begun:
            directory.close()
        directory.begun = False
        while True:
            page = await self._page_at(directory, place)
            if self._give(directory, page, place, token) or page.complete:
                return
            place = page.end  # all that was left of this page is gone: it is not the end

    async def _page_at(self, directory: OpenDirectory, place: int) -> Page:
        """The page with the entry at a place, and the next one on its way."""
        page = directory.page
        if page is None or self._old(page) or not page.holds(place):
            page = await self._turn(directory, place)
        if not (page.complete or directory.coming or directory.slow):
            await self._look_ahead(directory, page)
        return page

    def _give(self, directory: OpenDirectory, page: Page, place: int, token: ReaddirToken) -> bool:
        """Give FUSE entries of a page, until it has enough; False if there was none to give."""
        given = False
        for entry in page.entries[place - page.place :]:
            place += 1
            there = page.touched.get(entry[1]) if page.touched else None
            if there is False:
                continue
            given = True
            if not self._offer(directory, page, entry, place, token, bare=bool(there)):
                break
        return given

    def _old(self, page: Page) -> bool:
        return self._clock() - page.fetched > KEEP_SECONDS

    async def _turn(self, directory: OpenDirectory, place: int) -> Page:
        """Have the entries from a place on, as many as one call brings."""
        if place > len(directory.cookies):
            raise CallerError(f"no place {place} in the listing", errno.EINVAL)
        page = await self._came(directory, place)
        if page is None:
            page = self._new_page(directory, place)
            await self._ask(directory, page)
        if directory.names is not None and directory.page is not None:
            directory.names.update(directory.page.touched)
        try:
            directory.turn_to(page)
        except UmktlsError:
            directory.unwatch(page)
            raise
        if place == 0:
            directory.names, directory.version, directory.began = set(), None, page.began
            directory.noted = 0
        if directory.names is not None:
            self._note(directory, directory.names, page)
        return page

    async def _came(self, directory: OpenDirectory, place: int) -> Page | None:
        """The page that was asked for ahead, if that is it, and good."""
        coming = directory.coming
        if coming is None or coming.page.place != place:
            directory.give_up()
            return None
        await coming.done.wait()
        if not coming.good or self._old(coming.page):
            directory.slow = coming.good
            directory.give_up()
            return None
        directory.coming = None
        return coming.page

    async def _look_ahead(self, directory: OpenDirectory, page: Page) -> None:
        """Ask for the page behind this one, which is about to be read."""
        directory.coming = Coming(self._new_page(directory, page.end))
        self._start(self._bring, directory, directory.coming)
        # The call is made in the next turn of the loop; in the one behind that it has been made.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    async def _bring(self, directory: OpenDirectory, coming: Coming) -> None:
        """Runs as a task of its own, so nothing but Cancelled may leave it."""
        try:
            await self._ask(directory, coming.page)
            coming.good = True
        except UmktlsError:
            pass  # who wants to have the page asks for it, and is told
        except Exception:
            log.exception("listing ahead failed")
        finally:
            coming.done.set()

    def _new_page(self, directory: OpenDirectory, place: int) -> Page:
        """To be asked for."""
        page = Page(place, self._attributes.stamp(), self._clock())
        if place:
            page.cookie, page.verifier = directory.cookies[place - 1], directory.verifier
        directory.watch(page)
        return page

    async def _ask(self, directory: OpenDirectory, page: Page) -> None:
        """Have a page by one call. Who has asked for it in vain does not watch it any more."""
        try:
            result = await self._list(directory, page.cookie, page.verifier)
        except BaseException:
            directory.unwatch(page)
            raise
        self._attributes.update(directory.inode, result.dir_attributes, page.started)
        page.take(result, self._clock())

    def _note(self, directory: OpenDirectory, names: set[bytes], page: Page) -> None:
        """Add what was fetched to the names of the whole directory, if it has not changed; where
        the server's clock ticks slowly, our own changes may not show."""
        version = None if page.directory is None else version_of(page.directory)
        names.update([entry[1] for entry in page.entries])
        names.update(page.touched)
        left_out = page.place > directory.noted or len(names) > NAMES_LIMIT
        directory.noted = max(directory.noted, page.end)
        if version is None or directory.version not in (None, version) or left_out:
            directory.names = None
        elif page.complete:
            self._known.listed(directory.inode, names, version, directory.began)
            directory.names = None
        else:
            directory.version = version

    async def _list(self, directory: OpenDirectory, cookie: int, verifier: bytes) -> Listed:
        """One call: READDIRPLUS, or with nordirplus, or where the server has no other, READDIR,
        whose entries are names alone."""
        handle, size = directory.inode.handle, self._maxcount
        if self._plus:
            args = READDIRPLUS3args(handle, cookie, verifier, size // 4, size)
            try:
                return await self._calls.list(args, directory.credential)
            except NfsFailure as failure:
                # As Linux has it (fs/nfs/dir.c, nfs_readdir_xdr_filler): never again.
                if failure.status is not nfsstat3.NFS3ERR_NOTSUPP:
                    raise
                self._plus = False
        names = await self._calls.readdir(
            READDIR3args(handle, cookie, verifier, size), directory.credential
        )
        entries: list[ListedEntry] = [
            (entry.fileid, entry.name, entry.cookie, None, None) for entry in names.reply.entries
        ]
        page = ListedPage(entries, names.reply.eof)
        return Listed(names.dir_attributes, names.cookieverf, page)

    def _offer(
        self,
        directory: OpenDirectory,
        page: Page,
        entry: ListedEntry,
        place: int,
        token: ReaddirToken,
        bare: bool,
    ) -> bool:
        """Give FUSE one entry; it remembers the inode of what it takes. False: it is full. bare:
        by its name alone."""
        fileid, name, _, facts, handle = entry
        if bare or handle is None or facts is None or name in (b".", b".."):
            number = directory.inode.number if name == b"." else fileid
            return self._emit(token, name, _unlinked(number, None if bare else facts), place)
        inode = self._inodes.of_handle(handle, facts[FILEID])
        self._attributes.learn(inode, facts, page.started, page.fetched)
        told = inode.told_size, inode.told_version, inode.told
        told_now = self._attributes.reply(inode, asked=page.fetched)
        if not self._emit(token, name, told_now, place):
            inode.told_size, inode.told_version, inode.told = told
            self._inodes.drop_if_unused(inode)
            return False
        inode.lookups += 1
        self._inodes.bind(directory.inode, name, inode, listed=True)
        return True


def _unlinked(number: int, facts: Facts | None) -> EntryAttributes:
    """An entry that FUSE only passes on: the directory itself, its parent, or one of which the
    server tells the name alone. For the last FUSE must get a number that no inode has, and mode 0,
    which makes it forget that number at once and look the name up when somebody needs it."""
    if facts is not None:
        return entry_attributes(facts, number, 0)
    bare = EntryAttributes()
    bare.st_mode = 0
    bare.st_ino = NO_INODE | number & NO_INODE - 1
    return bare
