"""A front in memory: played daemons, backends that the test plays, clients on a wire."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from umktls.errors import WorldError
from umktls.front.backends import Backends, Place, Policy, Server
from umktls.front.boot import Front
from umktls.front.carried import Carried
from umktls.front.clients import Allowed, Clients
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.connecting import secure
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import parse_engines
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthFlavor,
    AuthSys,
    Call,
    DeniedReply,
    OpaqueAuth,
    encode_accepted,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.record import RecordReader, mark
from umktls.testing.standin import StandIn
from umktls.testing.wire import Wire

BIG = bytes(range(256)) * 16384  # 4 MiB
CLEAR = Allowed("none")

NFS, MOUNT = 100003, 100005
SYS = AuthSys(0, b"here", 1000, 1000, ()).to_opaque()
PROBE = OpaqueAuth(AuthFlavor.AUTH_TLS, b"")
ONE, TWO = Place("192.0.2.10", 2049), Place("192.0.2.20", 2049)
ITS_MOUNT = Place("192.0.2.10", 20048)
CLIENT = ("198.51.100.1", 1000)
LIMIT = 16 << 20

Message = Call | AcceptedReply | DeniedReply


def call(
    xid: int, program: int = NFS, procedure: int = 1, flavor: OpaqueAuth = SYS, body: bytes = b""
) -> bytes:
    return encode_call(xid, program, 3, procedure, flavor) + body


def reply(xid: int, body: bytes = b"") -> bytes:
    return encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS) + body


class Talk:
    """A plain connection, as its end here has it: RPC messages one by one."""

    def __init__(self, sock: socket.socket, stack: ExitStack) -> None:
        self.stream = trio.SocketStream(stack.enter_context(trio.socket.from_stdlib_socket(sock)))
        self._reader = RecordReader(LIMIT)

    async def say(self, *messages: bytes) -> None:
        await self.stream.send_all(b"".join(mark(len(one)) + one for one in messages))

    async def hear(self) -> bytes | None:
        """The next message; None at the end of the stream, or where it breaks."""
        while True:
            for message in self._reader.messages():
                return bytes(message)
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._reader.feed(data)

    async def answered(self, message: bytes) -> Message:
        await self.say(message)
        heard = await self.hear()
        assert heard is not None, "the connection ended"
        return parse_untrusted(memoryview(heard))


@dataclass
class Sealed:
    """A client's connection with TLS."""

    host: Host
    sock: KernelSocket
    heard: trio.MemoryReceiveChannel[bytes]
    ended: trio.Event = field(default_factory=trio.Event)

    def say(self, *messages: bytes) -> None:
        for message in messages:
            self.sock.rpc.send([mark(len(message)), message])

    async def hear(self) -> bytes | None:
        try:
            return await self.heard.receive()
        except trio.EndOfChannel:
            return None


@dataclass
class Servers:
    """What the front can reach: connections come as `Talk`s; those in `away` refuse."""

    stack: ExitStack
    away: set[Place] = field(default_factory=set)
    came: dict[Place, trio.MemoryReceiveChannel[Talk]] = field(default_factory=dict)
    _coming: dict[Place, trio.MemorySendChannel[Talk]] = field(default_factory=dict)
    tries: list[Place] = field(default_factory=list)

    def _channel(self, where: Place) -> None:
        if where not in self.came:
            self._coming[where], self.came[where] = trio.open_memory_channel[Talk](1000)

    async def connect(
        self, host: str, port: int, family: str | None, reserved: bool | None, seconds: float
    ) -> socket.socket:
        where = Place(host, port)
        self.tries.append(where)
        await trio.lowlevel.checkpoint()
        if where in self.away:
            raise WorldError(f"cannot connect to {where}", errno.ECONNREFUSED)
        near, far = socket.socketpair()
        self._channel(where)
        self._coming[where].send_nowait(Talk(far, self.stack))
        return near

    async def next(self, where: Place = ONE) -> Talk:
        self._channel(where)
        return await self.came[where].receive()


