"""Version 1 of the upcall: who is a daemon, and who is none any more (rpctls_impl.c)."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.kernel.clientworld import Clock
from umktls.abi import netlink as nl
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import RPCTLS_SRV_MAXNPROCS, RpctlsSysc
from umktls.kernel.ground.events import Trace
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.owners.request import DaemonGone
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.daemons import Daemons
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.testing.played import Calls, NetlinkEnd, Refused, calls_to
from umktls.testing.standin import StandIn
from umktls.upcall.syscalls import RpctlsSyscallArgs


@dataclass
class Server:
    """A server host, and the calls of one process."""

    host: Host
    calls: Calls

    async def say(self, operation: str, path: bytes = b"") -> None:
        number = RpctlsSysc[f"RPCTLS_SYSC_{operation}"]
        await self.calls.call(RpctlsSyscallArgs(number, path))

    async def register(self, *names: str) -> None:
        for name in names:
            await self.say("SRVSETPATH", name.encode())

    @property
    def daemons(self) -> list[str]:
        return [handle.path for handle in self.host.handles["rpctlssd"]]


@asynccontextmanager
async def server(path: Path, personality: str = "freebsd14") -> AsyncIterator[Server]:
    config = HostConfig("server", path / "h", personality=PERSONALITIES[personality])
    async with booted(config) as host, calls_to(host.rundir.path) as calls:
        yield Server(host, calls)


async def test_a_daemon_replaces_the_one_before_it(tmp_path: Path) -> None:
    """As those do that know nothing of several."""
    async with server(tmp_path) as s:
        await s.register("first", "second")
        assert s.daemons == ["second"]
        await s.say("SRVSHUTDOWN")
        assert s.daemons == []


async def test_a_process_is_a_daemon_as_long_as_its_last_connection(tmp_path: Path) -> None:
    config = HostConfig("server", tmp_path / "h", personality=PERSONALITIES["freebsd14"])
    async with booted(config) as host:
        async with calls_to(host.rundir.path) as last:
            async with calls_to(host.rundir.path) as first:
                await Server(host, first).register("worker")
            await trio.testing.wait_all_tasks_blocked()
            assert Server(host, last).daemons == ["worker"]
        await trio.testing.wait_all_tasks_blocked()
        assert Server(host, last).daemons == []
        assert host.syscalls.processes == []


async def test_several_are_announced(tmp_path: Path) -> None:
    async with server(tmp_path) as s:
        await s.register("old")
        await s.say("SRVSTARTUP")
        assert s.daemons == []
        names = [f"worker{number}" for number in range(RPCTLS_SRV_MAXNPROCS)]
        await s.register(*names)
        assert s.daemons == names
        with pytest.raises(Refused) as caught:
            await s.register("one too many")
        assert caught.value.errno == errno.ENXIO
        assert s.daemons == names


async def test_the_announcement_ends_with_the_daemons(tmp_path: Path) -> None:
    async with server(tmp_path) as s:
        await s.say("SRVSTARTUP")
        await s.register("first", "second")
        await s.say("SRVSHUTDOWN")
        assert s.daemons == []
        await s.register("third", "fourth")
        assert s.daemons == ["fourth"]


async def test_who_has_announced_them_ends_them() -> None:
    """A worker's SRVSHUTDOWN is about itself; FreeBSD's workers never say it."""
    daemons = Daemons("rpctlssd", Trace("h", "server"), "", lambda handle: None)
    daemons.several(100)
    for pid in (101, 102, 103):
        daemons.add(handle_of(pid))
    daemons.shut_down(101)
    assert [handle.pid for handle in daemons.handles] == [102, 103]
    daemons.ended(102)
    daemons.add(handle_of(104))
    assert [handle.pid for handle in daemons.handles] == [103, 104]
    daemons.shut_down(100)
    assert daemons.handles == []


async def test_who_has_announced_them_is_killed() -> None:
    daemons = Daemons("rpctlssd", Trace("h", "server"), "", lambda handle: None)
    daemons.several(100)
    daemons.add(handle_of(101))
    daemons.ended(100)
    assert [handle.pid for handle in daemons.handles] == [101]
    daemons.add(handle_of(102))
    assert [handle.pid for handle in daemons.handles] == [102]


def handle_of(pid: int) -> RegisteredDaemon:
    return RegisteredDaemon("rpctlssd", "path", pid, Trace("h", "server"), lambda task: None)


async def test_members_of_the_group_are_not_replaced(tmp_path: Path) -> None:
    """They add up, and replace nobody; but who announces several wants no others."""
    async with server(tmp_path, "umktls") as s:
        member = await NetlinkEnd.create(s.calls)
        with member.sock:
            await member.membership(nl.RPC_GROUPS["tlsserv"])
            await s.register("first", "second")
            assert s.daemons == ["netlink group tlsserv", "second"]
            another = await NetlinkEnd.create(s.calls)
            with another.sock:
                await another.membership(nl.RPC_GROUPS["tlsserv"])
                assert s.daemons == ["netlink group tlsserv", "second", "netlink group tlsserv"]
                await s.say("SRVSTARTUP")
                assert s.daemons == []
                await s.register(*(f"worker{number}" for number in range(RPCTLS_SRV_MAXNPROCS)))
                await another.membership(nl.RPC_GROUPS["tlsserv"])  # has no place of theirs
                assert len(s.daemons) == RPCTLS_SRV_MAXNPROCS + 1


async def test_an_upcall_to_a_daemon_that_is_replaced_ends(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """It need not be waited for: such a daemon may hang."""
    async with server(tmp_path) as s, trio.open_nursery() as nursery:
        hung = StandIn("server", s.host.rundir.path, silent=True)
        await nursery.start(hung.run)
        near, far = socket.socketpair()
        sock = s.host.adopt(near)
        began = trio.current_time()

        async def shake_hands() -> None:
            with far, pytest.raises(DaemonGone):
                await tls.handshake_server(s.host, sock)
            assert trio.current_time() == began

        async with trio.open_nursery() as handshake:
            handshake.start_soon(shake_hands)
            await trio.testing.wait_all_tasks_blocked()
            assert hung.upcalls == ["CONNECT"]
            await s.register("another")
        nursery.cancel_scope.cancel()
