"""What Linux does above a mount: it locks, walks, remembers directories, forgets files; and whoever
waits for it may be killed. What it is told has to be true."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import trio
from pyfuse3 import EntryAttributes, FUSEError
from umktls_fs.inodes import FIRST_SPARE

from tests.fs.disorder import Disorder
from tests.fs.inodelock import InodeLock
from tests.fs.manner import Manner
from tests.fs.thoughts import NOTHING, Thought, Thoughts
from tests.fs.truth import Truth
from tests.fs.world import ROOT, World

__all__ = ["LOOKS", "MOST_BYTES", "Kernel", "Opened"]

T = TypeVar("T")

MOST_BYTES = 50_000
LOOKS = Thought(looks=True)
SEEN = 0.7  # so often it is to be seen what a thread is about to do
UNTOLD = ("LOOKUP", "CREATE", "LINK", "SETATTR")  # calls whose file the kernel may not know yet


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


class Kernel:
    """Of one mount.

    directories: those that it knows, by number. kinds: of files, as stat.S_IFMT has them.
    """

    def __init__(
        self, world: World, mind: Thoughts, chance: Random, manner: Manner, truth: Truth
    ) -> None:
        self.world, self.ops, self.mind = world, world.ops, mind
        self.chance, self.manner, self.truth = chance, manner, truth
        self.killed = manner.killed
        self.server = Disorder(
            world.caller,
            chance,
            failing=manner.failing,
            wcc=manner.wcc,
            jumping=manner.jumping,
            busy=truth.busy,
            made=truth.made,
        )
        self.names = [b"name%d" % number for number in range(manner.names)]
        self.directories = [ROOT]
        self.kinds = {ROOT: stat.S_IFDIR}
        self.opened: list[Opened] = []
        self.contents = truth.contents
        # Where nothing is remembered, what is done on one mount has to be seen on all.
        self.locks = truth.locks if manner.uncached else defaultdict(InodeLock)
        self.tree = truth.tree if manner.uncached else InodeLock()
        self._in_use = Counter[int]()
        world.listed = self._listed

    @property
    def sure(self) -> bool:
        """Whether names and attributes have to be true."""
        return self.manner.sure and not self.truth.blurred

    @property
    def exact(self) -> bool:
        """Whether it is known what is in files."""
        return self.manner.exact and not self.truth.blurred

    async def asked(
        self, request: Awaitable[T], number: int = 0, seen: Thought = NOTHING
    ) -> T | FUSEError:
        """A request about a file, or how it fails. Who asks may be killed meanwhile."""
        if self.chance.random() >= SEEN:
            seen = NOTHING
        with trio.CancelScope() as scope, self.mind.of(seen), self._using(number):
            if self.chance.random() < self.killed:
                self.world.nursery.start_soon(self._kill, scope)
            try:
                return await request
            except FUSEError as error:
                return error
        return FUSEError(errno.EINTR)

    @contextmanager
    def _using(self, number: int) -> Iterator[None]:
        self._in_use[number] += 1
        try:
            yield
        finally:
            self._in_use[number] -= 1

    async def _kill(self, scope: trio.CancelScope) -> None:
        for _ in range(self.chance.randrange(1, 25)):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    # ---- names

    def path(self, directory: int) -> Path | None:
        """Where it is by now; None: nowhere."""
        if directory == ROOT:
            return self.world.export
        for top, names, _ in os.walk(self.world.export):
            for name in names:
                found = Path(top, name)
                if found.stat().st_ino == directory:
                    return found
        return None

    def lineage(self, directory: int) -> list[int]:
        """The numbers of a directory and those that it is in."""
        path, found = self.path(directory), []
        while path is not None and path != self.world.export:
            found.append(path.stat().st_ino)
            path = path.parent
        return [*found, ROOT] if path is not None else []

    def drawn(self) -> tuple[int, bytes]:
        directory = self.chance.choice(self.directories)
        if self.path(directory) is None:
            self.directories.remove(directory)
            directory = ROOT
        return directory, self.chance.choice(self.names)

    def names_in(self, directory: int) -> dict[str, int]:
        """What is there, with inode numbers."""
        path = self.path(directory)
        if path is None:
            return {}
        with os.scandir(path) as entries:
            return {e.name: e.inode() for e in entries if not e.name.startswith(".nfs")}

    async def found(
        self,
        directory: int,
        name: bytes,
        seen: Thought = LOOKS,
        kind: int = stat.S_IFREG,
    ) -> int:
        """The inode number of a name, 0 where there is no such file."""
        async with self.locks[directory].shared():
            number = await self.looked_up(directory, name, seen) or 0
        return number if self.kinds.get(number) == kind else 0

    def is_directory(self, number: int) -> bool:
        return self.kinds.get(number) == stat.S_IFDIR

    async def looked_up(self, directory: int, name: bytes, seen: Thought) -> int | None:
        """None where the server does not say. Who asks has the directory; he asks once more where
        the first answer was about a file that is gone, as Linux does."""
        answer = await self.asked(self.ops.lookup(directory, name, self.mind.ctx), seen=seen)
        if isinstance(answer, FUSEError) and answer.errno == errno.ESTALE:
            answer = await self.asked(self.ops.lookup(directory, name, self.mind.ctx), seen=seen)
        if isinstance(answer, FUSEError) and answer.errno != errno.ENOENT:
            return None
        number = 0 if isinstance(answer, FUSEError) else answer.st_ino
        if isinstance(answer, EntryAttributes):
            self.told(answer)
        if directory not in self.directories:
            return None
        if self.sure and number < FIRST_SPARE:
            assert number == self.names_in(directory).get(name.decode(), 0), name
        return number

    def _listed(self, name: bytes, entry: EntryAttributes) -> None:
        if entry.st_mode and stat.S_ISREG(entry.st_mode):
            self.told(entry)

    def told(self, entry: EntryAttributes) -> None:
        """The mount tells of a file, and what may be believed of it."""
        number = entry.st_ino
        if not number:
            return
        self.kinds[number] = stat.S_IFMT(entry.st_mode)
        if number >= FIRST_SPARE:
            self.truth.blurred = self.truth.blurred or self.manner.mounts > 1
            return
        if self.is_directory(number) and number not in self.directories:
            self.directories.append(number)
        if self.manner.uncached:
            assert entry.attr_timeout == entry.entry_timeout == 0
        alone = self.manner.mounts == 1 and self.sure
        if alone and entry.attr_timeout and stat.S_ISREG(entry.st_mode):
            self._believed(entry)

    def _believed(self, entry: EntryAttributes) -> None:
        now = self.status(entry.st_ino)
        if now is None or not self.truth.steadily(entry.st_ino)():
            return
        assert entry.st_mode == now.st_mode
        if self.truth.unremoved()():
            assert entry.st_nlink == now.st_nlink
        if self.exact:
            assert entry.st_size == len(self.contents[entry.st_ino])

    # ---- attributes

    def status(self, number: int) -> os.stat_result | None:
        """None while one of its names is a removed one of an open file."""
        found = None
        for top, _, names in os.walk(self.world.export):
            for name in names:
                status = os.lstat(os.path.join(top, name))
                if status.st_ino == number:
                    if name.startswith(".nfs"):
                        return None
                    found = status
        return found

    async def _forget(self) -> None:
        """The kernel needs memory."""
        if any(self.server.busy[name] for name in UNTOLD):
            return
        opened = {one.number for one in self.opened}
        for inode in list(self.ops.inodes):
            number = inode.number
            needed = number in opened or self.is_directory(number) or self._in_use[number]
            if needed or inode.lookups <= 0 or not self.truth.steadily(number)():
                continue
            if self.chance.random() < 0.5:
                await self.ops.forget([(number, inode.lookups)])
