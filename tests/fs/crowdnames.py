"""What tasks do with names and directories."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from tests.fs.crowdkernel import Kernel, Opened
from tests.fs.thoughts import Thought
from tests.fs.world import Listing

__all__ = ["Names"]

MOST_DIRECTORIES = 8
FIFO = stat.S_IFIFO | 0o644


class Names(Kernel):
    """Each is drawn and done by a task."""

    async def _look(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await self.found(*self.drawn())

    async def _list(self) -> None:
        """With seekdir(3) now and then."""
        directory, _ = self.drawn()
        unnamed = self.truth.unnamed(directory)
        asking = self.ops.opendir(directory, self.mind.ctx)
        fh = await self.asked(asking, seen=Thought(lists=True))
        if isinstance(fh, FUSEError):
            return
        names, places, place = list[str](), [(0, 0)], 0
        while (listing := await self._listed_from(directory, fh, place)) is not None:
            if not listing.entries:
                self._is_all(directory, names, unnamed)
                break
            names += [os.fsdecode(name) for name in listing.names]
            places.append((listing.entries[-1][2], len(names)))
            if self.chance.random() < 0.1:
                del places[self.chance.randrange(len(places)) + 1 :]
            place, count = places[-1]
            del names[count:]
            if place == 0:
                unnamed = self.truth.unnamed(directory)
            await self.server.pause()
        await self.ops.releasedir(fh)

    async def _listed_from(self, directory: int, fh: int, place: int) -> Listing | None:
        listing = Listing(self.chance.choice((1, 3, 100)))
        async with self.locks[directory].shared():
            done = await self.asked(self.ops.readdir(fh, place, listing.token))
            there = directory in self.directories
        return None if isinstance(done, FUSEError) or not there else listing

    def _is_all(self, directory: int, names: list[str], unnamed: Callable[[bytes], bool]) -> None:
        there = self.names_in(directory)
        for name in map(os.fsdecode, self.names):
            if self.sure and unnamed(name.encode()):
                assert names.count(name) == (name in there), name

    async def _create(self) -> None:
        directory, name = self.drawn()
        flags = os.O_RDWR | self.chance.choice((0, os.O_TRUNC, os.O_EXCL))
        async with self.locks[directory].alone():
            made = await self._created(directory, name, flags)
            if isinstance(made, FUSEError) and made.errno == errno.ESTALE:  # the VFS walks again
                made = await self._created(directory, name, flags)
                assert not (
                    self.sure and isinstance(made, FUSEError) and made.errno == errno.ESTALE
                )
            if made is not None and not isinstance(made, FUSEError):
                info, entry = made
                self.contents[entry.st_ino] = b""
                self.told(entry)
                self.opened.append(Opened(info.fh, entry.st_ino, flags))

    async def _created(
        self, directory: int, name: bytes, flags: int
    ) -> tuple[FileInfo, EntryAttributes] | FUSEError | None:
        """None where something is there."""
        making = Thought(makes=name)
        if await self.looked_up(directory, name, making) != 0:
            return None
        with self.truth.naming((directory, name)), self.truth.changing(directory):
            asking = self.ops.create(directory, name, 0o644, flags, self.mind.ctx)
            return await self.asked(asking, seen=making)

    async def _unlink(self) -> None:
        directory, name = self.drawn()
        async with self.locks[directory].alone():
            number = await self.looked_up(directory, name, Thought(removes=name, looks=True))
            if number and not self.is_directory(number):
                with self.truth.changing(number, directory), self.truth.naming((directory, name)):
                    await self.asked(self.ops.unlink(directory, name, self.mind.ctx))

    async def _rename(self) -> None:
        old, new = self.drawn(), self.drawn()
        async with AsyncExitStack() as stack:
            both = await self._alone_in(stack, old[0], new[0])
            making = Thought(makes=new[1] if new[1] != old[1] else b"")
            number = await self.looked_up(*old, making)
            replaced = await self.looked_up(*new, making)
            if not number or replaced is None or replaced == number:
                return
            if replaced and self.is_directory(number) != self.is_directory(replaced):
                return
            if self.is_directory(number):
                if number in self.lineage(new[0]) or replaced in self.lineage(old[0]):
                    return
                for one in {number, replaced} - {0, *both}:
                    await stack.enter_async_context(self.locks[one].alone())
            with self.truth.changing(number, replaced, *both), self.truth.naming(old, new):
                done = await self.asked(self.ops.rename(*old, *new, 0, self.mind.ctx))
            self._is_gone(replaced, done)

    async def _alone_in(self, stack: AsyncExitStack, *directories: int) -> list[int]:
        """As Linux locks them (lock_rename)."""
        if len(set(directories)) > 1:
            await stack.enter_async_context(self.tree.alone())
        downwards = sorted(set(directories), key=lambda one: len(self.lineage(one)))
        for one in downwards:
            await stack.enter_async_context(self.locks[one].alone())
        return downwards

    def _is_gone(self, number: int, done: FUSEError | None) -> None:
        """A file was removed, or not."""
        if not self.is_directory(number):
            return
        if done is None and number in self.directories:
            self.directories.remove(number)
        elif done is not None and done.errno == errno.ENOTEMPTY and self.sure:
            path = self.path(number)
            assert path is None or list(path.iterdir())

    async def _rmdir(self) -> None:
        directory, name = self.drawn()
        async with self.locks[directory].alone():
            number = await self.looked_up(directory, name, Thought(removes=name, looks=True))
            if not number or not self.is_directory(number):
                return
            async with self.locks[number].alone():
                with self.truth.changing(number, directory), self.truth.naming((directory, name)):
                    asking = self.ops.rmdir(directory, name, self.mind.ctx)
                    done = await self.asked(asking, seen=Thought(removes=name))
                self._is_gone(number, done)

    async def _make(self, make: Callable[[int, bytes], Awaitable[EntryAttributes]]) -> None:
        directory, name = self.drawn()
        async with self.locks[directory].alone():
            making = Thought(makes=name)
            if await self.looked_up(directory, name, making) != 0:
                return
            with self.truth.naming((directory, name)), self.truth.changing(directory):
                made = await self.asked(make(directory, name), seen=making)
            if not isinstance(made, FUSEError):
                self.told(made)
            elif self.sure:
                assert made.errno != errno.EEXIST

    async def _mkdir(self) -> None:
        if len(self.directories) < MOST_DIRECTORIES:
            await self._make(lambda at, name: self.ops.mkdir(at, name, 0o755, self.mind.ctx))

    async def _symlink(self) -> None:
        await self._make(lambda at, name: self.ops.symlink(at, name, b"to " + name, self.mind.ctx))

    async def _mknod(self) -> None:
        await self._make(lambda at, name: self.ops.mknod(at, name, FIFO, 0, self.mind.ctx))

    async def _readlink(self) -> None:
        number = await self.found(*self.drawn(), kind=stat.S_IFLNK)
        if number:
            told = await self.asked(self.ops.readlink(number, self.mind.ctx), number)
            assert isinstance(told, FUSEError) or told.startswith(b"to name")

    async def _link(self) -> None:
        (directory, name), (other_directory, other) = self.drawn(), self.drawn()
        making = Thought(makes=name if name != other else b"")
        number = await self.found(other_directory, other, making)
        if not number:
            return
        async with self.locks[directory].alone():
            if await self.looked_up(directory, name, making) == 0:
                with self.truth.changing(number, directory), self.truth.naming((directory, name)):
                    await self.asked(self.ops.link(number, directory, name, self.mind.ctx), number)

    async def _stat_directory(self) -> None:
        number, _ = self.drawn()
        steady, unremoved = self.truth.steadily(number), self.truth.unremoved()
        told = await self.asked(self.ops.getattr(number, self.mind.ctx))
        path = self.path(number)
        if path is None or not (self.sure and steady() and unremoved()):
            return
        if isinstance(told, FUSEError):
            assert self.killed
        else:
            now = path.stat()
            assert (told.st_nlink, told.st_size) == (now.st_nlink, now.st_size)
