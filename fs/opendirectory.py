"""One open of a directory: how far its listing is, and the page that is being read.

A page is what one call has brought. While it is being read, the next one may be on its way
(`coming`). Between the call and the reading this mount may do something to one of the names: then
what the page says of it is not told to FUSE, which would take it for news (`Page.touched`).
"""

from __future__ import annotations

import errno
from array import array
from dataclasses import field

import trio

from umktls.dataclass import dataclass
from umktls.errors import PeerError
from umktls.nfs.listed import Listed, ListedEntry
from umktls.rpc.message import OpaqueAuth

from .inodes import Inode
from .known import Version

__all__ = ["NO_VERIFIER", "Coming", "OpenDirectory", "Page"]

NO_VERIFIER = bytes(8)


class Page:
    """The entries from a `place` on, of a call that was `started` (see AttributeCache.stamp) at the
    time `began` and answered at the time `fetched`. `touched`: see Inode.pages. `directory`: its
    attributes. `cookie`, `verifier`: which the call has; the answer has another verifier, maybe."""

    __slots__ = (
        "began",
        "complete",
        "cookie",
        "directory",
        "entries",
        "fetched",
        "place",
        "started",
        "touched",
        "verifier",
    )

    def __init__(self, place: int, started: int, began: float) -> None:
        self.place = place
        self.started = started
        self.began = began
        self.touched: dict[bytes, bool] = {}
        self.cookie = 0
        self.verifier = NO_VERIFIER

    def take(self, result: Listed, fetched: float) -> None:
        self.fetched = fetched
        self.directory = result.dir_attributes
        self.verifier = result.cookieverf
        self.entries: list[ListedEntry] = result.reply.entries
        self.complete = result.reply.eof or not self.entries  # nothing comes behind them

    @property
    def end(self) -> int:
        """The place behind them."""
        return self.place + len(self.entries)

    def holds(self, place: int) -> bool:
        """Whether the entry at a place is here, or is known not to exist."""
        behind = place - self.place
        return 0 <= behind < len(self.entries) or (behind >= len(self.entries) and self.complete)


class Coming:
    """A page that has been asked for ahead; `good`: it is there, when `done`."""

    __slots__ = ("done", "good", "page")

    def __init__(self, page: Page) -> None:
        self.page = page
        self.done = trio.Event()
        self.good = False


@dataclass(slots=True, eq=False)
class OpenDirectory:
    """`cookies`: of the places that have been read, also of those behind where somebody has gone
    back to: telldir(3) may have told them. `verifier`: that they came with. `ends`: the cookies
    with which answers ended, and the places behind them. `names`: all before the place `noted`, as
    long as the directory has the `version` that it had at the time `began`; None where that is not
    so. `slow`: pages that were asked for ahead have become old."""

    inode: Inode
    credential: OpaqueAuth
    page: Page | None = None
    coming: Coming | None = None
    slow: bool = False
    cookies: array[int] = field(default_factory=lambda: array("Q"))
    verifier: bytes = NO_VERIFIER
    ends: dict[int, int] = field(default_factory=dict)
    names: set[bytes] | None = None
    noted: int = 0
    version: Version | None = None
    began: float = 0.0
    begun: bool = False  # the first page is there, and nobody has read it

    def close(self) -> None:
        """Nothing that is there or on its way is read any more."""
        self.give_up()
        if self.page is not None:
            self.unwatch(self.page)
            self.page = None

    def give_up(self) -> None:
        """The page that was asked for ahead is not wanted."""
        coming, self.coming = self.coming, None
        if coming is not None:
            self.unwatch(coming.page)

    def watch(self, page: Page) -> None:
        """Have names noted that this mount does something to from now on."""
        self.inode.pages += (page.touched,)

    def unwatch(self, page: Page) -> None:
        self.inode.pages = tuple(one for one in self.inode.pages if one is not page.touched)

    def turn_to(self, page: Page) -> None:
        """Read this page from now on. Raises PeerError for one that comes again and again."""
        place, entries = page.place, page.entries
        self._go_back_to(place)
        if entries and self._goes_round(place, entries):
            raise PeerError("READDIR: the server's listing goes round in a circle", errno.ELOOP)
        if self.page is not None:
            self.unwatch(self.page)
        self.page, self.verifier = page, page.verifier
        came = array("Q", [entry[2] for entry in entries])
        self.cookies[place : place + len(came)] = came

    def _go_back_to(self, place: int) -> None:
        """Nothing that ended behind there has come yet."""
        if place < len(self.cookies):
            self.ends = {cookie: end for cookie, end in self.ends.items() if end <= place}

    def _goes_round(self, place: int, entries: list[ListedEntry]) -> bool:
        """Whether these, which come next, end where others before them have ended: then a server
        would have us go through the same entries for ever."""
        end = place + len(entries)
        return self.ends.setdefault(entries[-1][2], end) != end
