"""A server that does not answer."""

from __future__ import annotations

from typing import Any

import trio

from tests.fs.peer import Proceed
from tests.fs.world import World
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
