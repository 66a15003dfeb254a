"""Tasks that use a mount at the same time, as a kernel lets them, with a server that does and
answers calls in any order (disorder.py). Who asks may be killed.

Where there is one mount, and nobody is killed, each answer has to be true that nothing has changed
under: what a name leads to, a list of names, bytes, attributes, permissions.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

import trio
from pyfuse3 import EntryAttributes, FUSEError
from umktls_fs.inodes import FIRST_SPARE

from tests.fs.changing import fields
from tests.fs.disorder import Disorder
from tests.fs.inodelock import InodeLock
from tests.fs.world import ROOT, Listing, Somebody, World

__all__ = ["Crowd", "Manner"]

T = TypeVar("T")

DIRECTORY = "directory"
MOST_BYTES = 50_000
WHATS = (
    *("look", "list", "unlink", "rename", "link", "getattr", "access", "chmod", "truncate"),
    *("write", "read", "resize_opened", "fsync", "flush"),
)
ALWAYS = ("open", "create", "close")
OPENS = (
    *(os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY | os.O_DIRECT),
    os.O_RDWR | os.O_TRUNC,
)
STRANGER = Somebody(uid=4711, gid=4711, pid=5)


class Manner(NamedTuple):
    """How a seed plays. whats: what tasks do; where that is little, it meets more often. failing,
    killed: how many of the calls, and of the requests. standing: the server's clock stands still.
    """

    mounts: int
    tasks: int
    steps: int
    names: int
    whats: tuple[str, ...]
    failing: float
    killed: float
    wcc: bool
    standing: bool
    jumping: bool

    @classmethod
    def drawn(cls, chance: Random) -> Manner:
        mounts = chance.choice((1, 1, 1, 2))
        return cls(
            mounts=mounts,
            tasks=chance.choice((2, 4, 8)),
            steps=chance.choice((20, 60)),
            names=chance.choice((1, 2, 3, 12)),
            whats=(*ALWAYS, *chance.sample(WHATS, chance.choice((2, 4, 7, len(WHATS))))),
            failing=chance.choice((0, 0, 0.03)),
            killed=chance.choice((0, 0, 0.1)),
            wcc=chance.random() < 0.8,
            standing=mounts == 1 and chance.random() < 0.5,
            jumping=chance.random() < 0.25,
        )


@dataclass
class Opened:
    """users: requests that are under way. FUSE releases nothing before these have ended."""

    fh: int
    number: int
    flags: int
    users: int = 0

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @contextmanager
    def used(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1


class Crowd:
    """Tasks, the kernel below them and the mount below that, and what has to be true."""

    def __init__(self, world: World, chance: Random, manner: Manner) -> None:
        self.world, self.ops, self.chance = world, world.ops, chance
        self.sure = manner.mounts == 1 and not manner.killed
        self.exact = self.sure and not manner.failing  # as to what is in files
        self.killed = manner.killed
        self.whats = manner.whats
        self.server = Disorder(
            world.caller,
            chance,
            failing=manner.failing,
            wcc=manner.wcc,
            jumping=manner.jumping,
        )
        self.names = [b"name%d" % number for number in range(manner.names)]
        self.directories = [ROOT]
        self.opened: list[Opened] = []
        self.contents: dict[int, bytes] = defaultdict(bytes)  # by inode number
        self._locks: dict[int, InodeLock] = defaultdict(InodeLock)
        self._begun: dict[int, int] = defaultdict(int)  # changes of a file
        self._going: dict[int, int] = defaultdict(int)  # those that have not ended

    async def begin(self) -> None:
        self.directories.append(await self.world.number(DIRECTORY))

    async def task(self, steps: int) -> None:
        for _ in range(steps):
            await getattr(self, f"_{self.chance.choice(self.whats)}")()
            await self.server.pause()

    async def close_all(self) -> None:
        """At the end: from here on no call fails, and nobody is killed."""
        self.server.failing = self.killed = 0.0
        while self.opened:
            await self._close()

    # ---- what the kernel sees to

    async def asked(self, request: Awaitable[T]) -> T | FUSEError:
        """A request, or how it fails. Who asks may be killed meanwhile."""
        with trio.CancelScope() as scope:
            if self.chance.random() < self.killed:
                self.world.nursery.start_soon(self._kill, scope)
            try:
                return await request
            except FUSEError as error:
                return error
        return FUSEError(errno.EINTR)

    async def _kill(self, scope: trio.CancelScope) -> None:
        for _ in range(self.chance.randrange(1, 25)):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    @contextmanager
    def _changing(self, *numbers: int) -> Iterator[None]:
        for number in numbers:
            self._begun[number] += 1
            self._going[number] += 1
        try:
            yield
        finally:
            for number in numbers:
                self._going[number] -= 1

    def _steadily(self, number: int) -> Callable[[], bool]:
        """Tells later whether nothing was changing the file from now on."""
        begun, quiet = self._begun[number], not self._going[number]
        return lambda: quiet and self._begun[number] == begun and number < FIRST_SPARE

    # ---- names

    def path(self, directory: int) -> Path:
        return self.world.export if directory == ROOT else self.world.export / DIRECTORY

    def _drawn(self) -> tuple[int, bytes]:
        return self.chance.choice(self.directories), self.chance.choice(self.names)

    def names_in(self, directory: int) -> dict[str, int]:
        """What is there, with inode numbers."""
        with os.scandir(self.path(directory)) as entries:
            return {
                entry.name: entry.inode()
                for entry in entries
                if entry.is_file() and not entry.name.startswith(".nfs")
            }

    async def found(self, directory: int, name: bytes) -> int:
        """The inode number of a name, 0 where there is none."""
        async with self._locks[directory].shared():
            return await self._looked_up(directory, name) or 0

    async def _looked_up(self, directory: int, name: bytes) -> int | None:
        """None where the server does not say. Who asks has the directory; he asks once more where
        the first answer was about a file that is gone, as Linux does."""
        answer = await self.asked(self.ops.lookup(directory, name, self.world.ctx))
        if isinstance(answer, FUSEError) and answer.errno == errno.ESTALE:
            answer = await self.asked(self.ops.lookup(directory, name, self.world.ctx))
        if isinstance(answer, FUSEError) and answer.errno != errno.ENOENT:
            return None
        number = 0 if isinstance(answer, FUSEError) else answer.st_ino
        if self.sure and number < FIRST_SPARE:
            assert number == self.names_in(directory).get(name.decode(), 0), name
        return number

    async def _look(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await self.found(*self._drawn())

    async def _list(self) -> None:
        directory, _ = self._drawn()
        self.world.foretold.listing = self.chance.random() < 0.5
        async with self._locks[directory].shared():
            fh = await self.asked(self.ops.opendir(directory, self.world.ctx))
            if isinstance(fh, FUSEError):
                return
            names = await self._listed(fh)
            await self.ops.releasedir(fh)
            if self.sure and names is not None:
                assert sorted(names) == sorted(
                    [*self.names_in(directory), *self._beside(directory)]
                )

    def _beside(self, directory: int) -> list[str]:
        return [DIRECTORY] if directory == ROOT else []

    async def _listed(self, fh: int) -> list[str] | None:
        names: list[str] = []
        place = 0
        while True:
            listing = Listing(self.chance.choice((1, 3, 100)))
            if isinstance(await self.asked(self.ops.readdir(fh, place, listing.token)), FUSEError):
                return None
            if not listing.entries:
                return [name for name in names if not name.startswith(".nfs")]
            names += [os.fsdecode(name) for name in listing.names]
            place = listing.entries[-1][2]

    async def _create(self) -> None:
        directory, name = self._drawn()
        flags = os.O_RDWR | self.chance.choice((0, os.O_TRUNC, os.O_EXCL))
        async with self._locks[directory].alone():
            if self.chance.random() < 0.5:
                self.world.making.add(name)
            there = await self._looked_up(directory, name)
            self.world.making.discard(name)
            if there != 0:
                return
            made = await self.asked(self.ops.create(directory, name, 0o644, flags, self.world.ctx))
            if not isinstance(made, FUSEError):
                info, entry = made
                self.opened.append(Opened(info.fh, entry.st_ino, flags))
                self.contents[entry.st_ino] = b""

    async def _unlink(self) -> None:
        directory, name = self._drawn()
        async with self._locks[directory].alone():
            number = await self._looked_up(directory, name)
            if number:
                with self._changing(number):
                    await self.asked(self.ops.unlink(directory, name, self.world.ctx))

    async def _rename(self) -> None:
        (directory, name), (other_directory, other) = self._drawn(), self._drawn()
        async with AsyncExitStack() as stack:
            for one in sorted({directory, other_directory}):
                await stack.enter_async_context(self._locks[one].alone())
            number = await self._looked_up(directory, name)
            replaced = await self._looked_up(other_directory, other)
            if not number or replaced is None or replaced == number:
                return
            with self._changing(number, replaced):
                target = other_directory, other
                await self.asked(self.ops.rename(directory, name, *target, 0, self.world.ctx))

    async def _link(self) -> None:
        number = await self.found(*self._drawn())
        if not number:
            return
        directory, name = self._drawn()
        async with self._locks[directory].alone():
            if await self._looked_up(directory, name) == 0:
                with self._changing(number):
                    await self.asked(self.ops.link(number, directory, name, self.world.ctx))

    # ---- attributes

    def _status(self, number: int) -> os.stat_result | None:
        """None while one of its names is a removed one of an open file."""
        found = None
        for directory in self.directories:
            with os.scandir(self.path(directory)) as entries:
                for entry in entries:
                    if entry.inode() == number:
                        if entry.name.startswith(".nfs"):
                            return None
                        found = os.stat(entry.path)
        return found

    async def _getattr(self) -> None:
        number = await self.found(*self._drawn())
        if not number:
            return
        steady, before = self._steadily(number), self._status(number)
        removing = self.server.busy["REMOVE"]  # of a .nfs name, perhaps
        seen = await self.asked(self.ops.getattr(number, self.world.ctx))
        now = self._status(number)
        if isinstance(seen, FUSEError) or not (self.sure and steady() and before and now):
            return
        assert seen.st_mode == now.st_mode
        if not removing and not self.server.busy["REMOVE"]:
            assert seen.st_nlink == now.st_nlink
        if self.exact:
            assert seen.st_size == len(self.contents[number])

    async def _access(self) -> None:
        number = await self.found(*self._drawn())
        if not number:
            return
        wanted = self.chance.choice((os.R_OK, os.W_OK, os.R_OK | os.W_OK))
        steady = self._steadily(number)
        permitted = await self.asked(self.ops.access(number, wanted, STRANGER.ctx))
        now = self._status(number)
        if isinstance(permitted, FUSEError) or not (self.sure and steady() and now):
            return
        assert permitted == (stat.S_IMODE(now.st_mode) & wanted == wanted)

    async def _chmod(self) -> None:
        entry = EntryAttributes()
        entry.st_mode = stat.S_IFREG | self.chance.choice((0o600, 0o644, 0o666))
        number = await self.found(*self._drawn())
        if number:
            async with self._locks[number].alone():
                with self._changing(number):
                    asking = self.ops.setattr(number, entry, fields("mode"), None, self.world.ctx)
                    await self.asked(asking)

    async def _truncate(self) -> None:
        number = await self.found(*self._drawn())
        if number:
            await self._resize(number, None)

    async def _resize(self, number: int, fh: int | None) -> None:
        entry = EntryAttributes()
        entry.st_size = size = self.chance.randrange(MOST_BYTES)
        async with self._locks[number].alone():
            with self._changing(number):
                asking = self.ops.setattr(number, entry, fields("size"), fh, self.world.ctx)
                if not isinstance(await self.asked(asking), FUSEError):
                    self._cut(number, size)

    def _cut(self, number: int, size: int) -> None:
        self.contents[number] = self.contents[number][:size].ljust(size, b"\0")

    # ---- what is open

    async def _open(self) -> None:
        number = await self.found(*self._drawn())
        flags = self.chance.choice(OPENS)
        if not number:
            return
        if not flags & os.O_TRUNC:
            await self._opened(number, flags)
            return
        async with self._locks[number].alone():
            with self._changing(number):
                if await self._opened(number, flags):
                    self._cut(number, 0)

    async def _opened(self, number: int, flags: int) -> bool:
        info = await self.asked(self.ops.open(number, flags, self.world.ctx))
        if isinstance(info, FUSEError):
            return False
        self.opened.append(Opened(info.fh, number, flags))
        return True

    def _drawn_open(self, writable: bool = False) -> Opened | None:
        opened = [one for one in self.opened if one.writable or not writable]
        return self.chance.choice(opened) if opened else None

    async def _write(self) -> None:
        opened = self._drawn_open(writable=True)
        if opened is None:
            return
        number, offset = opened.number, self.chance.randrange(MOST_BYTES)
        length = self.chance.choice((5, 4096, self.chance.randrange(1, 20_000)))
        data = bytes([self.chance.randrange(1, 256)]) * length
        with opened.used():
            async with self._locks[number].alone():
                if opened.flags & os.O_APPEND:  # the kernel knows the end
                    offset = len(self.contents[number])
                with self._changing(number):
                    done = await self.asked(self.ops.write(opened.fh, offset, data))
                    if not isinstance(done, FUSEError):
                        self._put(number, offset, data)

    def _put(self, number: int, offset: int, data: bytes) -> None:
        before = self.contents[number].ljust(offset, b"\0")
        self.contents[number] = before[:offset] + data + before[offset + len(data) :]

    async def _read(self) -> None:
        opened = self._drawn_open()
        if opened is None:
            return
        size = self.chance.choice((1024, 4096))
        offset = self.chance.choice((0, 0, 4096, 8192, self.chance.randrange(MOST_BYTES)))
        with opened.used():
            for _ in range(self.chance.choice((1, 3, 8))):
                steady = self._steadily(opened.number)
                data = await self.asked(self.ops.read(opened.fh, offset, size))
                if self.exact and steady() and not isinstance(data, FUSEError):
                    assert bytes(data) == self.contents[opened.number][offset : offset + size]
                offset += size

    async def _resize_opened(self) -> None:
        opened = self._drawn_open(writable=True)
        if opened is not None:
            with opened.used():
                await self._resize(opened.number, opened.fh)

    async def _fsync(self) -> None:
        opened = self._drawn_open()
        if opened is not None:
            with opened.used():
                await self.asked(self.ops.fsync(opened.fh, False))

    async def _flush(self) -> None:
        opened = self._drawn_open()
        if opened is not None:
            with opened.used():
                await self.asked(self.ops.flush(opened.fh))

    async def _close(self) -> None:
        opened = self._drawn_open()
        if opened is not None and not opened.users:
            self.opened.remove(opened)
            await self.asked(self.ops.flush(opened.fh))
            await self.ops.release(opened.fh)
