"""What tasks do with files, and with what they have open."""

from __future__ import annotations

import os
import stat

from pyfuse3 import EntryAttributes, FUSEError

from tests.fs.changing import fields
from tests.fs.crowdkernel import MOST_BYTES, Kernel, Opened
from tests.fs.thoughts import Thought
from tests.fs.world import Somebody

__all__ = ["Files"]

OPENS = (
    *(os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY | os.O_DIRECT),
    os.O_RDWR | os.O_TRUNC,
)
STRANGER = Somebody(uid=4711, gid=4711, pid=5)


class Files(Kernel):
    """Each is drawn and done by a task."""

    async def _getattr(self) -> None:
        number = await self.found(*self.drawn())
        if not number:
            return
        steady, before = self.truth.steadily(number), self.status(number)
        unremoved = self.truth.unremoved()
        seen = await self.asked(self.ops.getattr(number, self.mind.ctx), number)
        now = self.status(number)
        if isinstance(seen, FUSEError) or not (self.sure and steady() and before and now):
            return
        self.told(seen)
        assert seen.st_mode == now.st_mode
        if unremoved():
            assert seen.st_nlink == now.st_nlink
        if self.exact:
            assert seen.st_size == len(self.contents[number])

    async def _access(self) -> None:
        number = await self.found(*self.drawn())
        if not number:
            return
        wanted = self.chance.choice((os.R_OK, os.W_OK, os.R_OK | os.W_OK))
        steady = self.truth.steadily(number)
        permitted = await self.asked(self.ops.access(number, wanted, STRANGER.ctx), number)
        now = self.status(number)
        if isinstance(permitted, FUSEError) or not (self.sure and steady() and now):
            return
        assert permitted == (stat.S_IMODE(now.st_mode) & wanted == wanted)

    async def _chmod(self) -> None:
        entry = EntryAttributes()
        entry.st_mode = stat.S_IFREG | self.chance.choice((0o600, 0o644, 0o666))
        number = await self.found(*self.drawn())
        if number:
            async with self.locks[number].alone():
                with self.truth.changing(number):
                    asking = self.ops.setattr(number, entry, fields("mode"), None, self.mind.ctx)
                    await self.asked(asking, number)

    async def _truncate(self) -> None:
        number = await self.found(*self.drawn())
        if number:
            await self._resize(number, None)

    async def _resize(self, number: int, fh: int | None) -> None:
        entry = EntryAttributes()
        entry.st_size = size = self.chance.randrange(MOST_BYTES)
        async with self.locks[number].alone():
            with self.truth.changing(number):
                asking = self.ops.setattr(number, entry, fields("size"), fh, self.mind.ctx)
                if not isinstance(await self.asked(asking, number), FUSEError):
                    self.truth.cut(number, size)

    # ---- what is open

    async def _open(self) -> None:
        number = await self.found(*self.drawn())
        flags = self.chance.choice(OPENS)
        if not number:
            return
        if not flags & os.O_TRUNC:
            await self._opened(number, flags)
            return
        async with self.locks[number].alone():
            with self.truth.changing(number):
                if await self._opened(number, flags):
                    self.truth.cut(number, 0)

    async def _opened(self, number: int, flags: int) -> bool:
        info = await self.asked(self.ops.open(number, flags, self.mind.ctx), number)
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
            async with self.locks[number].alone():
                if opened.flags & os.O_APPEND:  # the kernel knows the end
                    offset = len(self.contents[number])
                with self.truth.changing(number):
                    done = await self.asked(self.ops.write(opened.fh, offset, data))
                    if not isinstance(done, FUSEError):
                        self.truth.put(number, offset, data)

    async def _read(self) -> None:
        opened = self._drawn_open()
        if opened is None:
            return
        size = self.chance.choice((1024, 4096))
        offset = self.chance.choice((0, 0, 4096, 8192, self.chance.randrange(MOST_BYTES)))
        with opened.used():
            for _ in range(self.chance.choice((1, 3, 8))):
                steady = self.truth.steadily(opened.number)
                if self.manner.uncached:  # the kernel asks whether its pages are good
                    asking = self.ops.getattr(opened.number, self.mind.ctx)
                    await self.asked(asking, seen=Thought(reads=True))
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
