"""Names: looking up, making, removing and renaming them."""

from __future__ import annotations

import errno
import math
import os
import secrets
import stat

from pyfuse3 import EntryAttributes

from umktls.errors import CallerError
from umktls.nfs.filetypes import FTYPES, SPECIAL
from umktls.nfs.types import (
    SERVER_TIME,
    CREATE3resok,
    MKDIR3resok,
    MKNOD3resok,
    SYMLINK3resok,
    createhow3,
    createmode3,
    diropargs3,
    fattr3,
    ftype3,
    mknoddata3,
    nfsstat3,
    nfstime3,
    sattr3,
    specdata3,
)
from umktls.rpc.message import OpaqueAuth

from .attributes import AttributeCache, time_ns
from .calls import Calls, NfsFailure
from .exclusive import Marks
from .foresight import Foresight
from .inodes import Inode, InodeTable
from .intent import Intent
from .knownnames import KnownNames
from .silly import SillyRenames

__all__ = ["Namespace"]

Made = CREATE3resok | MKDIR3resok | MKNOD3resok | SYMLINK3resok

PERMISSIONS = 0o7777


class Namespace:
    """Operations on names. Those that return an inode have counted a lookup of it.

    intent: what a thread looks names up for. top: what the mount point is called. missing_seconds:
    how long FUSE may believe that a name does not exist; None: not at all.
    """

    def __init__(
        self,
        calls: Calls,
        inodes: InodeTable,
        attributes: AttributeCache,
        known: KnownNames,
        foresight: Foresight,
        silly: SillyRenames,
        intent: Intent,
        top: bytes,
        missing_seconds: float | None,
    ) -> None:
        self._calls = calls
        self._inodes = inodes
        self._attributes = attributes
        self._known = known
        self._silly = silly
        self._marks = Marks(calls.fsinfo)
        self._foresight = foresight
        self._intent = intent
        self._top = top
        self._missing_seconds = missing_seconds

    # ---- finding

    async def lookup(
        self, parent: Inode, name: bytes, credential: OpaqueAuth, pid: int = 0
    ) -> EntryAttributes:
        """pid: of the thread that looks up, 0 if unknown."""
        seen = await self._foresight.take(parent, name, credential)
        if seen is not None and self._intent.only_looks(pid):
            self._known.found(parent, name)
            inode = self._enter(parent, name, seen.handle, seen.attr, seen.started, seen.asked)
            return self._attributes.reply(inode, asked=seen.asked)
        there = self._inodes.named(parent, name) if self._known.has(parent, name) else None
        if there is not None and self._intent.will_remove(pid, name, self._called(parent)):
            there.lookups += 1
            # The kernel is not to believe the name any longer for that.
            return self._attributes.reply(there, asked=-math.inf)
        if self._known.lacks(parent, name) and self._will_make(pid, parent, name):
            raise NfsFailure("LOOKUP", nfsstat3.NFS3ERR_NOENT)
        return await self._look_up(parent, name, credential, pid)

    def _will_make(self, pid: int, parent: Inode, name: bytes) -> bool:
        return self._intent.will_make(pid, name, self._called(parent))

    async def _look_up(
        self, parent: Inode, name: bytes, credential: OpaqueAuth, pid: int
    ) -> EntryAttributes:
        started = self._attributes.stamp()
        try:
            result = await self._calls.lookup(parent.handle, name, credential)
        except NfsFailure as failure:
            if failure.status != nfsstat3.NFS3ERR_NOENT:
                raise
            if self._will_make(pid, parent, name):  # another like it could be known to be missing
                self._foresight.missed(parent, credential)
            if self._missing_seconds is None:
                raise
            return self._missing()
        self._attributes.update(parent, result.dir_attributes, started)
        self._known.seen(parent, result.dir_attributes)
        attr = result.obj_attributes or await self._calls.getattr(result.object, credential)
        self._known.found(parent, name)
        inode = self._enter(parent, name, result.object, attr, started)
        if self._intent.only_looks(pid):  # else nothing that is fetched could be used
            self._foresight.missed(parent, credential)
        return self._attributes.reply(inode, started)

    def _called(self, directory: Inode) -> list[bytes]:
        """The names of a directory, as far as they are known."""
        if directory is self._inodes.root:
            return [self._top]
        return [name for _, name in directory.names]

    def _missing(self) -> EntryAttributes:
        assert self._missing_seconds is not None
        entry = EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = self._missing_seconds
        return entry

    def _enter(
        self,
        parent: Inode,
        name: bytes,
        handle: bytes,
        attr: fattr3,
        started: int,
        asked: float | None = None,
    ) -> Inode:
        """FUSE is about to be told of an inode under this name."""
        inode = self._bound(parent, name, handle, attr)
        self._attributes.update(inode, attr, started, asked)
        return inode

    def _enter_changed(
        self, parent: Inode, name: bytes, handle: bytes, attr: fattr3, started: int
    ) -> Inode:
        """The same of one that has got the name by the call which told its attributes."""
        inode = self._bound(parent, name, handle, attr)
        self._attributes.changed(inode, attr, started)
        return inode

    def _bound(self, parent: Inode, name: bytes, handle: bytes, attr: fattr3) -> Inode:
        inode = self._inodes.of_handle(handle, attr.fileid)
        inode.lookups += 1
        self._inodes.bind(parent, name, inode)
        return inode

    # ---- making

    async def create(
        self, parent: Inode, name: bytes, mode: int, flags: int, credential: OpaqueAuth
    ) -> Inode:
        """A regular file for open(2) with O_CREAT; for O_EXCL it is known who has made it."""
        size = 0 if flags & os.O_TRUNC else None
        mark = self._marks.next() if flags & os.O_EXCL else None
        wanted = sattr3(mode=mode & PERMISSIONS, size=size, atime=mark)
        if mark is not None:
            return await self._create_marked(parent, name, wanted, mark, credential)
        if not flags & os.O_EXCL:
            if self._known.lacks(parent, name):
                return await self._create_unseen(parent, name, wanted, credential)
            return await self._create_unchecked(parent, name, wanted, credential)
        try:
            return await self._create_exclusive(parent, name, wanted, credential)
        except NfsFailure as failure:
            if failure.status != nfsstat3.NFS3ERR_NOTSUPP:
                raise
        return await self._create(parent, name, createhow3(createmode3.GUARDED, wanted), credential)

    async def _create_unchecked(
        self, parent: Inode, name: bytes, wanted: sattr3, credential: OpaqueAuth
    ) -> Inode:
        """A server answers with what is there, whatever that is, if others have made it since it
        was looked up. FUSE takes nothing but a regular file: CallerError ESTALE has it look up."""
        how = createhow3(createmode3.UNCHECKED, wanted)
        inode = await self._create(parent, name, how, credential)
        if inode.attributes is not None and not stat.S_ISREG(inode.attributes.st_mode):
            self._inodes.forget(inode.number, 1)  # FUSE will not be told of it
            raise CallerError(f"{name!r} is no regular file: look it up", errno.ESTALE)
        return inode

    async def _create_unseen(
        self, parent: Inode, name: bytes, wanted: sattr3, credential: OpaqueAuth
    ) -> Inode:
        """Where the server may not have been asked whether the name is there. What is there is not
        ours to open, since nobody has asked who may: CallerError ESTALE has FUSE look it up."""
        how = createhow3(createmode3.GUARDED, wanted)
        try:
            return await self._create(parent, name, how, credential)
        except NfsFailure as failure:
            if failure.status not in (nfsstat3.NFS3ERR_EXIST, nfsstat3.NFS3ERR_ISDIR):
                raise
            self._known.was_wrong(parent)
            raise CallerError(f"{name!r} is there already: look it up", errno.ESTALE) from failure

    async def _create_marked(
        self, parent: Inode, name: bytes, wanted: sattr3, mark: nfstime3, credential: OpaqueAuth
    ) -> Inode:
        """Exclusively by one call; see exclusive.py. wanted: with the mark."""
        how = createhow3(createmode3.GUARDED, wanted)
        inode = await self._create(parent, name, how, credential)
        self._marks.see(mark, inode.attributes)
        return inode

    async def _create(
        self, parent: Inode, name: bytes, how: createhow3, credential: OpaqueAuth
    ) -> Inode:
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        result = await self._calls.create(parent.handle, name, how, credential)
        return await self._made(parent, name, result, started, credential)

    async def _create_exclusive(
        self, parent: Inode, name: bytes, wanted: sattr3, credential: OpaqueAuth
    ) -> Inode:
        """The server may keep the verifier in the times, so these are set like the mode."""
        verf = secrets.token_bytes(8)
        how = createhow3(createmode3.EXCLUSIVE, verf=verf)
        inode = await self._create(parent, name, how, credential)
        attributes = sattr3(mode=wanted.mode, atime=SERVER_TIME, mtime=SERVER_TIME)
        started = self._attributes.stamp()
        try:
            result = await self._calls.setattr(inode.handle, attributes, credential)
        except BaseException:
            self._inodes.forget(inode.number, 1)  # FUSE will not be told of it
            raise
        after = result.obj_wcc.after
        self._attributes.changed(inode, after, started)
        if after is not None:
            self._marks.learn(time_ns(after.ctime))
        return inode

    async def mkdir(
        self, parent: Inode, name: bytes, mode: int, credential: OpaqueAuth
    ) -> EntryAttributes:
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        attributes = sattr3(mode=mode & PERMISSIONS)
        result = await self._calls.mkdir(parent.handle, name, attributes, credential)
        inode = await self._made(parent, name, result, started, credential)
        self._known.made(inode)
        return self._attributes.reply(inode)

    async def symlink(
        self, parent: Inode, name: bytes, target: bytes, credential: OpaqueAuth
    ) -> EntryAttributes:
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        result = await self._calls.symlink(parent.handle, name, target, credential)
        inode = await self._made(parent, name, result, started, credential)
        return self._attributes.reply(inode)

    async def mknod(
        self, parent: Inode, name: bytes, mode: int, rdev: int, credential: OpaqueAuth
    ) -> EntryAttributes:
        """Special files; a regular one, which NFS's MKNOD does not make, as open(2) would."""
        kind = FTYPES.get(stat.S_IFMT(mode))
        if kind not in SPECIAL:
            inode = await self.create(parent, name, mode, os.O_EXCL, credential)
            return self._attributes.reply(inode)
        attributes = sattr3(mode=mode & PERMISSIONS)
        spec = specdata3(os.major(rdev), os.minor(rdev))
        has_number = kind in (ftype3.NF3CHR, ftype3.NF3BLK)
        what = mknoddata3(kind, attributes, spec if has_number else None)
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        result = await self._calls.mknod(parent.handle, name, what, credential)
        inode = await self._made(parent, name, result, started, credential)
        return self._attributes.reply(inode)

    async def _made(
        self, parent: Inode, name: bytes, result: Made, started: int, credential: OpaqueAuth
    ) -> Inode:
        """Enter what was made; a server may leave out handle and attributes (RFC 1813 3.3.8)."""
        self._known.changed(parent, result.dir_wcc, started)
        handle, attr = result.obj, result.obj_attributes
        if handle is None:
            found = await self._calls.lookup(parent.handle, name, credential)
            handle, attr = found.object, found.obj_attributes
        if attr is None:
            attr = await self._calls.getattr(handle, credential)
        self._known.expect(parent, name)  # a listing may have come in between
        return self._enter_changed(parent, name, handle, attr, started)

    async def link(
        self, inode: Inode, parent: Inode, name: bytes, credential: OpaqueAuth
    ) -> EntryAttributes:
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        with self._attributes.changing(inode):
            result = await self._calls.link(inode.handle, parent.handle, name, credential)
            self._known.changed(parent, result.linkdir_wcc, started)
            self._known.expect(parent, name)  # a listing may have come in between
            attr = result.file_attributes or await self._calls.getattr(inode.handle, credential)
        self._enter_changed(parent, name, inode.handle, attr, started)
        return self._attributes.reply(inode)

    # ---- removing

    async def unlink(self, parent: Inode, name: bytes, credential: OpaqueAuth) -> None:
        """Remove a name of a file; of an open one it becomes a silly name."""
        inode = self._inodes.named(parent, name)
        if inode is not None:
            self._silly.refuse(parent, name, inode)
        if inode is not None and self._silly.wanted(inode):
            await self._silly.rename(inode, parent, name, credential)
        else:
            started = self._attributes.stamp()
            with self._silly.going(inode):
                result = await self._calls.remove(parent.handle, name, credential)
            self._known.changed(parent, result.dir_wcc, started, gone=name)
        self._attributes.expire(self._inodes.unbind(parent, name))

    async def rmdir(self, parent: Inode, name: bytes, credential: OpaqueAuth) -> None:
        await self._silly.settle(self._inodes.named(parent, name))
        started = self._attributes.stamp()
        result = await self._calls.rmdir(parent.handle, name, credential)
        self._known.changed(parent, result.dir_wcc, started, gone=name)
        self._attributes.expire(self._inodes.unbind(parent, name))

    # ---- renaming

    async def rename(
        self,
        old_parent: Inode,
        old_name: bytes,
        parent: Inode,
        name: bytes,
        flags: int,
        credential: OpaqueAuth,
    ) -> None:
        """NFS version 3 can only replace: EINVAL for any flag of renameat2(2)."""
        if flags:
            raise CallerError("NFS version 3 has no rename with flags", errno.EINVAL)
        moved = self._inodes.named(old_parent, old_name)
        replaced = self._inodes.named(parent, name)
        if replaced is moved:
            replaced = None
        saved = replaced is not None and await self._save(replaced, parent, name, credential)
        source = diropargs3(old_parent.handle, old_name)
        target = diropargs3(parent.handle, name)
        self._known.expect(parent, name)
        started = self._attributes.stamp()
        try:
            with self._silly.going(replaced):
                result = await self._calls.rename(source, target, credential)
        except NfsFailure:
            # After any other failure nobody knows what the server has done, and the second name may
            # be all that the open file has.
            if saved and replaced is not None:
                await self._silly.remove(replaced)
            raise
        same_file = moved is not None and moved is self._inodes.named(parent, name)
        self._known.changed(
            old_parent, result.fromdir_wcc, started, gone=None if same_file else old_name
        )
        if parent is not old_parent:
            self._known.changed(parent, result.todir_wcc, started)
        self._known.expect(parent, name)  # a listing may have come in between
        self._rebind(old_parent, old_name, parent, name)

    async def _save(
        self, replaced: Inode, parent: Inode, name: bytes, credential: OpaqueAuth
    ) -> bool:
        """Keep an open file that is about to be replaced; whether that was necessary."""
        if self._attributes.is_directory(replaced):
            await self._silly.settle(replaced)
            return False
        if not self._silly.wanted(replaced):
            return False
        return await self._silly.keep(replaced, parent, name, credential)

    def _rebind(self, old_parent: Inode, old_name: bytes, parent: Inode, name: bytes) -> None:
        moved = self._inodes.unbind(old_parent, old_name)
        self._attributes.expire(moved)
        self._attributes.expire(self._inodes.unbind(parent, name))
        if moved is not None:
            self._inodes.bind(parent, name, moved)
