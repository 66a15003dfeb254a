"""The files of a server by their paths, without a mount: names are looked up, links followed here.

Paths are bytes, and begin at the export's root. What a server says is not believed where it would
lead out of a directory: a name in a listing with a slash in it, `.` or `..` is refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.nfs.types import (
    READDIR3args,
    READDIRPLUS3args,
    entryplus3,
    fattr3,
    ftype3,
    nfsstat3,
    nfstime3,
)
from umktls.rpc.message import OpaqueAuth

from .calls import Calls, NfsFailure
from .together import together

__all__ = [
    "KINDS",
    "Failed",
    "Node",
    "Tree",
    "is_silence",
    "joined",
    "nanoseconds",
    "naming",
    "shown",
]

MOST_LINKS = 40  # as Linux has it (path_resolution(7))
MOST_DEPTH = 150  # directories in each other that are walked through, each in the call of the last
REPLY_BYTES = 128 << 10
LEAST_REPLY_BYTES = 8 << 10
LOOKUPS_AT_ONCE = 32
KINDS = {
    ftype3.NF3REG: "file",
    ftype3.NF3DIR: "directory",
    ftype3.NF3BLK: "block device",
    ftype3.NF3CHR: "character device",
    ftype3.NF3LNK: "link",
    ftype3.NF3SOCK: "socket",
    ftype3.NF3FIFO: "FIFO",
}

# Told of what could not be had, and why; the rest is gone on with.
Failed = Callable[[UmktlsError], None]


@dataclass(frozen=True, slots=True)
class Node:
    """A file: where it was found, its handle, and its attributes then."""

    path: bytes
    handle: bytes
    attributes: fattr3

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def kind(self) -> ftype3:
        return self.attributes.type

    @property
    def is_directory(self) -> bool:
        return self.kind is ftype3.NF3DIR

    @property
    def is_file(self) -> bool:
        return self.kind is ftype3.NF3REG

    @property
    def is_link(self) -> bool:
        return self.kind is ftype3.NF3LNK


class Tree:
    """An export as one user sees it. `export` is its own path on the server: messages name files
    by it, and absolute links are meant from there. `plus`: list by READDIRPLUS."""

    def __init__(
        self, calls: Calls, credential: OpaqueAuth, export: bytes = b"/", *, plus: bool = True
    ) -> None:
        self.calls = calls
        self.credential = credential
        self._export = export.rstrip(b"/")
        self._plus = plus

    def named(self, path: bytes) -> str:
        """A path as the server has it, for people."""
        return shown(self._export + path)

    async def root(self) -> Node:
        handle = self.calls.root
        return Node(b"/", handle, await self.calls.getattr(handle, self.credential))

    async def child(self, directory: Node, name: bytes) -> Node:
        """What is called so there. Raises `UmktlsError` with the path."""
        with naming(self.named(joined(directory.path, name))):
            return await self._look(directory, name)

    async def child_if_there(self, directory: Node, name: bytes) -> Node | None:
        """The same; None where there is none."""
        try:
            return await self.child(directory, name)
        except UmktlsError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    async def _look(self, directory: Node, name: bytes) -> Node:
        found = await self.calls.lookup(directory.handle, name, self.credential)
        attributes = found.obj_attributes
        if attributes is None:
            attributes = await self.calls.getattr(found.object, self.credential)
        return Node(joined(directory.path, name), found.object, attributes)

    async def find(self, path: bytes, *, follow: bool = True) -> Node:
        """The file at a path. `follow`: what a symbolic link at its end leads to, and not itself; a
        slash behind it has it followed too (path_resolution(7)).

        Raises `UmktlsError` with the path.
        """
        way, links = [await self.root()], 0
        names = parts(path)
        follow = follow or path.endswith(b"/")
        while names:
            name = names.pop(0)
            if name == b"..":
                way = way[:-1] or way
                continue
            here = await self._step(way[-1], name, path)
            if not here.is_link or not (names or follow):
                way.append(here)
                continue
            links += 1
            if links > MOST_LINKS:
                text = f"{self.named(path)}: more than {MOST_LINKS} links"
                raise CallerError(text, errno.ELOOP)
            target = await self.target(here)
            if target.startswith(b"/"):
                target, way = self._inside(target, path), way[:1]
            names = parts(target) + names
        if path.endswith(b"/") and not way[-1].is_directory:
            raise CallerError(f"{self.named(path)}: {os.strerror(errno.ENOTDIR)}", errno.ENOTDIR)
        return way[-1]

    async def _step(self, directory: Node, name: bytes, path: bytes) -> Node:
        """One name of a path; errors name the whole path, as those of system calls do."""
        with naming(self.named(path)):
            return await self._look(directory, name)

    def _inside(self, target: bytes, path: bytes) -> bytes:
        """An absolute link's target below the export's root."""
        if target == self._export or target.startswith(self._export + b"/"):
            return target[len(self._export) :]
        raise CallerError(
            f"{self.named(path)}: a link there leads to {shown(target)}, out of the export",
            errno.EXDEV,
        )

    async def target(self, link: Node) -> bytes:
        """What a symbolic link says."""
        with naming(self.named(link.path)):
            return bytes((await self.calls.readlink(link.handle, self.credential)).data)

    async def there(self, path: bytes, *, follow: bool = True) -> Node | None:
        """The file at a path; None where there is none."""
        try:
            return await self.find(path, follow=follow)
        except UmktlsError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    async def parent(self, path: bytes) -> tuple[Node, bytes]:
        """The directory that a path's last name is in, and that name. Raises `CallerError` for the
        export's root, which has none here."""
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        if not name:
            raise CallerError(f"{self.named(b'/')} is an export, and has no name in a directory")
        directory = await self.find(above + b"/")
        return directory, name

    def check_depth(self, directory: Node) -> None:
        """Raises `PeerError` ELOOP for one that lies too deep: servers have had directories that
        contain themselves."""
        if directory.path.count(b"/") > MOST_DEPTH:
            raise PeerError(
                f"{self.named(directory.path)}: more than {MOST_DEPTH} directories in each other; "
                "is one in itself? name an inner one to go on there",
                errno.ELOOP,
            )

    async def entries(self, directory: Node, failed: Failed) -> AsyncGenerator[Node, None]:
        """What is in a directory, in the server's order.

        failed: told of entries of which there is nothing but a name. Raises `UmktlsError`, also
        for names that are none, for a listing that goes round, and as `check_depth`.
        """
        self.check_depth(directory)
        path, cookie, verifier, seen = self.named(directory.path), 0, bytes(8), set[int]()
        while True:
            with naming(path):
                listed, verifier, eof = await self._page(directory, cookie, verifier)
            for entry in listed:
                if entry.cookie in seen:
                    raise PeerError(f"{path}: the server's listing goes round", errno.ELOOP)
                seen.add(entry.cookie)
                cookie = entry.cookie
                if not entry.name or b"/" in entry.name or b"\0" in entry.name:
                    raise PeerError(f"{path} has a name that is none: {entry.name!r}")
            for node in await self._nodes(directory, listed, failed):
                yield node
            if eof:
                return
            if not listed:
                raise PeerError(f"{path}: the server's listing does not end")

    async def _page(
        self, directory: Node, cookie: int, verifier: bytes
    ) -> tuple[list[entryplus3], bytes, bool]:
        """One call's entries, the verifier for the next, and whether these are the last."""
        size = max(LEAST_REPLY_BYTES, min(self.calls.fsinfo.dtpref, REPLY_BYTES))
        if self._plus:
            wanted = READDIRPLUS3args(directory.handle, cookie, verifier, size // 4, size)
            try:
                full = await self.calls.readdirplus(wanted, self.credential)
                return full.reply.entries, full.cookieverf, full.reply.eof
            except NfsFailure as error:
                if cookie or error.status is not nfsstat3.NFS3ERR_NOTSUPP:
                    raise
                self._plus = False
        args = READDIR3args(directory.handle, cookie, verifier, size)
        names = await self.calls.readdir(args, self.credential)
        bare = [
            entryplus3(one.fileid, one.name, one.cookie, None, None) for one in names.reply.entries
        ]
        return bare, names.cookieverf, names.reply.eof

    async def _nodes(self, directory: Node, listed: list[entryplus3], failed: Failed) -> list[Node]:
        """The entries with what the listing said of them, or LOOKUP does; in their order."""
        found: dict[bytes, Node] = {}
        limit = trio.CapacityLimiter(LOOKUPS_AT_ONCE)

        async def look(name: bytes) -> None:
            try:
                async with limit:
                    found[name] = await self.child(directory, name)
            except UmktlsError as error:
                if error.errno != errno.ENOENT:  # removed meanwhile
                    failed(error)

        async with together() as nursery:
            for entry in listed:
                if entry.name in (b".", b".."):
                    continue
                if entry.name_handle is None or entry.name_attributes is None:
                    nursery.start_soon(look, entry.name)
                    continue
                path = joined(directory.path, entry.name)
                found[entry.name] = Node(path, entry.name_handle, entry.name_attributes)
        return [found[entry.name] for entry in listed if entry.name in found]


def is_silence(error: UmktlsError) -> bool:
    """Whether a server did not answer in time: then what comes next would wait as long."""
    return error.errno == errno.ETIMEDOUT


@contextmanager
def naming(what: str) -> Iterator[None]:
    """What a server refuses inside the block is told as of this file."""
    try:
        yield
    except NfsFailure as error:
        raise WorldError(f"{what}: {error.strerror}", error.errno) from error


def parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def joined(directory: bytes, name: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + name


def shown(path: bytes) -> str:
    return os.fsdecode(path) or "/"


def nanoseconds(when: nfstime3) -> int:
    """Since 1970."""
    return when.seconds * 10**9 + when.nseconds
