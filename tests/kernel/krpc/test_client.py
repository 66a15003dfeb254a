"""How a client's connections begin, and begin again: what fails, by which error."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from umktls.errors import WorldError
from umktls.kernel.krpc import client, connecting
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.probe import NotOffered
from umktls.nfs.program import NFS3
from umktls.nfs.types import FSINFO3resfail, nfsstat3

CONFIG = MountConfig("server", "/")


class NoHost:
    """Nothing may be asked of it."""

    trace = None


async def test_only_a_refusal_has_levels_of_security_tried() -> None:
    """Whatever else FSINFO of the root says ends the mount by that, without another connection."""

    class Refusing:
        async def call(self, *of: object) -> Any:
            await trio.lowlevel.checkpoint()
            return FSINFO3resfail(nfsstat3.NFS3ERR_STALE, None)

    host, rpc = NoHost(), Refusing()
    with pytest.raises(WorldError, match=r"failed: NFS3ERR_STALE$") as caught:
        await client.file_system_info(host, CONFIG, rpc, b"root", False)  # type: ignore[arg-type]
    assert caught.value.errno == errno.ESTALE


async def test_a_connection_that_is_gone_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = socket.socketpair()

    async def connect(config: MountConfig) -> socket.socket:
        await trio.lowlevel.checkpoint()
        return near

    def adopt(*of: object) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    host: Any = SimpleNamespace(adopt=adopt)
    monkeypatch.setattr(connecting, "connect_tcp", connect)
    with far, pytest.raises(WorldError, match="server port 2049 closed the connection at once"):
        await connecting.make_connection(host, CONFIG)
    assert near.fileno() == -1


async def test_a_server_that_offers_no_tls_any_more_may_do_so_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`NotOffered` of the first connection is the mount's end; of a later one it is tried again,
    as whatever the world refuses is."""

    class Waiting:
        """The connections, which know how to make others."""

        first = SimpleNamespace(offer=lambda sock: None)

        def __init__(self, connect: Any, *of: object) -> None:
            self.connect = connect

        async def run(self) -> None:
            await trio.sleep_forever()

    async def refused(*of: object) -> None:
        await trio.lowlevel.checkpoint()
        raise NotOffered("no STARTTLS", errno.EACCES)

    monkeypatch.setattr(client, "Connections", Waiting)
    monkeypatch.setattr(client, "make_connection", refused)
    first: Any = None
    async with client.calls_over(NoHost(), CONFIG, NFS3, first, 1) as rpc:  # type: ignore[arg-type]
        connections: Any = rpc
        with pytest.raises(WorldError, match="no STARTTLS") as caught:
            await connections.connect()
        assert not isinstance(caught.value, NotOffered)
        assert caught.value.errno == errno.EACCES
