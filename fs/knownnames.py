"""Directories of which all names are known, so that it is known of other names too.

Theory of operation. The client knows all names of a directory that it has made, or has listed from
beginning to end, and goes on knowing them as long as nobody else changes the directory. NFS version
3 tells that by the attributes before and after each of our own changes (wcc_data, RFC 1813 section
2.6): if those before are the ones after the change before, nobody has come in between. Replies may
come out of order, so a change that does not follow yet waits for the one that it follows.

That is evidence and no proof. A server may leave wcc_data out: then nothing is known any more. Its
clock may tick slowly (a second, two on FAT, some milliseconds on Linux), and what others do in
between two ticks cannot be seen. So what is known here is only ever used for a name that is about
to be made (intent.py), for `seconds` after the last sign that it is true, and the server checks it:
a file is made GUARDED then, and NFS3ERR_EXIST says that we were wrong. The directory is not trusted
for some time, and ESTALE has the machine's kernel look the name up again, which asks the server.
Whoever asks whether a name exists gets no answer from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from umktls.nfs.types import fattr3, wcc_attr, wcc_data

from .attributes import AttributeCache, time_ns
from .inodes import Inode, InodeTable
from .known import Known, Version

__all__ = ["KnownNames", "version_of"]

# Names that are kept for a mount. When there are more, all are forgotten.
NAMES_LIMIT = 1 << 17
WAITING_LIMIT = 64


def version_of(attr: fattr3 | wcc_attr) -> Version:
    return time_ns(attr.ctime), attr.size, time_ns(attr.mtime)


class KnownNames:
    """What is known of all directories of a mount: `Inode.known`.

    clock: seconds, monotonic. seconds: how long names are believed without a sign.
    """

    def __init__(
        self,
        inodes: InodeTable,
        attributes: AttributeCache,
        clock: Callable[[], float],
        seconds: float,
    ) -> None:
        self._inodes = inodes
        self._attributes = attributes
        self._clock = clock
        self._seconds = seconds
        self._kept = 0  # at most so many names: none is counted off
        self._doubted = -math.inf  # what was asked for up to then is not believed

    def made(self, directory: Inode) -> None:
        """This client has just made it: it is empty."""
        if directory.version is not None:
            self._know(directory, set(), directory.version, self._clock())

    def listed(
        self, directory: Inode, names: Iterable[bytes], version: Version, began: float
    ) -> None:
        """A listing that began at `began` and was read to its end had these names."""
        self._know(directory, set(names), version, began)

    def _know(self, directory: Inode, names: set[bytes], version: Version, began: float) -> None:
        if self._clock() < directory.distrusted:
            return
        self._make_room(len(names))
        if len(names) <= NAMES_LIMIT:
            directory.known = Known(names, version, began, began + self._seconds)

    def _make_room(self, count: int) -> None:
        self._kept += count
        if self._kept > NAMES_LIMIT:
            self._kept = count
            for inode in self._inodes:
                inode.known = None

    def lacks(self, directory: Inode, name: bytes) -> bool:
        """Whether, as far as is known, a directory has no such name."""
        known = self._believed(directory)
        return known is not None and name not in known.names

    def has(self, directory: Inode, name: bytes) -> bool:
        """Whether, as far as is known, a directory has this name, and nobody else has changed what
        it leads to."""
        known = self._believed(directory)
        return known is not None and name in known.names

    def _believed(self, directory: Inode) -> Known | None:
        known = directory.known
        if known is None or known.began <= self._doubted or self._clock() >= known.until:
            return None
        return known

    def seen(self, directory: Inode, attr: fattr3 | None) -> None:
        """A reply has told the directory's attributes: where it is as it was, so are its names."""
        known = directory.known
        if known is not None and attr is not None and version_of(attr) == known.version:
            known.until = self._clock() + self._seconds

    def doubt(self) -> None:
        """Something was stale: the machine's kernel looks names up again, and has to be told what
        is so now. It does that once, and nothing may be stale again."""
        self._doubted = self._clock()

    def expect(self, directory: Inode, name: bytes) -> None:
        """A call that makes this name is on its way, and may fail."""
        known = directory.known
        if known is not None and name not in known.names:
            self._make_room(1)
            known.names.add(name)

    def changed(
        self, directory: Inode, wcc: wcc_data, started: int, gone: bytes | None = None
    ) -> bool:
        """A call with the stamp `started` (AttributeCache.stamp) has changed the directory; whether
        its attributes are known (AttributeCache.changed). gone: the name that it removed."""
        self._follow(directory, wcc, gone)
        return self._attributes.changed(directory, wcc.after, started)

    def _follow(self, directory: Inode, wcc: wcc_data, gone: bytes | None) -> None:
        known = directory.known
        if known is None:
            return
        if wcc.before is None or wcc.after is None or len(known.waiting) >= WAITING_LIMIT:
            directory.known = None
            return
        if gone is not None:
            known.names.discard(gone)
        if known.follow(version_of(wcc.before), version_of(wcc.after)):
            known.until = self._clock() + self._seconds

    def found(self, directory: Inode, name: bytes) -> None:
        """The server has the name: if that was not known, others may not be."""
        known = directory.known
        if known is not None and name not in known.names:
            directory.known = None

    def was_wrong(self, directory: Inode) -> None:
        """A name was there that seemed to be missing: the directory is not believed for a while."""
        directory.known = None
        directory.distrusted = self._clock() + max(self._seconds, 1.0)
