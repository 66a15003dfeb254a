"""Tasks that use a mount at the same time, as a kernel lets them, with a server that does and
answers calls in any order (disorder.py). Who asks may be killed.

Where there is one mount, and nobody is killed, or where nothing is remembered (noac, actimeo=0),
each answer has to be true that nothing has changed under: what a name leads to, a list of names,
bytes, attributes, permissions.
"""

from __future__ import annotations

from tests.fs.crowdfiles import Files
from tests.fs.crowdnames import Names

__all__ = ["DIRECTORY", "Crowd"]

DIRECTORY = "directory"


class Crowd(Names, Files):
    """Tasks, the kernel below them and the mount below that, and what has to be true."""

    async def begin(self) -> None:
        self.told(await self.world.lookup(DIRECTORY))

    async def task(self, steps: int, pid: int) -> None:
        self.mind.begin(pid)
        for _ in range(steps):
            await getattr(self, f"_{self.chance.choice(self.manner.whats)}")()
            await self.server.pause()

    async def close_all(self) -> None:
        """At the end: from here on no call fails, and nobody is killed."""
        self.server.failing = self.killed = 0.0
        while self.opened:
            await self._close()
