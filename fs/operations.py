"""The FUSE requests (pyfuse3.Operations), each handed to the part that knows what it means."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    ReaddirToken,
    RequestContext,
    SetattrFields,
)

from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.rpc.message import OpaqueAuth

from . import killpriv
from .attributes import AttributeCache
from .calls import Calls, NfsCaller, NfsFailure, transfer_size
from .credentials import Credentials
from .directories import Directories, Emit
from .errors import answer, handler
from .files import Files
from .foresight import Foresight
from .inodes import Inode, InodeTable
from .intent import Intent
from .kernelcache import Invalidate, KernelCache
from .knownnames import KnownNames
from .metadata import Metadata
from .namespace import Namespace
from .options import MountOptions
from .readahead import ReadAhead
from .readturn import READ_TURN, begin
from .requests import Request, Requests
from .silly import SillyRenames
from .telling import tell_request
from .writeback import WriteBehind

__all__ = ["NfsOperations"]

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate["NfsOperations", P], Coroutine[Any, Any, T]]
Kind = Literal["file", "directory"]


def waited(of: Kind | None = None, patient: bool = False) -> Callable[[Method[P, T]], Method[P, T]]:
    """Make a FUSE request handler of a method whose caller waits: see requests.py. A request that
    is answered without waiting is none of those that are looked after.

    of: the request is about something open, its first argument, and comes without its caller's
    context; else that is the last argument. patient: it waits for written data.
    """

    def make(method: Method[P, T]) -> Method[P, T]:
        @functools.wraps(method)
        async def tracked(self: NfsOperations, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                told = tell_request(self.trace, method.__name__, args) if self.trace.close else None
                try:
                    value, rest = begin(method(self, *args, **kwargs))
                    if rest is None:
                        return cast(T, value)
                    READ_TURN.pass_on()
                    request = Request(method.__name__, self.requests.clock(), patient=patient)
                    if of is None:
                        request.thread = cast(RequestContext, args[-1]).pid
                    else:
                        request.process = self.openers.get((of, cast(int, args[0])), 0)
                    return await self.requests.heeded(request, rest)
                finally:
                    if told is not None:
                        told()
            except Exception as error:
                if isinstance(error, UmktlsError) and error.errno == errno.ESTALE:
                    self._foresight.doubt()
                raise answer(method.__name__, error) from None

        return tracked

    return make


class NfsOperations(pyfuse3.Operations):
    """An NFS version 3 mount as FUSE sees it.

    trace: where requests are told to those who watch closely.
    start: starts background tasks in a nursery that lives as long as the mount. `run` must run too.
    intent: what is known of the threads that look names up.
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
        trace: Trace | None = None,
        intent: Intent | None = None,
        mountpoint: str = "",
    ) -> None:
        super().__init__()
        self.trace = trace or Trace("", "client")
        clock = trio.lowlevel.current_clock().current_time  # as trio.current_time, three steps less
        bound, error = options.deadline, options.timeout_errno
        calls = Calls(caller, bound, error)
        self.calls = calls
        self.ready = trio.Event()
        self.inodes = InodeTable(caller.root)
        self.attributes = AttributeCache(options, clock)
        self.kernel = KernelCache(self.attributes, start, invalidate)
        wsize = transfer_size(options.wsize, caller.fsinfo.wtmax)
        self.behind = WriteBehind(calls, self.attributes, self.kernel, start, clock, wsize)
        self.requests = Requests(clock, bound, error, lambda: self.behind.progress)
        self.openers: dict[tuple[Kind, int], int] = {}  # what is open: the process that did it
        self._credentials = credentials or Credentials(clock)
        self._credentials.owners = self.attributes.owners
        trust = 0.0 if options.noac else options.acdirmin
        known = KnownNames(self.inodes, self.attributes, clock, trust)
        self._intent = intent or Intent()
        self._foresight = Foresight(
            calls, self.attributes, known, start, clock, options.ahead_seconds
        )
        silly = SillyRenames(calls, self.attributes, known, self.kernel, start)
        self._names = self._open_namespace(calls, known, silly, options, mountpoint)
        self._metadata = Metadata(calls, self.attributes, known, self._intent)
        self._directories = self._open_directories(calls, known, emit, start, options)
        rsize = transfer_size(options.rsize, caller.fsinfo.rtmax)
        ahead = ReadAhead(calls, self.attributes, start, rsize, options.readahead)
        self.files = self._open_files(calls, ahead, silly, options)

    def _open_namespace(
        self,
        calls: Calls,
        known: KnownNames,
        silly: SillyRenames,
        options: MountOptions,
        mountpoint: str,
    ) -> Namespace:
        return Namespace(
            calls,
            self.inodes,
            self.attributes,
            known,
            self._foresight,
            silly,
            self._intent,
            os.path.basename(os.fsencode(mountpoint)),
            options.missing_seconds,
        )

    def _open_directories(
        self,
        calls: Calls,
        known: KnownNames,
        emit: Emit,
        start: Callable[..., Any],
        options: MountOptions,
    ) -> Directories:
        return Directories(
            calls,
            self.inodes,
            self.attributes,
            known,
            emit,
            start,
            trio.lowlevel.current_clock().current_time,
            plus=options.rdirplus,
            cto=options.cto,
        )

    def _open_files(
        self, calls: Calls, ahead: ReadAhead, silly: SillyRenames, options: MountOptions
    ) -> Files:
        return Files(
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.requests.run)
            await self.behind.run()

    def facts(self) -> dict[str, Any]:
        """What there is to wait for, for people: requests, and bytes that are not stable."""
        return {"requests": self.requests.facts(), "unwritten": self.behind.held}

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

    @waited()
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        try:
            entry = await self._names.lookup(parent, name, self._credentials.of(ctx), ctx.pid)
        except UmktlsError:
            self.kernel.walked(ctx.pid)
            raise
        if not entry.st_ino:
            self.kernel.walked(ctx.pid)
        return entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, lookups in inode_list:
            self.inodes.forget(number, lookups)

    @waited()
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.mknod(parent, name, mode, rdev, self._credentials.of(ctx))

    @waited()
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.mkdir(parent, name, mode, self._credentials.of(ctx))

    @waited()
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        return await self._names.symlink(parent, name, target, self._credentials.of(ctx))

    @waited()
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self.inodes[new_parent_inode]
        credential = self._credentials.of(ctx)
        return await self._names.link(self.inodes[inode], parent, new_name, credential)

    @waited()
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.unlink(self.inodes[parent_inode], name, self._credentials.of(ctx))

    @waited()
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.rmdir(self.inodes[parent_inode], name, self._credentials.of(ctx))

    @waited()
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

    @waited(patient=True)
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        credential = self._credentials.of(ctx)
        return await self._metadata.getattr(self.inodes[inode], credential, ctx.pid)

    @waited(patient=True)
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
        file, mode = self.inodes[inode], attr.st_mode
        try:
            return await self._metadata.setattr(file, attr, fields, credential)
        except NfsFailure as failure:
            if failure.errno not in (errno.EPERM, errno.EACCES) or not fields.update_mode:
                raise
            if not self._written_by(ctx.pid, file, mode):
                raise
            return self._metadata.without_bits(file)

    def _written_by(self, pid: int, file: Inode, mode: int) -> bool:
        """Whether a change of the mode that the server has refused is not the caller's wish, but
        the kernel's, because the caller writes to the file (killpriv.py)."""
        known = file.attributes
        return (
            known is not None
            and killpriv.takes_bits_only(known.st_mode, mode)
            and self.files.being_written(file)
            and not killpriv.in_chmod(pid)
        )

    @waited()
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return await self._metadata.access(self.inodes[inode], mode, self._credentials.of(ctx))

    @waited()
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._metadata.readlink(self.inodes[inode], self._credentials.of(ctx))

    @waited()
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        return await self._metadata.statfs(self._credentials.of(ctx))

    # ---- directories

    @waited()
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        credential, directory = self._credentials.of(ctx), self.inodes[inode]
        lists = self._intent.lists(ctx.pid, directory.known is not None)
        fh = await self._directories.open(directory, credential, lists)
        self.openers["directory", fh] = self._credentials.process(ctx)
        return fh

    @waited("directory")
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        await self._directories.read(fh, start_id, token)

    @handler
    async def releasedir(self, fh: int) -> None:
        self.openers.pop(("directory", fh), None)
        self._directories.release(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Nothing to do: an NFS server answers when what it has changed is stable."""

    # ---- files

    @waited(patient=True)
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        credential = self._credentials.of(ctx)
        opened = await self.files.open(self.inodes[inode], flags, credential, ctx.pid)
        self.openers["file", opened.fh] = self._credentials.process(ctx)
        return FileInfo(fh=opened.fh, keep_cache=opened.keep, direct_io=opened.around)

    @waited()
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        credential = self._credentials.of(ctx)
        parent = self.inodes[parent_inode]
        self.kernel.walked(ctx.pid)
        try:
            inode = await self._names.create(parent, name, mode, flags, credential)
        except UmktlsError as error:
            if error.errno == errno.ESTALE:
                self.kernel.comes_back(ctx.pid)
            raise
        fh = self.files.created(inode, flags, credential)
        self.openers["file", fh] = self._credentials.process(ctx)
        return FileInfo(fh=fh, keep_cache=False), self.attributes.reply(inode)

    @waited("file", patient=True)
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # Any buffer will do for pyfuse3, which says bytes.
        return cast(bytes, await self.files.read(fh, off, size))

    @waited("file", patient=True)
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.files.write(fh, off, buf)

    @waited("file", patient=True)
    async def flush(self, fh: int) -> None:
        await self.files.flush(fh)

    @waited("file", patient=True)
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.files.sync(fh)

    @handler
    async def release(self, fh: int) -> None:
        self.openers.pop(("file", fh), None)
        _, rest = begin(self.files.release(fh))
        if rest is not None:
            READ_TURN.pass_on()
            await rest
