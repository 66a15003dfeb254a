"""The entries of directories in an order that lasts.

Theory of operation. A client reads a directory page by page, removes and makes entries meanwhile,
and must get every entry that was there all the time, once. So a cookie must not be a position in a
list that changes. Kernels use the file system's own offsets; a process gets them in a form that
lasts from some file systems only (not from overlayfs, nor from older tmpfs). So here a cookie is a
hash of the name, and entries come in the order of the hashes: "what comes behind this cookie" means
the same whatever else was added or removed, and after a restart too. The hash is keyed, so that
nobody can make names that collide, and has 63 bits, because clients hand cookies out as signed file
offsets. The verifier is a digest of the key: a cookie of another server is BAD_COOKIE,
unless the client has forgotten the verifier.

Reading a whole directory for each page would cost too much. The entries are kept from the first
page (cookie 0) for the pages behind it. A page whose entries are not kept any more is made from the
directory as it is then, to the same effect.

A first page reads afresh unless nothing has changed: the directory has the times of modification
and change that it had before it was read the last time, and these lay some time back then. (Times
of a file system are as fine as its clock is: what changes right after a look may leave the time as
it was. Two seconds are the coarsest that there are.)
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import NamedTuple

__all__ = ["DOT_COOKIE", "DOT_DOT_COOKIE", "Entry", "Listings", "MoreEntries"]

DOT_COOKIE, DOT_DOT_COOKIE = 1, 2
FIRST_COOKIE = 3  # of the other entries
KEPT_ENTRIES = 50_000  # some 10 MB


class MoreEntries(Exception):
    """A directory has more entries than are wanted."""


class Entry(NamedTuple):
    cookie: int
    name: bytes
    inode: int


# As os.fsencode has it, which looks at more than that.
ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
SETTLED_NS = 2_000_000_000


class _Listing(NamedTuple):
    used: float  # on the monotonic clock
    entries: list[Entry]
    version: tuple[int, int] | None  # of the directory (times, ns), if it had settled


class Listings:
    """Reads directories and keeps what it has read for a while. `secret`: keys the cookies."""

    def __init__(self, secret: bytes) -> None:
        self._hash = hashlib.blake2b(key=secret, digest_size=8, person=b"cookies")
        self.verifier = hashlib.blake2b(key=secret, digest_size=8, person=b"verifier").digest()
        self._lock = Lock()
        self._kept: OrderedDict[bytes, _Listing] = OrderedDict()
        self._count = 0

    def behind(
        self, handle: bytes, fd: int, cookie: int, most: int | None = None
    ) -> Sequence[Entry]:
        """The entries (without the dots) that come behind a cookie; `fd`: open for reading. Of a
        directory that has more than `most`, MoreEntries; no more than these are looked at."""
        with self._lock:
            kept = self._kept.get(handle)
        if kept is None or not cookie:
            kept = self._fresh(fd, kept, most)
        if most is not None and len(kept.entries) > most:
            raise MoreEntries
        self._keep(handle, kept._replace(used=time.monotonic()))
        entries = kept.entries
        return entries[bisect_right(entries, cookie, key=itemgetter(0)) :]

    def _fresh(self, fd: int, kept: _Listing | None, most: int | None) -> _Listing:
        """The directory as it is now: what is kept, if that is known to be so."""
        version = _version(fd)
        if kept is not None and version is not None and version == kept.version:
            return kept
        return _Listing(0.0, self._read(fd, most), version)

    def _read(self, fd: int, most: int | None = None) -> list[Entry]:
        with os.scandir(fd) as found:
            some = found if most is None else islice(found, most + 1)
            pairs = [(entry.name.encode(*ENCODING), entry.inode()) for entry in some]
        entries = sorted(Entry(self._cookie(name), name, inode) for name, inode in pairs)
        for index in range(1, len(entries)):
            if entries[index].cookie <= entries[index - 1].cookie:
                entries[index] = entries[index]._replace(cookie=entries[index - 1].cookie + 1)
        return entries

    def _cookie(self, name: bytes) -> int:
        keyed = self._hash.copy()
        keyed.update(name)
        return max(int.from_bytes(keyed.digest(), "big") >> 1, FIRST_COOKIE)

    def _keep(self, handle: bytes, listing: _Listing) -> None:
        with self._lock:
            self._forget(handle)
            self._kept[handle] = listing
            self._count += len(listing.entries)
            while self._count > KEPT_ENTRIES and len(self._kept) > 1:
                self._forget(next(iter(self._kept)))

    def _forget(self, handle: bytes) -> None:
        kept = self._kept.pop(handle, None)
        if kept is not None:
            self._count -= len(kept.entries)

    def expire(self, idle: float) -> None:
        """Forget what has not been asked for in `idle` seconds."""
        oldest = time.monotonic() - idle
        with self._lock:
            while self._kept:
                handle, kept = next(iter(self._kept.items()))
                if kept.used > oldest:
                    break
                self._forget(handle)


def _version(fd: int) -> tuple[int, int] | None:
    """The times by which a change of a directory is known; None if it may have changed just now.
    To be asked for before it is read."""
    status = os.fstat(fd)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
        return None
    return status.st_mtime_ns, status.st_ctime_ns
