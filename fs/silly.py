"""Files that are removed while they are open.

NFS version 3 has no open: a removed file is gone, also for who still reads it. So, as NFS clients
always did, an open file is not removed but renamed to ``.nfs...`` in its directory, and that name
is removed when the file is closed for the last time. Where a rename would replace an open file, the
file gets the other name first as a second link, so that the rename itself stays atomic.

The file may be closed while the server gives it that name: then whoever asked for it removes it.
Where the server does not say what became of it (whoever asked was killed, or there was no answer in
time), the name may be there: it is removed with the others, and that it is not there is no failure.
And two names of an open file, in different directories, may be removed at the same time: each gets
another one.

A file that is not open is simply removed, or replaced. Who opens it meanwhile waits: a server that
does several calls at a time might permit that, and the file would be gone then (Linux' client has
NFS_FSDATA_BLOCKED for it).
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trio.lowlevel import ParkingLot

from umktls.errors import CallerError, UmktlsError
from umktls.nfs.types import diropargs3, nfsstat3
from umktls.rpc.message import OpaqueAuth

from .attributes import AttributeCache
from .calls import Calls, NfsFailure
from .inodes import Inode, SillyName
from .kernelcache import KernelCache
from .knownnames import KnownNames

__all__ = ["SillyRenames"]

log = logging.getLogger(__name__)

_NO_LINKS = (nfsstat3.NFS3ERR_NOTSUPP, nfsstat3.NFS3ERR_MLINK, nfsstat3.NFS3ERR_PERM)
_GONE = (nfsstat3.NFS3ERR_STALE, nfsstat3.NFS3ERR_NOENT)


class SillyRenames:
    """Gives and removes the names. start: starts a background task."""

    def __init__(
        self,
        calls: Calls,
        attributes: AttributeCache,
        known: KnownNames,
        kernel: KernelCache,
        start: Callable[..., Any],
    ) -> None:
        self._calls = calls
        self._known = known
        self._attributes = attributes
        self._kernel = kernel
        self._start = start
        self._more: dict[Inode, list[SillyName]] = {}  # that files have too, or may have
        # Removals under way: of files by their number, of these names by their directory's.
        self._removing: dict[int, int] = {}
        self._removed = ParkingLot()

    def refuse(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """CallerError EBUSY if the name is the only one that keeps an open file alive."""
        silly = inode.silly
        if silly is not None and silly.parent is parent and silly.name == name:
            raise CallerError(f"{name!r} keeps an open file alive", errno.EBUSY)

    def wanted(self, inode: Inode | None) -> bool:
        """Whether a file must be kept when its name goes."""
        return inode is not None and inode.opens > 0 and inode.silly is None

    async def rename(
        self, inode: Inode, parent: Inode, name: bytes, credential: OpaqueAuth
    ) -> None:
        """Instead of removing `name`."""
        silly = _silly_name(inode, parent, credential)
        self._known.expect(parent, silly.name)
        started = self._attributes.stamp()
        source, target = diropargs3(parent.handle, name), diropargs3(parent.handle, silly.name)
        with self._giving(inode, silly):
            result = await self._calls.rename(source, target, credential)
        self._known.changed(parent, result.todir_wcc, started, gone=name)
        # The kernel takes a link off its own count, and the server has as many as before.
        self._kernel.drop_attributes(inode)
        self._has(inode, silly)

    async def keep(self, inode: Inode, parent: Inode, name: bytes, credential: OpaqueAuth) -> bool:
        """Before `name` is replaced; whether there was anything to keep. Others may have removed
        the file, and then nothing can."""
        try:
            await self._link(inode, parent, name, credential)
        except NfsFailure as failure:
            if failure.status in _GONE:
                return False
            raise
        return True

    async def _link(self, inode: Inode, parent: Inode, name: bytes, credential: OpaqueAuth) -> None:
        silly = _silly_name(inode, parent, credential)
        self._known.expect(parent, silly.name)
        started = self._attributes.stamp()
        try:
            with self._giving(inode, silly):
                result = await self._calls.link(inode.handle, parent.handle, silly.name, credential)
        except NfsFailure as failure:
            if failure.status not in _NO_LINKS:
                raise
            await self.rename(inode, parent, name, credential)
        else:
            self._known.changed(parent, result.linkdir_wcc, started)
            self._has(inode, silly)

    @contextmanager
    def _giving(self, inode: Inode, silly: SillyName) -> Iterator[None]:
        """Inside the block the server is asked to give a file this name."""
        try:
            yield
        except NfsFailure:
            raise
        except BaseException:
            self._more.setdefault(inode, []).append(silly)
            if not inode.opens:
                self.remove_behind(inode)
            raise

    def _has(self, inode: Inode, silly: SillyName) -> None:
        """The file has this name by now."""
        if inode.silly is None:
            inode.silly = silly
        else:
            self._more.setdefault(inode, []).append(silly)
        if not inode.opens:
            self.remove_behind(inode)

    def remove_behind(self, inode: Inode) -> None:
        """The same as `remove` where whoever asks may be killed."""
        for silly, sure in self._taken(inode):
            self._start(self._remove, inode, silly, sure)

    async def remove(self, inode: Inode) -> None:
        """The file is closed: remove its name. Failures are logged, nobody is there to be told."""
        if inode.silly is not None or self._more:
            for silly, sure in self._taken(inode):
                await self._remove(inode, silly, sure)

    def _taken(self, inode: Inode) -> list[tuple[SillyName, bool]]:
        """The names to be removed, and whether they are there: `_remove` has to be called."""
        names = [(silly, False) for silly in self._more.pop(inode, [])]
        if inode.silly is not None:
            names.append((inode.silly, True))
            inode.silly = None
        for silly, _ in names:
            self._begins(silly.parent.number)
        return names

    def _begins(self, number: int) -> None:
        self._removing[number] = self._removing.get(number, 0) + 1

    def _ends(self, number: int) -> None:
        self._removing[number] -= 1
        if not self._removing[number]:
            del self._removing[number]
        self._removed.unpark_all()

    @contextmanager
    def going(self, inode: Inode | None) -> Iterator[None]:
        """Inside the block a name of this file is removed, which may be its last."""
        if inode is None:
            yield
            return
        self._begins(inode.number)
        try:
            yield
        finally:
            self._ends(inode.number)

    async def _remove(self, inode: Inode, silly: SillyName, sure: bool) -> None:
        try:
            started = self._attributes.stamp()
            result = await self._calls.remove(silly.parent.handle, silly.name, silly.credential)
            self._known.changed(silly.parent, result.dir_wcc, started, gone=silly.name)
            self._attributes.expire(inode)  # it may have other names
            if inode.lookups:
                self._kernel.drop_attributes(inode)
        except UmktlsError as error:
            if not sure and error.errno == errno.ENOENT:
                return
            log.warning("%r stays on the server: %s", silly.name, error)
        finally:
            self._ends(silly.parent.number)

    async def settle(self, inode: Inode | None) -> None:
        """Wait for removals under way: in a directory that is to be removed itself, or of a file
        that is to be opened."""
        while inode is not None and inode.number in self._removing:
            await self._removed.park()


def _silly_name(inode: Inode, parent: Inode, credential: OpaqueAuth) -> SillyName:
    """No file has this name: 64 of its bits are random."""
    name = f".nfs{inode.number:016x}{secrets.token_hex(8)}"
    return SillyName(parent, name.encode(), credential)
