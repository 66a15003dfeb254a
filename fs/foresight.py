"""Look-ups one after another in one directory: the rest is fetched before it is asked for.

Theory of operation. A program that looks at one name after another (make, git status, rm) costs a
round trip for each. Linux' NFS client sees this pattern while a directory is read, and then has
READDIRPLUS bring handles and attributes (nfs_use_readdirplus in fs/nfs/dir.c). Here the look-ups
themselves are the pattern. After some of them a READDIRPLUS in the background begins to bring the
other names. It brings more with each look-up that had to be asked for or was answered from what was
fetched, so that fetching never costs much more than asking did. All pages are kept, since a program
may look in another order than the server's. A look-up that comes while a page is on its way waits
for it, for a moment.

Programs that look so often look into the next directory in the same way. So a directory of which
many names were used gives credit for others, which are fetched after their first look-up. Whoever
looks at one name in each of many directories soon has none left.

What was fetched is as good as a LOOKUP made at the moment of the READDIRPLUS. It is good for
`seconds` from then on (the shorter of acregmin and acdirmin), for the user who was asked for, and
once: after that FUSE remembers it. It is not used

    of a name that this mount has changed or listed since (`Ahead.touch`);
    for a call that makes the name (O_EXCL, mkdir(2)): if another client has removed it meanwhile,
        the call would fail although nothing is there (intent.py knows which threads only look);
    after an ESTALE: the machine's kernel looks up again, and must not find the same;
    of a file with several names, since it may have been changed by another one of them.

A listing that was read to its end without a change also says which names there are: knownnames.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from umktls.errors import UmktlsError
from umktls.nfs.types import READDIRPLUS3args, READDIRPLUS3resok, entryplus3, ftype3, nfsstat3
from umktls.rpc.message import OpaqueAuth

from .ahead import Ahead, Seen
from .attributes import AttributeCache
from .calls import Calls, NfsFailure
from .inodes import Inode
from .knownnames import KnownNames, version_of

__all__ = ["Foresight"]

log = logging.getLogger(__name__)

MISSES = 4  # so many look-ups are a pattern
# So many names of a directory that were used are worth credit for so many others, up to a limit.
USES, CREDIT, MOST_CREDIT = 4, 2, 4
# Names that are fetched for each look-up that was asked for, and for each that was not.
NAMES_PER_MISS = 16
NAMES_PER_USE = 4
FIRST_BYTES, MOST_BYTES = 8 << 10, 128 << 10
NAMES_LIMIT = 1 << 13  # of one directory, in memory at the same time
WAIT_SECONDS = 0.02  # a server may need longer to list a large directory


class Foresight:
    """For all directories of a mount: `Inode.ahead`.

    start: starts a background task. clock: seconds, monotonic. seconds: how long what was fetched
    is good; 0: nothing is fetched.
    """

    def __init__(
        self,
        calls: Calls,
        attributes: AttributeCache,
        known: KnownNames,
        start: Callable[..., Any],
        clock: Callable[[], float],
        seconds: float,
    ) -> None:
        self._calls = calls
        self._attributes = attributes
        self._known = known
        self._start = start
        self._clock = clock
        self._seconds = seconds
        self._floor = 0  # of calls that were started before nothing is used
        self._holding: dict[Inode, None] = {}  # directories with names that were fetched
        self._credit = 0  # so many directories are fetched after their first look-up

    def doubt(self) -> None:
        """A handle was stale: nothing that was fetched or listed up to now is used, names are
        looked up again."""
        self._floor = self._attributes.stamp()
        self._known.doubt()

    async def take(self, directory: Inode, name: bytes, credential: OpaqueAuth) -> Seen | None:
        """What a name leads to, if it was fetched; each name once."""
        ahead = directory.ahead
        if ahead is None or ahead.credential is not credential:
            return None
        if ahead.fetching is not None and name not in ahead.entries:
            await trio.lowlevel.cancel_shielded_checkpoint()  # see `readturn.begin`
            with trio.move_on_after(WAIT_SECONDS):
                while ahead.fetching is not None and name not in ahead.entries:
                    await ahead.fetching.wait()
        seen = ahead.entries.pop(name, None)
        if seen is None or seen.started < self._floor or self._old(seen.asked):
            return None
        ahead.used += 1
        if ahead.used == USES:
            self._credit = min(self._credit + CREDIT, MOST_CREDIT)
        self._go_on(directory, ahead)
        return seen

    def _old(self, asked: float) -> bool:
        return self._clock() - asked >= self._seconds

    def missed(self, directory: Inode, credential: OpaqueAuth) -> None:
        """The server had to be asked for a name."""
        if not self._seconds:
            return
        ahead = directory.ahead
        if ahead is None or ahead.credential is not credential or self._old(ahead.last):
            if ahead is not None and ahead.fetching is not None:
                return
            ahead = directory.ahead = Ahead(credential, FIRST_BYTES)
        ahead.last = self._clock()
        ahead.missed += 1
        self._go_on(directory, ahead)

    def _go_on(self, directory: Inode, ahead: Ahead) -> None:
        """Fetch more if that is worth while."""
        if self._credit and ahead.missed < MISSES:
            self._credit -= 1
            ahead.missed = MISSES
        earned = NAMES_PER_MISS * ahead.missed + NAMES_PER_USE * ahead.used
        if ahead.fetching is not None or ahead.complete or len(ahead.entries) >= NAMES_LIMIT:
            return
        if ahead.missed >= MISSES and ahead.fetched < earned:
            ahead.fetching = trio.Event()
            self._start(self._fetch, directory, ahead, ahead.fetching)

    async def _fetch(self, directory: Inode, ahead: Ahead, done: trio.Event) -> None:
        """One READDIRPLUS. Runs as a task of its own, so nothing but Cancelled may leave it."""
        started, asked = self._attributes.stamp(), self._clock()
        size = ahead.maxcount
        args = READDIRPLUS3args(directory.handle, ahead.cookie, ahead.verifier, size // 4, size)
        try:
            result = await self._calls.readdirplus(args, ahead.credential)
            self._take_in(directory, ahead, result, started, asked)
        except UmktlsError as error:
            ahead.complete = True  # as far as we can see
            if isinstance(error, NfsFailure) and error.status is nfsstat3.NFS3ERR_NOTSUPP:
                self._seconds = 0.0
        except Exception:
            ahead.complete = True
            log.exception("fetching names ahead failed")
        finally:
            ahead.fetching = None
            ahead.touched.clear()
            done.set()
        self._hold(directory)
        self._go_on(directory, ahead)

    def _hold(self, directory: Inode) -> None:
        """Have what was fetched forgotten when it is too old."""
        if not self._holding:
            self._start(self._tidy)
        self._holding[directory] = None

    async def _tidy(self) -> None:
        while self._holding:
            await trio.sleep(self._seconds)
            for directory in list(self._holding):
                ahead = directory.ahead
                if ahead is not None and ahead.fetching is None and self._old(ahead.last):
                    directory.ahead = None
                if directory.ahead is None:
                    del self._holding[directory]

    def _take_in(
        self,
        directory: Inode,
        ahead: Ahead,
        result: READDIRPLUS3resok,
        started: int,
        asked: float,
    ) -> None:
        entries = result.reply.entries
        self._attributes.update(directory, result.dir_attributes, started)
        self._note(directory, ahead, result, asked)
        for entry in entries:
            seen = _seen(entry, started, asked)
            if seen is not None and entry.name not in ahead.touched:
                ahead.entries[entry.name] = seen
        ahead.fetched += len(entries)
        ahead.maxcount = min(2 * ahead.maxcount, MOST_BYTES)
        if entries:
            ahead.cookie, ahead.verifier = entries[-1].cookie, result.cookieverf

    def _note(
        self, directory: Inode, ahead: Ahead, result: READDIRPLUS3resok, asked: float
    ) -> None:
        """Which names there are, if nothing changes until the end."""
        attr, entries = result.dir_attributes, result.reply.entries
        version = None if attr is None else version_of(attr)
        if not ahead.cookie:
            ahead.began, ahead.version = asked, version
        elif version != ahead.version:
            ahead.version = None
        ahead.names.update(ahead.touched, (entry.name for entry in entries))
        ahead.complete = result.reply.eof or not entries
        if ahead.complete and ahead.version is not None:
            self._known.listed(directory, ahead.names, ahead.version, ahead.began)
        if ahead.complete:
            ahead.names = set()


def _seen(entry: entryplus3, started: int, asked: float) -> Seen | None:
    """What a look-up of the name would have said, if the entry says as much."""
    handle, attr = entry.name_handle, entry.name_attributes
    if handle is None or attr is None or entry.name in (b".", b".."):
        return None
    if attr.nlink > 1 and attr.type != ftype3.NF3DIR:
        return None
    return Seen(handle, attr, started, asked)
