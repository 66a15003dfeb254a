"""What programs do, as the machine's kernel asks FUSE for it: names and attributes are cached for
as long as the replies say, and looked up anew where Linux does so (fs/fuse/dir.c).

Directories but the root are empty ones: what happens in them is not asked for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from pyfuse3 import EntryAttributes, FUSEError

from tests.fs.peer import ROOT as USER
from tests.fs.world import ROOT, World

__all__ = ["Machine", "Opened"]

T = TypeVar("T")

Opened = tuple[int, int]  # fh and inode number


class Machine:
    """One client with its caches. Errors are OSError, as programs see them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._names: dict[bytes, tuple[int, float]] = {}  # inode number, and until when
        self._attributes: dict[int, float] = {}  # until when they are believed
        self._sizes: dict[int, int] = {}  # the last that was told (i_size)
        self._direct: set[int] = set()  # fhs that are read and written past the page cache
        world.listed = self._listed

    async def does(self, call: Callable[[bool], Awaitable[T]]) -> T:
        """A system call: it is made once more, with all names looked up anew, upon ESTALE. The call
        is told whether that is so."""
        try:
            return await self._plainly(call(False))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        return await self._plainly(call(True))

    async def _plainly(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except FUSEError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None

    # ---- names

    async def stat(self, name: str) -> int:
        """The size."""

        async def call(anew: bool) -> int:
            number = await self._find(name, anew)
            if trio.current_time() >= self._attributes[number]:
                self._told(await self.world.ops.getattr(number, self.world.ctx))
            return self._sizes[number]

        return await self.does(call)

    async def names(self) -> list[str]:
        async def call(anew: bool) -> list[str]:
            return [os.fsdecode(name) for name in await self.world.listdir(room=3)]

        return await self.does(call)

    async def unlink(self, name: str) -> None:
        await self._remove(name, self.world.ops.unlink)

    async def rmdir(self, name: str) -> None:
        await self._remove(name, self.world.ops.rmdir)

    async def _remove(self, name: str, request: Callable[..., Awaitable[None]]) -> None:
        async def call(anew: bool) -> None:
            self.world.foretold.removing.add(name.encode())
            try:
                await self._find(name, anew)
            finally:
                self.world.foretold.removing.clear()
            await request(ROOT, name.encode(), self.world.ctx)
            self._names.pop(name.encode(), None)

        await self.does(call)

    async def mkdir(self, name: str) -> None:
        async def call(anew: bool) -> None:
            await self._must_be_new(name)
            made = await self.world.ops.mkdir(ROOT, name.encode(), 0o755, self.world.ctx)
            self._entered(name, made)

        await self.does(call)

    async def rename(self, old: str, new: str) -> None:
        async def call(anew: bool) -> None:
            number = await self._find(old, anew)
            target = await self._look_up(new, making=True)
            if target == number:
                return
            old_name, new_name = old.encode(), new.encode()
            await self.world.ops.rename(ROOT, old_name, ROOT, new_name, 0, self.world.ctx)
            # Linux has the new name lead to what it thought was behind the old one. Here it is
            # looked up, since no mount can do anything about that.
            self._names.pop(old_name, None)
            self._names.pop(new_name, None)

        await self.does(call)

    async def link(self, old: str, new: str) -> None:
        async def call(anew: bool) -> None:
            number = await self._find(old, anew)
            await self._must_be_new(new)
            self._entered(
                new, await self.world.ops.link(number, ROOT, new.encode(), self.world.ctx)
            )

        await self.does(call)

    # ---- files

    async def open(self, name: str, flags: int) -> Opened:
        async def call(anew: bool) -> Opened:
            if not flags & os.O_CREAT:
                return await self._open(await self._find(name, anew), flags)
            cached = None if anew or flags & os.O_EXCL else self._cached(name)
            number = cached or await self._look_up(name, making=True)
            if number is None:
                return await self._create(name, flags)
            if flags & os.O_EXCL:
                raise OSError(errno.EEXIST, name)
            return await self._open(number, flags)

        return await self.does(call)

    async def _open(self, number: int, flags: int) -> Opened:
        opened = await self.world.ops.open(number, flags & ~os.O_CREAT, self.world.ctx)
        if opened.direct_io:
            self._direct.add(opened.fh)
        if flags & os.O_TRUNC:
            self._sizes[number] = 0
            self._attributes[number] = 0.0
        return opened.fh, number

    async def _create(self, name: str, flags: int) -> Opened:
        wanted = flags & ~os.O_CREAT
        info, entry = await self.world.ops.create(
            ROOT, name.encode(), 0o644, wanted, self.world.ctx
        )
        self._entered(name, entry)
        return info.fh, entry.st_ino

    async def write(self, file: Opened, data: bytes) -> None:
        """At the end that the kernel knows."""
        fh, number = file
        place = self._sizes[number]
        await self._plainly(self.world.ops.write(fh, place, data))
        self._sizes[number] = place + len(data)
        self._attributes[number] = 0.0

    async def read(self, file: Opened, offset: int, size: int) -> bytes:
        """Where little comes the file ends, as the page cache sees it (fuse_short_read); whoever
        asks for attributes next is told those of now (fuse_invalidate_atime)."""
        fh, number = file
        data = bytes(await self._plainly(self.world.ops.read(fh, offset, size)))
        if len(data) < size and fh not in self._direct:
            self._sizes[number] = min(self._sizes[number], offset + len(data))
        self._attributes[number] = 0.0
        return data

    async def close(self, file: Opened) -> None:
        await self._plainly(self.world.close(file[0]))

    async def server_number(self, opened: Opened) -> int:
        """The number that the server has for what is open."""
        handle = self.world.ops.inodes[opened[1]].handle
        return (await self.world.ops.calls.getattr(handle, USER)).fileid

    # ---- the caches

    def _cached(self, name: str) -> int | None:
        number, until = self._names.get(name.encode(), (0, 0.0))
        return number if trio.current_time() < until else None

    async def _find(self, name: str, anew: bool) -> int:
        """The inode number; OSError ENOENT."""
        number = None if anew else self._cached(name)
        number = number or await self._look_up(name, making=False)
        if number is None:
            raise OSError(errno.ENOENT, name)
        return number

    async def _must_be_new(self, name: str) -> None:
        if await self._look_up(name, making=True) is not None:
            raise OSError(errno.EEXIST, name)

    async def _look_up(self, name: str, making: bool) -> int | None:
        if making:
            self.world.making.add(name.encode())
        self._names.pop(name.encode(), None)
        try:
            entry = await self.world.lookup(name)
        except FUSEError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        finally:
            self.world.making.clear()
        if entry.st_ino:
            self._entered(name, entry)
        return entry.st_ino or None

    def _listed(self, name: bytes, entry: EntryAttributes) -> None:
        if name not in (b".", b".."):
            self._entered(os.fsdecode(name), entry)

    def _entered(self, name: str, entry: EntryAttributes) -> None:
        until = trio.current_time() + entry.entry_timeout
        self._names[name.encode()] = (entry.st_ino, until)
        self._told(entry)

    def _told(self, entry: EntryAttributes) -> None:
        self._sizes[entry.st_ino] = entry.st_size
        self._attributes[entry.st_ino] = trio.current_time() + entry.attr_timeout
