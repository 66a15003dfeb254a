"""What the machine's kernel keeps of a file, and how it comes to keep the truth.

Theory of operation. The kernel has a size, other attributes and pages of each file, and takes new
attributes from the answers to LOOKUP, GETATTR and SETATTR only. The answer to OPEN carries none. So
a file that has another size since FUSE was told last would be opened with the old one: O_APPEND
writes there, and mmap(2), sendfile(2) and copy_file_range(2) end there. Linux' NFS client fetches
attributes at each open for that reason (nfs(5), "close-to-open").

Here ACCESS brings them at each open, and if the size is not the one that FUSE was told last, the
answer is ESTALE: the VFS then walks the path once more with LOOKUP_REVAL (do_filp_open in Linux'
fs/namei.c; openat2, execve and overlayfs come by there too), and LOOKUP's answer has the size. An
open costs no call more unless the file has changed.

The VFS does so once; a second ESTALE would reach the program. So a thread that comes back is let
in, whatever the size is by then: it was right when the name was looked up, after open(2) had begun,
and what changes during an open may be seen or not. An open may also come back without a LOOKUP
(/proc/self/fd/N has no name to look up), or cannot be told from others (pid 0: the opener is in
another pid namespace). These get the next best: the kernel's attributes are declared invalid, so
that read, fstat and lseek ask for them; and with O_APPEND the page cache is passed by, and the data
goes to where the end is known to be here, whatever the kernel takes for it.

Pages that no write has brought to the server are dropped when that is known; dropping may have to
wait for pages that are being read, so it is done in a thread.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from umktls.errors import CallerError

from .attributes import AttributeCache
from .inodes import Inode

__all__ = ["Invalidate", "KernelCache"]

# Of threads that were told to look up again, how many are remembered.
RETRIES_LIMIT = 1024
DROP_SECONDS = 2.0

# Tells FUSE to drop what it knows of an inode number: attributes alone if True, or pages too. It is
# pyfuse3.invalidate_inode, which raises OSError if the kernel does not know the number.
Invalidate = Callable[[int, bool], None]


class KernelCache:
    """One per mount. start: starts a background task (a nursery's start_soon)."""

    def __init__(
        self, attributes: AttributeCache, start: Callable[..., Any], invalidate: Invalidate
    ) -> None:
        self._attributes = attributes
        self._start = start
        self._invalidate = invalidate
        self._retries: OrderedDict[int, Inode] = OrderedDict()
        self._dropping: dict[int, bool] = {}  # by number: whether to drop once more
        self._dropped = trio.lowlevel.ParkingLot()

    def agrees(self, inode: Inode, pid: int) -> bool:
        """Whether the kernel has the size of a file that is being opened by a thread.

        Raises CallerError ESTALE to have the name looked up again. False: it has not, but must be
        let in; its attributes have been invalidated.
        """
        retried = self._retries.pop(pid, None) is inode
        if self._attributes.size(inode) != inode.told_size:
            if not retried and pid:
                self._retries[pid] = inode
                if len(self._retries) > RETRIES_LIMIT:
                    self._retries.popitem(last=False)
                raise CallerError("the file has another size now: look it up again", errno.ESTALE)
            self.drop_attributes(inode)
            return False
        if inode.told_version != inode.version:
            self.drop_attributes(inode)
        return True

    def drop_attributes(self, inode: Inode) -> None:
        """Have the kernel ask for attributes when they are needed next."""
        with suppress(OSError):
            self._invalidate(inode.number, True)

    def drop_pages(self, inode: Inode) -> None:
        """Have the kernel read again what it has of the file, also where it is open."""
        inode.pages_version = None
        if inode.number in self._dropping:
            self._dropping[inode.number] = True
            return
        self._dropping[inode.number] = True
        self._start(self._drop, inode.number)

    async def _drop(self, number: int) -> None:
        try:
            while self._dropping[number]:
                self._dropping[number] = False
                with suppress(OSError):
                    await trio.to_thread.run_sync(
                        self._invalidate, number, False, abandon_on_cancel=True
                    )
        finally:
            del self._dropping[number]
            self._dropped.unpark_all()

    async def dropped(self, inode: Inode) -> None:
        """Wait until pages that are being dropped are gone; for some time only, since a page that
        is being read when the server goes away may take long. Not for the answer to a WRITE: the
        kernel holds the pages of that until it is there."""
        if inode.number not in self._dropping:
            return
        await trio.lowlevel.cancel_shielded_checkpoint()  # see `readturn.begin`
        with trio.move_on_after(DROP_SECONDS):
            while inode.number in self._dropping:
                await self._dropped.park()
