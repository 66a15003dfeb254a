"""The FUSE requests (pyfuse3.Operations), each handed to the part that knows what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, ReaddirToken, RequestContext, SetattrFields

from umktls.rpc.message import OpaqueAuth

from .attributes import AttributeCache
from .calls import Calls, NfsCaller
from .credentials import Credentials
from .directories import Directories, Emit
from .errors import handler
from .files import Files
from .inodes import InodeTable
from .kernelcache import Invalidate, KernelCache
from .metadata import Metadata
from .namespace import Namespace
from .options import MountOptions
from .readahead import ReadAhead
from .silly import SillyRenames
from .writeback import WriteBehind

__all__ = ["NfsOperations"]


class NfsOperations(pyfuse3.Operations):
    """An NFS version 3 mount as FUSE sees it.

    start: starts background tasks in a nursery that lives as long as the mount. `run` must run too.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        caller: NfsCaller,
        options: MountOptions,
        start: Callable[..., Any],
        *,
        credentials: Credentials | None = None,
        emit: Emit = pyfuse3.readdir_reply,
        invalidate: Invalidate = pyfuse3.invalidate_inode,
    ) -> None:
        super().__init__()
        clock = trio.current_time
        calls = Calls(caller, options.deadline, options.timeout_errno)
        sizes = caller.fsinfo
        self.ready = trio.Event()
        self.inodes = InodeTable(caller.root)
        self.attributes = AttributeCache(options, clock)
        self.kernel = KernelCache(self.attributes, start, invalidate)
        wsize = min(options.wsize, sizes.wtmax)
        self.behind = WriteBehind(calls, self.attributes, self.kernel, start, clock, wsize)
        self._credentials = credentials or Credentials(clock)
        self._credentials.owners = self.attributes.owners
        silly = SillyRenames(calls, self.attributes)
        self._names = Namespace(calls, self.inodes, self.attributes, silly, options.missing_seconds)
        self._metadata = Metadata(calls, self.attributes)
        self._directories = Directories(
            calls, self.inodes, self.attributes, emit, clock, plus=options.rdirplus
        )
        ahead = ReadAhead(
            calls, self.attributes, start, min(options.rsize, sizes.rtmax), options.readahead
        )
        self.files = Files(
            calls,
            self.inodes,
            self.attributes,
            ahead,
            self.behind,
            silly,
            self.kernel,
            through=options.sync or options.noac,
            caching=not options.noac,
            cto=options.cto,
        )

    async def run(self) -> None:
        """The mount's own work beside requests, until cancelled."""
        await self.behind.run()

    async def finish(self) -> None:
        """At the end of the mount: close what is open, so that nothing written is lost."""
        await self.behind.flush()
        await self.files.close_all()

    async def check(self, credential: OpaqueAuth) -> None:
        """One call that shows that the mount works. Raises UmktlsError."""
        await self._metadata.getattr(self.inodes.root, credential)

    def init(self) -> None:
        self.ready.set()

    # ---- names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return await self._names.lookup(self.inodes[parent_inode], name, self._credentials.of(ctx))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.mknod(parent, name, mode, rdev, self._credentials.of(ctx))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.mkdir(parent, name, mode, self._credentials.of(ctx))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.symlink(parent, name, target, self._credentials.of(ctx))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[new_parent_inode]
        credential = self._credentials.of(ctx)
        return await self._names.link(self.inodes[inode], parent, new_name, credential)

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.unlink(self.inodes[parent_inode], name, self._credentials.of(ctx))

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.rmdir(self.inodes[parent_inode], name, self._credentials.of(ctx))

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old_parent, parent = self.inodes[parent_inode_old], self.inodes[parent_inode_new]
        credential = self._credentials.of(ctx)
        await self._names.rename(old_parent, name_old, parent, name_new, flags, credential)

    # ---- attributes

    @handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return await self._metadata.getattr(self.inodes[inode], self._credentials.of(ctx))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        # ftruncate(2) is permitted to who has opened the file for writing.
        if fh is not None and fields.update_size:
            credential = self.files[fh].credential
        else:
            credential = self._credentials.of(ctx)
        return await self._metadata.setattr(self.inodes[inode], attr, fields, credential)

    @handler
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return await self._metadata.access(self.inodes[inode], mode, self._credentials.of(ctx))

    @handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._metadata.readlink(self.inodes[inode], self._credentials.of(ctx))

    @handler
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        return await self._metadata.statfs(self._credentials.of(ctx))

    # ---- directories

    @handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._directories.open(self.inodes[inode], self._credentials.of(ctx))

    @handler
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        await self._directories.read(fh, start_id, token)

    @handler
    async def releasedir(self, fh: int) -> None:
        self._directories.release(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Nothing to do: an NFS server answers when what it has changed is stable."""

    # ---- files

    @handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        credential = self._credentials.of(ctx)
        opened = await self.files.open(self.inodes[inode], flags, credential, ctx.pid)
        return FileInfo(fh=opened.fh, keep_cache=opened.keep, direct_io=opened.around)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        credential = self._credentials.of(ctx)
        parent = self.inodes[parent_inode]
        inode = await self._names.create(parent, name, mode, flags, credential)
        fh = self.files.created(inode, flags, credential)
        return FileInfo(fh=fh, keep_cache=False), self.attributes.reply(inode)

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # Any buffer will do for pyfuse3, which says bytes.
        return cast(bytes, await self.files.read(fh, off, size))

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.files.write(fh, off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        await self.files.flush(fh)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.files.flush(fh)

    @handler
    async def release(self, fh: int) -> None:
        await self.files.release(fh)
