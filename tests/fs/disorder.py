"""A server that does calls in any order, and answers them in another; that fails some, and leaves
attributes out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import trio
from trio.testing import MockClock

from tests.fs.peer import Between, LocalCaller, Proceed
from umktls.nfs.types import (
    NO_WCC,
    ACCESS3resfail,
    COMMIT3resfail,
    CREATE3resfail,
    LINK3resfail,
    LOOKUP3resfail,
    READ3resfail,
    RENAME3resfail,
    WRITE3resfail,
    nfsstat3,
)
from umktls.rpc.message import OpaqueAuth

__all__ = ["Disorder"]

LATE = (
    *("LOOKUP", "GETATTR", "SETATTR", "ACCESS", "READ", "WRITE", "COMMIT", "CREATE", "REMOVE"),
    *("RENAME", "LINK", "READDIRPLUS", "READDIR", "MKDIR", "RMDIR", "SYMLINK", "MKNOD", "READLINK"),
)
FAILS: dict[str, Any] = {
    "ACCESS": ACCESS3resfail,
    "COMMIT": COMMIT3resfail,
    "CREATE": CREATE3resfail,
    "LINK": LINK3resfail,
    "LOOKUP": LOOKUP3resfail,
    "READ": READ3resfail,
    "RENAME": RENAME3resfail,
    "WRITE": WRITE3resfail,
}
WAITS = (0, 0, 1, 3, 10, 30)  # turns of the event loop
JUMPS = (0.01, 0.5, 1, 4)


class Disorder:
    """failing: how much of it. wcc: whether all replies have the attributes that they can have.
    jumping: whether time passes too. busy, made: count the calls under way, and all.
    """

    def __init__(
        self,
        caller: LocalCaller,
        chance: Random,
        *,
        failing: float,
        wcc: bool,
        jumping: bool,
        busy: Counter[str],
        made: Counter[str],
    ) -> None:
        self._chance = chance
        self.failing, self._wcc, self._jumping = failing, wcc, jumping
        self.busy, self.made = busy, made
        for name in LATE:
            caller.between[name] = self._between(name)

    async def pause(self) -> None:
        """A while in which others go on."""
        if self._jumping and self._chance.random() < 0.01:
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, MockClock)
            clock.jump(self._chance.choice(JUMPS))
        for _ in range(self._chance.choice(WAITS)):
            await trio.lowlevel.checkpoint()

    def _between(self, name: str) -> Between:
        async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
            self.busy[name] += 1
            self.made[name] += 1
            try:
                return await self._answer(name, args, proceed)
            finally:
                self.busy[name] -= 1

        return between

    async def _answer(self, name: str, args: Any, proceed: Proceed) -> Any:
        await self.pause()
        if name in FAILS and self._chance.random() < self.failing:
            causes = [nfsstat3.NFS3ERR_JUKEBOX]
            if name == "WRITE":
                causes.append(nfsstat3.NFS3ERR_NOSPC)
            return FAILS[name](self._chance.choice(causes))
        result = await proceed(args)
        if not self._wcc and self._chance.random() < 0.3:
            result = without_wcc(result)
        await self.pause()
        return result


def without_wcc(result: Any) -> Any:
    fields = [field for field in type(result).__slots__ if field.endswith("wcc")]
    return replace(result, **dict.fromkeys(fields, NO_WCC)) if fields else result
