"""What `umktls showmount` does: one call of the MOUNT protocol, wherever that is."""

from __future__ import annotations

from typing import Any

from umktls.abi.ports import NFS_PORT
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.mountd import MountService, NoMountd
from umktls.nfs.program import MOUNT3
from umktls.rpc.message import NULL_AUTH

__all__ = ["asked"]

ADVICE = "HOST:PORT says where it is (`rpcinfo -p` on the server lists it)"


async def asked(host: str, port: int | None, procedure: str, seconds: float) -> Any:
    """What the server answers. port: MOUNT's; None: the one that rpcbind says, else NFS's.

    Raises `UmktlsError`: what the first of these places has answered.
    """
    try:
        return await asked_at(host, port, procedure, seconds)
    except NoMountd as error:
        if port is not None:
            raise
        try:
            return await asked_at(host, NFS_PORT, procedure, seconds)
        except NoMountd:
            text = f"{error}, and not at NFS's port {NFS_PORT} either"
            raise NoMountd(text, error.errno) from error


async def asked_at(host: str, port: int | None, procedure: str, seconds: float) -> Any:
    config = MountConfig(
        host,
        "/",
        security="none",
        reserved_port=False,
        mount_port=port,
        mount_seconds=seconds,
        connect_seconds=seconds,
    )
    service = MountService(config, Trace("showmount", "client"), advice=ADVICE)
    async with service.calls() as calls:
        return await calls.call(MOUNT3[procedure], None, NULL_AUTH)
