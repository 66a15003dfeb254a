"""A client host that makes the calls it is told to, one after the other, for whoever counts.

    python -m tests.bench.caller SETUP

SETUP is a JSON object: `port`, `export`, `certs`, `rundir`. On standard input come lines of JSON:
`security`, `what`, `times`, and `pace`, the process to wait for between two calls until it has
nothing to do (0: none). Each line is answered by one when it is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import trio

from tests.bench.callgrind import asleep
from tests.bench.patient import be_patient
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, NfsClient, boot_client, mounted, own_credential
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.upcalls import tls
from umktls.nfs import types
from umktls.nfs.program import NFS3
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.program import Procedure

BLOCK = 4096
BLOCKS = 64
PATIENCE = 300.0
Run = Callable[[], Awaitable[None]]
# A procedure's arguments, for the call of that number.
Arguments = Callable[[int], Any]


def config_of(setup: dict[str, Any], security: str) -> MountConfig:
    return MountConfig(
        server="127.0.0.1",
        export=setup["export"],
        port=setup["port"],
        security=security,
        certs=Path(setup["certs"]),
        rundir=Path(setup["rundir"]) / security,
        no_daemon=True,
        deadline=PATIENCE,
        daemon_seconds=PATIENCE,
        upcall_seconds=PATIENCE,
    )


def calls(client: NfsClient, handle: bytes, export: str) -> dict[str, Arguments]:
    """What is called, and with which arguments. `handle`: of the file "file" in `export`."""
    root, new = client.root, types.sattr3(mode=0o644)
    how = types.createhow3(types.createmode3.UNCHECKED, new)
    block = os.urandom(BLOCK)

    def place(number: int) -> int:
        return number % BLOCKS * BLOCK

    def write(number: int) -> types.WRITE3args:
        stable = types.stable_how.UNSTABLE
        return types.WRITE3args(handle, place(number), BLOCK, stable, block)

    def remove(number: int) -> types.REMOVE3args:
        name = b"old%06d" % number
        os.mknod(os.path.join(os.fsencode(export), name))
        return types.REMOVE3args(types.diropargs3(root, name))

    return {
        "GETATTR": lambda _: types.GETATTR3args(root),
        "LOOKUP": lambda _: types.LOOKUP3args(types.diropargs3(root, b"file")),
        "READ": lambda number: types.READ3args(handle, place(number), BLOCK),
        "WRITE": write,
        "CREATE": lambda n: types.CREATE3args(types.diropargs3(root, b"new%06d" % n), how),
        "REMOVE": remove,
    }


async def call(
    client: NfsClient,
    procedure: Procedure[Any, Any],
    arguments: Arguments,
    credential: OpaqueAuth,
    numbers: count[int],
) -> None:
    result = await client.call(procedure, arguments(next(numbers)), credential)
    if result.status != types.nfsstat3.NFS3_OK:
        raise SystemExit(f"{procedure.name} failed: {result.status.name}")


async def handshake(host: Host, config: MountConfig) -> None:
    await tls.disconnect(host, await make_connection(host, config), "counted")


@asynccontextmanager
async def prepared(setup: dict[str, Any]) -> AsyncIterator[dict[tuple[str, str], Run]]:
    """What can be run, by security and name."""
    runs: dict[tuple[str, str], Run] = {}
    credential, numbers = own_credential(), count()
    async with AsyncExitStack() as stack:
        for security in ("mtls", "none"):
            config = config_of(setup, security)
            host = await stack.enter_async_context(boot_client(config))
            if security == "mtls":
                print("up", flush=True)  # a daemon can be started
            client = await stack.enter_async_context(mounted(host, config))
            what = types.LOOKUP3args(types.diropargs3(client.root, b"file"))
            found: Any = await client.call(NFS3["LOOKUP"], what, credential)
            for name, arguments in calls(client, found.object, setup["export"]).items():
                made = (client, NFS3[name], arguments, credential, numbers)
                runs[security, name] = partial(call, *made)
            if security != "none":
                runs[security, "handshake"] = partial(handshake, host, config)
        yield runs


async def main(setup: dict[str, Any]) -> None:
    async with prepared(setup) as runs:
        print("ready", flush=True)
        while True:
            await trio.lowlevel.wait_readable(0)
            line = os.read(0, 4096)
            if not line:
                return
            told = json.loads(line)
            run = runs[told["security"], told["what"]]
            for _ in range(told["times"]):
                await run()
                if told["pace"]:
                    asleep(told["pace"])
            print("done", flush=True)


if __name__ == "__main__":
    be_patient()
    trio.run(main, json.loads(sys.argv[1]))
