"""Small files that are read as soon as they are open: both calls are made together.

Theory of operation. Who reads many small files (git, grep, tar, a compiler) waits twice for each:
for the answer to ACCESS when it opens the file, and for that to READ. Where the last small files
that were opened have been read from their beginning, the READ of the whole file is made beside the
ACCESS. What it brings is as fresh as close-to-open asks: it was asked for after the open began. It
is used if the file is, by that READ, in the same state as by all other replies; the reader drops it
with any change (`Inode.data_version`).

A file that is not read then costs a READ in vain, and such opens are counted against those that
were of use. Where the machine's kernel may keep the pages that it has, none is made.
"""

from __future__ import annotations

import os

from .inodes import Inode

__all__ = ["OpenReads"]

SMALL = 64 << 10  # bytes of a file that are worth no call of their own
PAGE = 4096
# So many files that were read are a habit; one that was not counts as much as so many.
HABIT, MOST, UNREAD = 3, 8, 2
READS_ONLY = os.O_ACCMODE | os.O_TRUNC | os.O_DIRECT | os.O_APPEND


class OpenReads:
    """What is known of a mount's opens of small files."""

    def __init__(self) -> None:
        self._score = 0

    def small(self, inode: Inode, flags: int) -> bool:
        """Whether a file that is opened so is one that would be read by one call, if it is."""
        return (
            flags & READS_ONLY == os.O_RDONLY
            and inode.version is not None
            and 0 < inode.version[1] <= SMALL
            and inode.writer is None
        )

    def length(self, inode: Inode, flags: int) -> int:
        """How much to ask for while this file is being opened; nothing if it will most likely not
        be read, or not be asked for."""
        kept = inode.pages_version is not None and inode.pages_version == inode.version
        if self._score < HABIT or kept or not self.small(inode, flags):
            return 0
        assert inode.version is not None
        return -(-inode.version[1] // PAGE) * PAGE

    def read(self) -> None:
        """A small file was read from its beginning, by the machine's kernel for the first time."""
        self._score = min(self._score + 1, MOST)

    def unread(self) -> None:
        """One was closed without that."""
        self._score = max(self._score - UNREAD, 0)