@dataclass
class World:
    """Both hosts, the front, what is behind it."""

    client: Host
    host: Host
    front: Front
    servers: Servers
    nursery: trio.Nursery
    daemons: dict[str, StandIn]
    wire: Wire = field(default_factory=Wire)
    _ports: itertools.count[int] = field(default_factory=lambda: itertools.count(1000))

    def _accept(self, far: socket.socket, address: str) -> None:
        accepted = self.host.adopt(far, self.front.clients.security)
        connection = Carried(self.host, accepted, (address, next(self._ports)), self.front)
        self.front.carried.add(connection)
        self.nursery.start_soon(connection.serve)

    def clear(self, address: str = CLIENT[0]) -> Talk:
        """A client in clear."""
        near, far = socket.socketpair()
        self._accept(far, address)
        return Talk(near, self.servers.stack)

    async def sealed(self, address: str = CLIENT[0], room: int = 1000) -> Sealed:
        """A client with TLS, which does not read while `room` messages wait to be heard."""
        near, far = self.wire.connect(self.nursery)
        self._accept(far, address)
        sock = self.client.adopt(near, "tls", "localhost")
        await secure(self.client, sock, MountConfig("localhost", "/", security="tls"))
        send, receive = trio.open_memory_channel[bytes](room)
        one = Sealed(self.client, sock, receive)
        self.nursery.start_soon(self._hear, one, send)
        return one

    async def passed(self, room: int = 1000) -> tuple[Sealed, Talk]:
        """A client with TLS, and the backend that has heard its first call, `call(1)`."""
        client = await self.sealed(room=room)
        client.say(call(1))
        backend = await self.servers.next()
        assert await backend.hear() == call(1)
        return client, backend

    async def _hear(self, one: Sealed, channel: trio.MemorySendChannel[bytes]) -> None:
        async def deliver(message: memoryview) -> None:
            await channel.send(bytes(message))

        async def control() -> None:
            await tls.handle_control(self.client, one.sock)

        reason = "the end"
        try:
            await one.sock.rpc.pump(RecordReader(LIMIT), deliver, control)
        except WorldError as error:
            reason = str(error)
        finally:
            await tls.disconnect(self.client, one.sock, reason)
        channel.close()
        one.ended.set()

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.host.trace.since() if event["event"] in names]

    async def event(self, name: str, number: int = 1) -> dict[str, Any]:
        """The event; waits until it has happened `number` times."""
        happened = trio.Event()
        with self.host.trace.subscribed(lambda event: happened.set()):
            while len(found := self.events(name)) < number:
                await happened.wait()
                happened = trio.Event()
        return found[number - 1]


@asynccontextmanager
async def world(
    base: Path,
    *allowed: Allowed,
    servers: Sequence[Server] = (Server(ONE),),
    mount_tls: bool = False,
    engine: str = "software",
    **policy: Any,
) -> AsyncIterator[World]:
    """A front inside the block. `engine`: of both hosts. `policy`: see Policy; no checks unless
    they are asked for."""
    policy.setdefault("check_seconds", 0)
    async with AsyncExitStack() as stack:
        hosts = {
            role: await stack.enter_async_context(
                booted(HostConfig(role, base / role[0], engine=parse_engines(engine)))
            )
            for role in ("client", "server")
        }
        nursery = await stack.enter_async_context(trio.open_nursery())
        daemons = {role: StandIn(role, hosts[role].rundir.path) for role in ("client", "server")}
        for daemon in daemons.values():
            await nursery.start(daemon.run)
        behind = Servers(stack.enter_context(ExitStack()))
        host = hosts["server"]
        backends = Backends(servers, Policy(**policy), host.trace, behind.connect)
        front = Front(Clients(allowed or [Allowed()]), backends, mount_tls, True)
        nursery.start_soon(backends.watch)
        yield World(hosts["client"], host, front, behind, nursery, daemons)
        nursery.cancel_scope.cancel()
