"""A mount without FUSE: the operations are called as pyfuse3 would call them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from pyfuse3 import EntryAttributes, FUSEError, ReaddirToken, RequestContext
from umktls_fs.credentials import Credentials
from umktls_fs.intent import Intent
from umktls_fs.operations import NfsOperations
from umktls_fs.options import MountOptions

from tests.fs.peer import LocalCaller, Proceed
from umktls.rpc.message import OpaqueAuth

ROOT = 1


@dataclass(frozen=True)
class Somebody:
    """What FUSE says of who asks."""

    uid: int = 0
    gid: int = 0
    pid: int = 1
    umask: int = 0o022

    @property
    def ctx(self) -> RequestContext:
        return cast(RequestContext, self)


@dataclass
class Listing:
    """Takes entries as FUSE does, so many at a time."""

    room: int = 1 << 30

    def __post_init__(self) -> None:
        self.entries: list[tuple[bytes, int, int]] = []  # name, inode number, next place

    @property
    def token(self) -> ReaddirToken:
        return cast(ReaddirToken, self)

    @property
    def names(self) -> list[bytes]:
        return [name for name, _, _ in self.entries if name not in (b".", b"..")]


def emit(token: ReaddirToken, name: bytes, attr: EntryAttributes, place: int) -> bool:
    """In the place of pyfuse3.readdir_reply."""
    listing = cast(Listing, token)
    if len(listing.entries) == listing.room:
        return False
    listing.entries.append((name, attr.st_ino, place))
    return True


class Foretold(Intent):
    """In the place of what proc(5) shows: `making` has the names that whoever asks is to make."""

    def __init__(self, making: set[bytes]) -> None:
        self.making = making
        self.removing: set[bytes] = set()
        self.listing = False
        self.reading = False
        self.seen = True

    def will_make(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        return name in self.making

    def will_remove(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        return name in self.removing

    def only_looks(self, pid: int) -> bool:
        return self.seen and not self.making

    def lists(self, pid: int, read_before: bool = True) -> bool:
        return self.listing

    def reads(self, pid: int) -> bool:
        return self.reading


class World:
    """The operations, the server behind them, and the directory behind that. intent: what is known
    of the threads, if not `foretold`."""

    def __init__(
        self,
        top: Path,
        nursery: trio.Nursery,
        options: MountOptions,
        intent: Intent | None = None,
    ) -> None:
        self.export = top / "export"
        self.export.mkdir(exist_ok=True)
        self.caller = LocalCaller(self.export, top / "state")
        self.nursery = nursery
        self.groups: dict[int, tuple[int, ...]] = {}
        self.me = Somebody()
        self.dropped: list[tuple[int, bool]] = []  # what FUSE was told to drop
        self.dropping: Callable[[], object] = lambda: None  # waits in its place while it does
        # Is told what a listing tells FUSE of each name.
        self.listed: Callable[[bytes, EntryAttributes], object] = lambda name, attr: None
        self.making: set[bytes] = set()  # names that whoever asks is about to make
        self.foretold = Foretold(self.making)
        self._options = options
        self._intent = intent or self.foretold
        self.remake()

    def remake(self) -> None:
        """The mount anew: it knows nothing of before."""
        self.ops = NfsOperations(
            self.caller,
            self._options,
            self.nursery.start_soon,
            credentials=Credentials(trio.current_time, lambda pid: self.groups.get(pid, ())),
            emit=self._emit,
            invalidate=self._invalidate,
            intent=self._intent,
        )

    @property
    def ctx(self) -> RequestContext:
        return self.me.ctx

    def _emit(self, token: ReaddirToken, name: bytes, attr: EntryAttributes, place: int) -> bool:
        taken = emit(token, name, attr, place)
        if taken:
            self.listed(name, attr)
        return taken

    def _invalidate(self, number: int, attributes_only: bool) -> None:
        """In the place of pyfuse3.invalidate_inode."""
        self.dropping()
        self.dropped.append((number, attributes_only))

    async def lookup(self, name: str, parent: int = ROOT) -> EntryAttributes:
        return await self.ops.lookup(parent, os.fsencode(name), self.ctx)

    async def number(self, name: str) -> int:
        """The inode number of a name in the root."""
        return (await self.lookup(name)).st_ino

    async def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        return (await self.ops.open(await self.number(name), flags, self.ctx)).fh

    async def create(self, name: str, flags: int = os.O_RDWR | os.O_TRUNC) -> int:
        info, _ = await self.ops.create(ROOT, os.fsencode(name), 0o644, flags, self.ctx)
        return info.fh

    async def close(self, fh: int) -> None:
        await self.ops.flush(fh)
        await self.ops.release(fh)

    async def listdir(self, number: int = ROOT, room: int = 1 << 30) -> list[bytes]:
        """All names, read `room` entries at a time."""
        fh = await self.ops.opendir(number, self.ctx)
        names: list[bytes] = []
        place = 0
        while True:
            listing = Listing(room)
            await self.ops.readdir(fh, place, listing.token)
            if not listing.entries:
                break
            names += listing.names
            place = listing.entries[-1][2]
        await self.ops.releasedir(fh)
        return sorted(names)


async def fails(awaitable: Awaitable[Any]) -> int:
    """The errno with which a request fails."""
    with pytest.raises(FUSEError) as caught:
        await awaitable
    return caught.value.errno


class Answering:
    """A procedure that is done at once, and answered when it may be."""

    def __init__(self, world: World, name: str) -> None:
        self.may = trio.Event()
        world.caller.between[name] = self.between

    async def between(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result = await proceed(args)
        await self.may.wait()
        return result
