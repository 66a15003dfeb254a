"""What the workers of tests/kernel/team/test_team.py do: an RPC service, in each process."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from umktls.errors import CallerError
from umktls.kernel.krpc.admission import Limits
from umktls.kernel.krpc.post import Inlet
from umktls.kernel.krpc.server import ServerConfig, boot_server
from umktls.kernel.team.config import TeamConfig
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedreplies import SharedReplies
from umktls.kernel.team.team import boot_team
from umktls.nfs.program import MOUNT3
from umktls.rpc.server import Service
from umktls.testing.echo import Echo

__all__ = ["Told", "config_of", "main", "work"]


@dataclass
class Told:
    """`mistake`: the worker does not come up. `record`: where it writes what it is told; "fail" it
    refuses."""

    record: Path
    mistake: str = ""


async def work(inlet: Inlet, told: Told) -> None:
    if told.mistake:
        raise CallerError(told.mistake)
    post = inlet.post
    replies = SharedReplies(Shared(post.shared, post.life))
    config = ServerConfig(
        offer_tls=False,
        inlet=inlet,
        rundir=post.rundir,
        limits=Limits(4, 4).share(post.number, post.count),
    )
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            boot_server(config, [Echo().service(), Service(MOUNT3, {})], replies),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(obey, inlet, told.record, nursery.cancel_scope)
            inlet.tell(up=True)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def obey(inlet: Inlet, record: Path, life: trio.CancelScope) -> None:
    async for order in inlet.orders:
        with record.open("a") as file:
            file.write(f"{inlet.post.number} {order}\n")
        inlet.tell(reloaded="it fails" if order == "fail" else "")
    life.cancel()


async def supervise(record: Path, rundir: Path) -> None:
    """A team in a process of its own, until that is killed; it prints its port."""
    async with boot_team(config_of(record, rundir)) as team:
        pids = [worker.pid for worker in team.workers]
        print(team.port, *pids, flush=True)
        await trio.sleep_forever()


def config_of(record: Path, rundir: Path, told: Told | None = None, **more: Any) -> TeamConfig:
    argument = told or Told(record)
    return TeamConfig(
        2,
        f"{__name__}:work",
        lambda: argument,
        Shared().fd,
        hosts=("127.0.0.1",),
        port=0,
        rundir=rundir,
        **more,
    )


def main(top: str) -> None:
    trio.run(supervise, Path(top) / "record", Path(top) / "team")
