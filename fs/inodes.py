"""The inode table: what FUSE calls an inode number, NFS calls a file handle.

Theory of operation. FUSE names a file by a number of our choice and counts how often it was told
that number (lookups); until it has forgotten them all the number must mean the same file. NFS names
a file by a handle of the server's choice. The number is the server's fileid, so that `ls -i`, tar
and rsync see the server's inode numbers, unless that number is taken: by the root, which FUSE wants
to be 1; by a file of another file system below the export; or by a file that is gone and whose
fileid the server has given away again while FUSE still remembers the old one.

Names are kept beside the inodes that they were last seen to lead to. They are needed when a name is
removed (what does its file know that is wrong now? is it open?) and may be out of date, as all that
is known about a server.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pyfuse3 import ROOT_INODE, EntryAttributes

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.xdr import Buffer

from .ahead import Ahead
from .extents import Extent
from .known import Known

__all__ = ["NOTHING", "Granted", "Inode", "InodeTable", "SillyName", "Unstable"]

Name = tuple[int, bytes]  # number of the directory, name in it

# Numbers for files whose fileid is taken; no file system has fileids up there.
FIRST_SPARE = 1 << 63


class Granted(NamedTuple):
    """Answers to ACCESS, by credential; they count until a time, if the file has this version."""

    version: tuple[int, int, int] | None
    until: float
    access: dict[OpaqueAuth, int]


NOTHING = Granted(None, 0.0, {})  # nobody adds anything to this one


class Unstable(Protocol):
    """Written data of a file that is not yet stable on the server; see writer.py."""

    failures: int
    failure: UmktlsError | None

    @property
    def dirty(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    @property
    def small(self) -> bool: ...

    @property
    def end(self) -> int: ...

    def behind(self, offset: int) -> list[Extent]: ...

    async def write(self, offset: int, data: Buffer, credential: OpaqueAuth) -> None: ...

    async def drain(self) -> None: ...

    async def flush(self) -> None: ...


class Inode:
    """A file as this mount knows it. The attribute cache owns the fields from `attributes` on.

    granted: what the server has permitted to whom (ACCESS3_*), of this version.
    updated, shortened: when attributes were learned last, and when such as made the file shorter
    (AttributeCache.stamp). told_size, told_version: what FUSE was told last, or has concluded from
    our answers; told: when. known, distrusted: of a directory, see knownnames.py;
    ahead: see foresight.py. pages: of a directory that is being listed, for each page that is there
    or on its way, the names that this mount has found since it asked for it to lead elsewhere, or
    has forgotten (True), or has removed (False).
    """

    __slots__ = (
        "ahead",
        "attributes",
        "data_version",
        "distrusted",
        "expires",
        "granted",
        "handle",
        "known",
        "lease",
        "lookups",
        "names",
        "number",
        "opens",
        "pages",
        "pages_version",
        "shortened",
        "silly",
        "told",
        "told_size",
        "told_version",
        "updated",
        "version",
        "writer",
    )

    def __init__(self, number: int, handle: bytes) -> None:
        self.number = number
        self.handle = handle
        self.lookups = 0
        self.names: list[Name] = []
        self.opens = 0
        self.silly: SillyName | None = None
        self.writer: Unstable | None = None
        self.known: Known | None = None
        self.ahead: Ahead | None = None
        self.pages: tuple[dict[bytes, bool], ...] = ()
        self.distrusted = 0.0
        self.attributes: EntryAttributes | None = None
        self.expires = 0.0
        self.granted = NOTHING
        self.lease = 0.0
        self.updated = 0
        self.shortened = 0
        self.version: tuple[int, int, int] | None = None
        self.pages_version: tuple[int, int, int] | None = None
        self.data_version = 0
        self.told = 0
        self.told_size: int | None = None
        self.told_version: tuple[int, int, int] | None = None

    @property
    def busy(self) -> bool:
        """Whether this mount still works on the file, whatever FUSE remembers."""
        return bool(self.opens or (self.writer is not None and self.writer.busy))


@dataclass(frozen=True, slots=True)
class SillyName:
    """The name that a removed open file has instead, and who removed it; see silly.py."""

    parent: Inode
    name: bytes
    credential: OpaqueAuth


class InodeTable:
    """All inodes that FUSE may name, by number, by handle and by name."""

    def __init__(self, root: bytes) -> None:
        self.root = Inode(ROOT_INODE, root)
        self._numbers = {ROOT_INODE: self.root}
        self._handles = {root: self.root}
        self._names: dict[Name, Inode] = {}
        self._spare = FIRST_SPARE

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Inode]:
        return iter(self._numbers.values())

    def __getitem__(self, number: int) -> Inode:
        """The inode that FUSE names; CallerError ESTALE for a number that it was not told."""
        try:
            return self._numbers[number]
        except KeyError:
            raise CallerError(f"inode {number} is not known", errno.ESTALE) from None

    def of_handle(self, handle: bytes, fileid: int) -> Inode:
        """The inode of a file handle, made if need be. Its lookups are the caller's to count."""
        inode = self._handles.get(handle)
        if inode is None:
            number = fileid
            if number in self._numbers or not 1 < number < FIRST_SPARE:
                number = self._spare
                self._spare += 1
            inode = self._numbers[number] = self._handles[handle] = Inode(number, handle)
        return inode

    def forget(self, number: int, lookups: int) -> None:
        """FUSE forgets some of the lookups that it was told of."""
        inode = self._numbers.get(number)
        if inode is not None:
            inode.lookups -= lookups
            self.drop_if_unused(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Remove an inode that neither FUSE nor this mount needs any more."""
        if inode.lookups > 0 or inode.busy or inode is self.root:
            return
        if self._numbers.get(inode.number) is not inode:
            return  # it was removed before
        del self._numbers[inode.number]
        del self._handles[inode.handle]
        for name in inode.names:
            if self._names.get(name) is inode:
                del self._names[name]
            parent = self._numbers.get(name[0])
            if parent is not None:
                _touch(parent, name[1])
                for touched in parent.pages:  # which may be older than what was known
                    touched.setdefault(name[1], True)

    def bind(self, parent: Inode, name: bytes, inode: Inode, listed: bool = False) -> None:
        """A name has been seen to lead to an inode. listed: by a page of a listing."""
        _touch(parent, name)
        key = (parent.number, name)
        known = self._names.get(key)
        if known is inode:
            return
        if known is not None:
            known.names.remove(key)
        if not listed:
            for touched in parent.pages:
                touched[name] = True
        self._names[key] = inode
        inode.names.append(key)

    def unbind(self, parent: Inode, name: bytes) -> Inode | None:
        """A name is gone: the inode that it led to, if known."""
        _touch(parent, name)
        for touched in parent.pages:
            touched[name] = False
        key = (parent.number, name)
        inode = self._names.pop(key, None)
        if inode is not None:
            inode.names.remove(key)
        return inode

    def named(self, parent: Inode, name: bytes) -> Inode | None:
        """The inode that a name was last seen to lead to."""
        return self._names.get((parent.number, name))


def _touch(directory: Inode, name: bytes) -> None:
    """What was fetched ahead of a name is not the newest any more."""
    if directory.ahead is not None:
        directory.ahead.touch(name)
