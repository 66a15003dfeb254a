"""A server that does not answer, and calls that got no answer."""

from __future__ import annotations

import errno
from typing import Any

import trio

from tests.fs.peer import LocalCaller, Proceed
from tests.fs.world import World
from umktls.errors import WorldError
from umktls.nfs.program import NFS3
from umktls.rpc.message import OpaqueAuth


class Silence:
    """A server that does not answer until it is healed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._healed = trio.Event()
        for procedure in NFS3.procedures.values():
            world.caller.between[procedure.name] = self.between

    async def between(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        await self._healed.wait()
        return await proceed(args)

    def heal(self) -> None:
        self._healed.set()
        self._world.caller.between.clear()


def unanswered(caller: LocalCaller, name: str, number: int = errno.ETIMEDOUT) -> None:
    """Each call of this procedure fails, as one does whose time is over."""

    async def silent(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        raise WorldError("no answer", number)

    caller.between[name] = silent
