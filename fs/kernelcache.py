"""What the machine's kernel keeps of a file, and how it comes to keep the truth.

Theory of operation. The machine's kernel has a size, other attributes and pages of each file. It
takes new attributes from the answers to LOOKUP, GETATTR and SETATTR only; the answer to OPEN has
none. So a file whose size has changed would be opened with the old one: O_APPEND writes there, and
mmap(2), sendfile(2) and copy_file_range(2) end there. Linux' NFS client fetches attributes at each
open for that reason (nfs(5), "close-to-open").

Here ACCESS brings attributes at each open. If the size is not the one that FUSE was told last, the
open is answered with ESTALE. Upon that the VFS walks the path once more with LOOKUP_REVAL
(do_filp_open in Linux' fs/namei.c; openat2, execve and overlayfs come by there too), and the answer
to LOOKUP has the size. An open costs no call more unless the file has changed.

The VFS walks again once; a second ESTALE would reach the program. So a thread that comes back is
let in, whatever the size is by then, also where the first ESTALE was the server's. The size was
right when the name was looked up, after open(2) had begun, and a change during an open may be seen
or not. Where the second walk ends otherwise (the name is not there, the file is made, the open is
refused) the thread has come back, too: its next open is another one.

Some opens come back without a LOOKUP (/proc/self/fd/N has no name to look up), and some cannot be
told apart (pid 0: the opener is in another PID namespace). For these the kernel's attributes are
declared invalid, so that read, fstat and lseek ask for them. With O_APPEND they also go past the
page cache: data goes to where this mount knows the end to be.

Pages whose write did not reach the server are dropped when that is known. Dropping may have to wait
for pages that are being read, so a thread does it.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from umktls.errors import CallerError
from umktls.kernel.ground.refusals import NoThread, in_thread

from .attributes import AttributeCache
from .inodes import Inode

__all__ = ["Invalidate", "KernelCache"]

# Of threads that were told to look up again, how many are remembered.
RETRIES_LIMIT = 1024
DROP_SECONDS = 2.0
# Where there is no thread to drop pages in, one is looked for again after so long.
THREAD_SECONDS = 0.2

NOBODY = object()

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
        self._retries: OrderedDict[int, Inode | None] = OrderedDict()
        self._dropping: dict[int, bool] = {}  # by number: whether to drop once more
        self._dropped = trio.lowlevel.ParkingLot()

    def agrees(self, inode: Inode, pid: int) -> bool:
        """Whether the kernel has the right size of a file that a thread opens.

        Raises CallerError ESTALE to have the name looked up again. False: the size is wrong, but
        the thread has to be let in; the kernel's attributes have been invalidated.
        """
        retried = self._retries.pop(pid, NOBODY) in (inode, None)
        if self._attributes.size(inode) != inode.told_size:
            if not retried and pid:
                self.comes_back(pid, inode)
                raise CallerError("the file has another size now: look it up again", errno.ESTALE)
            self.drop_attributes(inode)
            return False
        if inode.told_version != inode.version:
            self.drop_attributes(inode)
        return True

    def comes_back(self, pid: int, inode: Inode | None = None) -> None:
        """A thread was told ESTALE when it opened this file, or by the server: then the name leads
        to whatever file by now, and None stands for it."""
        if pid:
            self._retries[pid] = inode
            if len(self._retries) > RETRIES_LIMIT:
                self._retries.popitem(last=False)

    def walked(self, pid: int) -> None:
        """If this thread was told to come back, it has, and there was nothing to let it in to."""
        self._retries.pop(pid, None)

    def concludes(self, inode: Inode, size: int | None) -> None:
        """The kernel has this size now, by what it has done itself; None where it is not known. Of
        answers that are on their way it takes none then."""
        inode.told_size = size
        inode.told = self._attributes.stamp()

    def wrote(self, inode: Inode, end: int) -> None:
        """The kernel has written up to there."""
        told = inode.told_size
        self.concludes(inode, None if told is None else max(told, end))

    def read_short(self, inode: Inode, end: int, told: int) -> None:
        """A read through its page cache ended there, which began when `inode.told` was that. The
        kernel concludes that the file does, if it was told nothing since (fuse_short_read)."""
        if inode.told == told and inode.told_size is not None and end < inode.told_size:
            self.concludes(inode, end)

    def drop_attributes(self, inode: Inode) -> None:
        """Have the kernel ask for attributes when they are needed next."""
        self.concludes(inode, inode.told_size)
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
                try:
                    with suppress(OSError):
                        await in_thread(self._invalidate, number, False, abandon_on_cancel=True)
                except NoThread:  # what the kernel has is old all the same
                    self._dropping[number] = True
                    await trio.sleep(THREAD_SECONDS)
        finally:
            del self._dropping[number]
            self._dropped.unpark_all()

    async def dropped(self, inode: Inode) -> None:
        """Wait until the pages that are being dropped are gone, but not for long: a page that is
        being read while the server is away may take any time. To be called by no WRITE: the kernel
        holds a WRITE's pages until it is answered."""
        if inode.number not in self._dropping:
            return
        await trio.lowlevel.cancel_shielded_checkpoint()  # see `readturn.begin`
        with trio.move_on_after(DROP_SECONDS):
            while inode.number in self._dropping:
                await self._dropped.park()
