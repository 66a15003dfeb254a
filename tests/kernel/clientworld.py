"""A client host in memory, and daemons of version 2 that are played message by message."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
import trio.testing

from umktls.abi import netlink as nl
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.netlink import NetlinkDaemon, NetlinkSocket
from umktls.rpc.message import NULL_AUTH, AcceptStat, Call, encode_accepted, parse_untrusted
from umktls.testing.played import Calls, NetlinkEnd, calls_to
from umktls.upcall import netlink as messages
from umktls.upcall import syscalls as wire
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.rpctls2 import RPCTLSCD_V2

__all__ = ["CLIENTS", "SECONDS", "Asked", "Attempt", "Clock", "Daemon", "World", "reply", "world"]

CLIENTS = nl.RPC_GROUPS["tlsclnt"]
SECONDS = 15.0

Clock = trio.testing.MockClock


@dataclass
class Attempt:
    """A CONNECT of the host: its socket, the other end of that, and how it ended."""

    sock: KernelSocket
    far: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: UmktlsError | None = None


@dataclass
class Asked:
    """An upcall that has come: as what message, and what it says."""

    message: messages.Message
    name: str
    argument: Any


class Daemon:
    """A member of the group, or one that is going to be."""

    def __init__(self, end: NetlinkEnd) -> None:
        self.end = end
        self.calls = end.calls

    async def asked(self) -> Asked:
        """The next upcall."""
        return self.understood(await self.end.receive())

    @staticmethod
    def understood(message: messages.Message) -> Asked:
        """What a message asks."""
        part = messages.parse_rpc_untrusted(message)
        assert part.body is not None
        call = parse_untrusted(part.body)
        assert isinstance(call, Call)
        assert call.xid == message.seq
        procedure = RPCTLSCD_V2.procedures[call.procedure]
        return Asked(message, procedure.name, procedure.decode_args_untrusted(call.body))

    async def take(self, asked: Asked) -> int:
        number = await self.calls.call(wire.SocketCookieArgs(asked.argument.socookie))
        assert isinstance(number, int)
        return number

    async def answer(self, asked: Asked, reterr: int = 0, group: int = CLIENTS) -> None:
        await self.end.send(self.reply(asked, reterr, group))

    @staticmethod
    def reply(asked: Asked, reterr: int = 0, group: int = CLIENTS) -> bytes:
        return reply(asked.message.seq, reterr, group)

    async def error(self) -> int:
        """The kernel's next message, which is an error."""
        message = await self.end.receive()
        assert message.type == nl.NLMSG_ERROR
        return messages.parse_error_untrusted(message)

    async def leave(self) -> None:
        await self.end.membership(CLIENTS, nl.NETLINK_DROP_MEMBERSHIP)


def reply(xid: int, reterr: int = 0, group: int = CLIENTS) -> bytes:
    body = encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS)
    body += b"".join(RPCTLSCD_V2["REKEY"].encode_result(rpctls_session_res(reterr)))
    return messages.encode_rpc(nl.RPCNL_REPLY, nl.RPC_FAMILY_ID, group, xid, body)


@dataclass
class World:
    """A client host, the calls of one process, and whoever makes connections."""

    host: Host
    calls: Calls
    nursery: trio.Nursery
    cleanup: ExitStack

    async def daemon(self, calls: Calls | None = None) -> Daemon:
        end = await self.end(calls)
        await end.membership(CLIENTS)
        return Daemon(end)

    async def end(self, calls: Calls | None = None) -> NetlinkEnd:
        """A netlink socket."""
        end = await NetlinkEnd.create(calls or self.calls)
        self.cleanup.enter_context(end.sock)
        return end

    def small_queue(self) -> NetlinkSocket:
        """The kernel's end of the daemon's socket, on which the system queues little from now
        on."""
        (handle,) = self.host.daemons["rpctlscd"].of(os.getpid())
        assert isinstance(handle, NetlinkDaemon)
        kernels = handle._owner
        kernels._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return kernels

    async def connect(
        self, ends: tuple[socket.socket, socket.socket] | None = None, peer: str = ""
    ) -> Attempt:
        """A CONNECT has been made, or waits in the queue. `ends`: the near one and the far one;
        `peer` is the address and port that the other end has."""
        near, far = ends or socket.socketpair()
        self.cleanup.enter_context(far)
        attempt = Attempt(self.host.adopt(near), far)
        attempt.sock.peer = peer or attempt.sock.peer
        self.nursery.start_soon(self._connect, attempt)
        await trio.testing.wait_all_tasks_blocked()
        return attempt

    async def asked(self) -> tuple[Daemon, Attempt, Asked]:
        """A daemon that has been asked to CONNECT, and for what."""
        daemon = await self.daemon()
        attempt = await self.connect()
        return daemon, attempt, await daemon.asked()

    async def _connect(self, attempt: Attempt) -> None:
        with attempt.scope:
            try:
                attempt.result = await tls.connect_upcall(
                    self.host, attempt.sock, "rpctlscd", b"", lambda result: result.reterr == 0
                )
            except UmktlsError as error:
                attempt.error = error
        attempt.ended.set()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.host.trace.since() if event["event"] == name]


@asynccontextmanager
async def world(path: Path, personality: str = "umktls", **config: Any) -> AsyncIterator[World]:
    # No deadline of this clock's around it: bind(2) happens in a thread, and the clock would jump.
    chosen = PERSONALITIES[personality]
    async with (
        booted(HostConfig("client", path / "h", personality=chosen, **config)) as host,
        calls_to(host.rundir.path) as calls,
        trio.open_nursery() as nursery,
    ):
        with ExitStack() as cleanup:
            yield World(host, calls, nursery, cleanup)
        nursery.cancel_scope.cancel()
