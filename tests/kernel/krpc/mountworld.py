"""A server with rpcbind and MOUNT, played, and a mount of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import Answer, Peer, answers, peer
from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import rpcbind
from umktls.kernel.krpc.mountconfig import MountConfig
from umktls.kernel.krpc.mountd import Caller, MountService, NoMountd, root_of
from umktls.kernel.krpc.plaincalls import Place
from umktls.nfs.mount import exportnode, mountres3_ok
from umktls.nfs.program import MOUNT3
from umktls.rpc.client import ProgramUnavailable
from umktls.rpc.message import NULL_AUTH, OpaqueAuth
from umktls.rpc.program import Procedure, Program
from umktls.rpc.rpcbind import PMAP2

SECONDS = 20
HANDLE = b"handle"
NOT_HERE = ProgramUnavailable("the server does not offer this program")


@dataclass
class Nfs:
    """NFS's own connection: what is called on it ends so."""

    error: UmktlsError | None = NOT_HERE
    asked: list[str] = field(default_factory=list)

    async def call(self, procedure: Procedure[Any, Any], args: Any, auth: OpaqueAuth, /) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(procedure.name)
        if self.error is not None:
            raise self.error
        return mountres3_ok(HANDLE, ())


def gives(result: Any = None, exports: bool = True, program: Program = MOUNT3) -> Answer:
    """A MOUNT that answers MNT so."""
    more: dict[str, Callable[[Any], Any]] = {}
    if exports:
        more["EXPORT"] = lambda _: [exportnode(b"/a", []), exportnode(b"/b", [])]
    ok = mountres3_ok(HANDLE, (1,)) if result is None else result
    return answers(program, MNT=lambda path: ok, UMNT=lambda path: None, **more)


@dataclass
class World:
    """A server with rpcbind and MOUNT, and a mount of it."""

    mount: Peer
    rpcbind: Peer
    nfs: Nfs = field(default_factory=Nfs)
    trace: Trace = field(default_factory=lambda: Trace("h", "client"))

    def service(self, near: bool = True, **more: Any) -> MountService:
        family = socket.AF_INET6 if ":" in self.mount.host else socket.AF_INET
        place = Place(family, (self.mount.host, 2049)) if near else None
        config = MountConfig("server", "/a", 2049, security="none", reserved_port=False, **more)
        return MountService(config, self.trace, self.nfs, place, no_tls)


def no_tls(config: MountConfig) -> Any:
    raise AssertionError("TLS was not asked for")


@asynccontextmanager
async def world(
    monkeypatch: pytest.MonkeyPatch,
    mount: Answer | None = None,
    ports: dict[str, int | None] | None = None,
    host: str = "127.0.0.1",
    **how: bool,
) -> AsyncIterator[World]:
    """ports: what rpcbind says by protocol, None for where MOUNT really is; {}: nothing."""
    known: dict[str, int | None] = {"tcp": None, "udp": None} if ports is None else ports
    async with peer(mount or gives(), host=host, **how) as there:

        def getport(wanted: Any) -> int:
            assert wanted.prog == MOUNT3.number
            port = known.get({6: "tcp", 17: "udp"}[wanted.prot], 0)
            return there.port if port is None else port

        async with peer(answers(PMAP2, GETPORT=getport), host=host) as mapper:
            monkeypatch.setattr(rpcbind, "RPCBIND_PORT", mapper.port)
            with trio.fail_after(patience(SECONDS)):
                yield World(there, mapper)


async def root(calls: Caller) -> bytes:
    return await root_of(calls, "server", "/a", NULL_AUTH)


async def failure(service: MountService) -> str:
    with pytest.raises(NoMountd) as caught:
        await service.ask(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)
