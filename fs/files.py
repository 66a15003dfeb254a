"""Open files: credentials, close-to-open consistency, reading and writing.

Theory of operation. An open file keeps the credential of who opened it: FUSE does not say who
reads, writes or closes. Opening asks the server (ACCESS) whether that user may, which also fetches
fresh attributes; if they are not those that the kernel's page cache was filled under, the kernel is
told to drop it; kernelcache.py has how the kernel learns the size. Closing waits until everything
written is stable on the server. So whoever opens a file after another has closed it sees what was
written (nfs(5), "close-to-open").

With O_DIRECT nothing is kept here: each read asks the server, and a write returns when the server
has the data. That does not mean that it is stable there (with O_DSYNC it is), so a read makes it
stable first: until then it would have to be laid over what the server has, which may be newer.

Failures of writing behind are told once to each file that was open then: by its next write, fsync
or close.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Coroutine
from typing import Any

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.nfs.types import (
    ACCESS3_EXECUTE,
    ACCESS3_EXTEND,
    ACCESS3_MODIFY,
    ACCESS3_READ,
    sattr3,
)
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.xdr import Buffer

from .attributes import AttributeCache
from .calls import Calls
from .extents import overlay
from .inodes import Inode, InodeTable, Unstable
from .kernelcache import KernelCache
from .openreads import OpenReads
from .readahead import First, ReadAhead, Reader
from .silly import SillyRenames
from .writeback import WriteBehind
from .writer import writer_of

__all__ = ["Files", "OpenFile", "Opened"]

log = logging.getLogger(__name__)

_FMODE_EXEC = 0o40  # in the flags of an open by execve(2); see Linux's include/linux/fs.h

_ACCESS_OF_MODE = {
    os.O_RDONLY: ACCESS3_READ,
    os.O_WRONLY: ACCESS3_MODIFY | ACCESS3_EXTEND,
    os.O_RDWR: ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND,
}


@dataclass(slots=True, eq=False)
class OpenFile:
    """One open of a file. failures: how many of the writer's failures its user has been told.

    direct: opened with O_DIRECT. appends: data goes to the end that is known here, since FUSE has
    another (kernelcache.py). unread: it is small, and nobody has read it since (openreads.py).
    """

    inode: Inode
    credential: OpaqueAuth
    writable: bool
    direct: bool
    appends: bool
    reader: Reader
    failures: int = 0
    unread: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """FUSE's number of an open file. keep: the kernel may keep the pages that it has. around: it
    must not use pages at all."""

    fh: int
    keep: bool = False
    around: bool = False


class Files:
    """All open files of a mount, by the number (fh) that FUSE has for them.

    through: writes are made at once, not behind. caching: pages may be kept from open to open. cto:
    each open asks the server; otherwise what is cached will do (nfs(5), nocto).
    """

    def __init__(
        self,
        calls: Calls,
        inodes: InodeTable,
        attributes: AttributeCache,
        ahead: ReadAhead,
        behind: WriteBehind,
        silly: SillyRenames,
        kernel: KernelCache,
        *,
        through: bool = False,
        caching: bool = True,
        cto: bool = True,
    ) -> None:
        self._calls = calls
        self._inodes = inodes
        self._attributes = attributes
        self._ahead = ahead
        self._behind = behind
        self._silly = silly
        self._kernel = kernel
        self._habit = OpenReads()
        self._through = through
        self._caching = caching
        self._cto = cto
        self._open: dict[int, OpenFile] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, fh: int) -> OpenFile:
        try:
            return self._open[fh]
        except KeyError:
            raise CallerError(f"no open file {fh}", errno.EBADF) from None

    def being_written(self, inode: Inode) -> bool:
        """Whether somebody has the file open for writing."""
        return any(file.writable and file.inode is inode for file in self._open.values())

    async def open(self, inode: Inode, flags: int, credential: OpaqueAuth, pid: int) -> Opened:
        """pid: of the thread that opens, 0 if unknown. CallerError ESTALE has FUSE look up again
        what has changed."""
        inode.opens += 1
        first = None
        try:
            await self._silly.settle(inode)
            length = self._habit.length(inode, flags)
            first = self._ahead.post(inode, length, credential) if length else None
            await self._revalidate(inode, flags, credential)
            if flags & os.O_TRUNC:
                await self._truncate(inode, credential)
                agreed = True
            else:
                agreed = self._kernel.agrees(inode, pid)
        except UmktlsError as error:
            if first is not None:
                first.posted.drop()
            if error.errno != errno.ESTALE:
                self._kernel.walked(pid)
            elif not isinstance(error, CallerError):
                self._kernel.comes_back(pid)
            self._not_open(inode)
            raise
        except BaseException:
            if first is not None:
                first.posted.drop()
            self._not_open(inode)
            raise
        keep = self._caching and inode.pages_version == inode.version
        inode.pages_version = inode.version
        around = bool(flags & os.O_APPEND) and not agreed
        fh = self._add(inode, flags, credential, first, appends=around)
        self._open[fh].unread = not keep and self._habit.small(inode, flags)
        return Opened(fh, keep, around)

    def created(self, inode: Inode, flags: int, credential: OpaqueAuth) -> int:
        """A file that this user has just made is open without further questions: its fh."""
        inode.opens += 1
        inode.pages_version = inode.version
        return self._add(inode, flags, credential)

    def _add(
        self,
        inode: Inode,
        flags: int,
        credential: OpaqueAuth,
        first: First | None = None,
        *,
        appends: bool = False,
    ) -> int:
        self._last += 1
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        direct = bool(flags & os.O_DIRECT)
        reader = Reader(inode, credential, self._ahead, first)
        file = OpenFile(inode, credential, writable, direct, appends, reader)
        if inode.writer is not None:
            file.failures = inode.writer.failures
        self._open[self._last] = file
        return self._last

    async def _revalidate(self, inode: Inode, flags: int, credential: OpaqueAuth) -> None:
        """Fresh attributes, and EACCES if the server would refuse what the flags ask for."""
        wanted = _ACCESS_OF_MODE.get(flags & os.O_ACCMODE, ACCESS3_READ)
        if flags & _FMODE_EXEC:
            wanted = ACCESS3_EXECUTE
        if not self._cto and self._attributes.permits(inode, wanted, credential):
            return
        started = self._attributes.stamp()
        result = await self._calls.access(inode.handle, wanted, credential)
        if result.access & wanted != wanted:
            raise CallerError("the server does not permit it", errno.EACCES)
        attr = result.obj_attributes
        if attr is None:
            attr = await self._calls.getattr(inode.handle, credential)
        if self._attributes.update(inode, attr, started):
            self._attributes.grant(inode, wanted, credential)

    async def _truncate(self, inode: Inode, credential: OpaqueAuth) -> None:
        if inode.writer is not None:
            await inode.writer.flush()
        started = self._attributes.stamp()
        with self._attributes.changing(inode):
            result = await self._calls.setattr(inode.handle, sattr3(size=0), credential)
        inode.data_version += 1
        if not self._attributes.changed(inode, result.obj_wcc.after, started):
            await self._attributes.ask(self._calls, inode, credential)
        self._kernel.concludes(inode, 0)

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        """`size` bytes, fewer only at the end of the file."""
        file = self[fh]
        told = file.inode.told
        if file.unread and not offset:
            file.unread = False
            self._habit.read()
        writer = file.inode.writer
        if writer is None or not writer.busy:
            data = await self._read(file, offset, size)
        else:
            data = await self._overlaid(file, writer, offset, size)
        if len(data) < size and not file.appends:
            self._kernel.read_short(file.inode, offset + len(data), told)
        return data

    async def _overlaid(self, file: OpenFile, writer: Unstable, offset: int, size: int) -> Buffer:
        if file.direct:
            await writer.flush()
            self._report(file)
            return await self._read(file, offset, size)
        extents = writer.behind(offset)  # before the server is asked: it may have them by then
        return overlay(await self._read(file, offset, size), offset, size, extents)

    def _read(self, file: OpenFile, offset: int, size: int) -> Coroutine[Any, Any, Buffer]:
        if file.direct:
            return self._ahead.read(file.inode, offset, size, file.credential)
        return file.reader.read(offset, size)

    async def write(self, fh: int, offset: int, data: Buffer) -> int:
        """Take data over, or report an earlier failure instead."""
        file = self[fh]
        self._report(file)
        inode = file.inode
        writer = writer_of(inode, self._behind)
        inode.data_version += 1
        place = self._attributes.size(inode) if file.appends else offset
        await writer.write(place, data, file.credential)
        self._kernel.wrote(inode, offset + len(data))
        if place != offset:
            self._kernel.drop_pages(inode)
        if self._through:
            await writer.flush()
            self._report(file)
        elif file.direct:
            await writer.drain()
            self._report(file)
        return len(data)

    async def flush(self, fh: int) -> None:
        """For close(2): all that was written is stable, or a failure is reported. Who has only read
        waits for nobody."""
        if self[fh].writable:
            await self.sync(fh)

    async def sync(self, fh: int) -> None:
        """For fsync(2): the same of all that anybody has written to the file, whatever it was
        opened for. sync(1) opens a file for reading."""
        file = self[fh]
        if file.inode.writer is not None:
            await file.inode.writer.flush()
            await self._kernel.dropped(file.inode)
            self._report(file)

    def _report(self, file: OpenFile) -> None:
        writer = file.inode.writer
        if writer is not None and writer.failure is not None and writer.failures != file.failures:
            file.failures = writer.failures
            raise WorldError(str(writer.failure), writer.failure.errno)

    async def release(self, fh: int) -> None:
        """The last reference to an open file is gone."""
        file = self._open.pop(fh)
        if file.unread:
            self._habit.unread()
        file.reader.close()
        writer = file.inode.writer
        if writer is not None and writer.busy and file.writable:
            await writer.flush()  # pages of a mapping, written after close(2)
        await self._closed(file.inode)

    async def _closed(self, inode: Inode) -> None:
        if self._was_last(inode):
            await self._silly.remove(inode)
            self._inodes.drop_if_unused(inode)

    def _not_open(self, inode: Inode) -> None:
        """An open has failed, or whoever opens is killed."""
        if self._was_last(inode):
            self._silly.remove_behind(inode)
            self._inodes.drop_if_unused(inode)

    def _was_last(self, inode: Inode) -> bool:
        """Count one that has the file open off; whether nobody has."""
        inode.opens -= 1
        if inode.opens:
            return False
        if inode.writer is not None and not inode.writer.busy:
            inode.writer = None
        return True

    async def close_all(self) -> None:
        """At the end of the mount: what is still open is as good as closed."""
        for fh in list(self._open):
            try:
                await self.release(fh)
            except UmktlsError as error:
                log.warning("closing at the end of the mount: %s", error)
