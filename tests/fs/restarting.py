"""A server that loses what it has not been asked to keep."""

from __future__ import annotations

from typing import Any

from tests.fs.peer import Proceed
from tests.fs.world import World
from umktls.nfs.types import COMMIT3resok, WRITE3args, WRITE3resok, stable_how
from umktls.rpc.message import OpaqueAuth


class Restarting:
    """Gives verifiers of its own; forgets unstable data when it restarts, as servers may."""

    def __init__(self, world: World) -> None:
        self.boot = 1
        self.restarts_at_commit = 0
        self.volatile: list[tuple[int, int]] = []
        self.world = world
        world.caller.between |= {"WRITE": self.write, "COMMIT": self.commit}

    @property
    def verf(self) -> bytes:
        return self.boot.to_bytes(8)

    async def write(self, args: WRITE3args, credential: OpaqueAuth, proceed: Proceed) -> Any:
        result: WRITE3resok = await proceed(args)
        if args.stable == stable_how.UNSTABLE:
            self.volatile.append((args.offset, args.count))
        return WRITE3resok(result.file_wcc, result.count, args.stable, self.verf)

    async def commit(self, args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if self.restarts_at_commit:
            self.restarts_at_commit -= 1
            self.restart()
        result: COMMIT3resok = await proceed(args)
        self.volatile.clear()
        return COMMIT3resok(result.file_wcc, self.verf)

    def restart(self) -> None:
        self.boot += 1
        for offset, count in self.volatile:
            with open(self.world.export / "file", "r+b") as file:
                file.seek(offset)
                file.write(bytes(count))
        self.volatile.clear()
