"""A TCP socket of a host's kernel that a process has, and its peer, played byte by byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conformance.world import ENABLE, ROOM, TLS, Peer, crypto_info, enable_value, keys
from tests.conftest import patience
from tests.kernel.clientworld import World, world
from umktls.abi import linux
from umktls.abi.freebsd import IPPROTO_TCP
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.tcpstate import TCP_CLOSE, tcp_state
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import parse_engines
from umktls.ktls.session import Direction, Session
from umktls.rpc.record import RecordReader
from umktls.testing.played import Refused
from umktls.upcall import syscalls as wire

__all__ = ["SECONDS", "Taken", "received", "refusal", "taken", "tcp_ends"]

SECONDS = 10
TCP_CLOSE_WAIT = 8
# Any call: when it is answered, the kernel knows the process.
HELLO = wire.UtraceArgs(b'{"event": "warning", "reason": "a process is here"}')

Connection = Callable[[socket.socket], socket.socket]


@dataclass
class Taken:
    """`number` is the process's descriptor; `far` is the peer's end of TCP.

    What the peer seals and opens is under the keys of `enable`.
    """

    world: World
    sock: KernelSocket
    number: int
    far: trio.socket.SocketType
    peers: Mapping[Direction, Peer] = field(
        default_factory=lambda: {"tx": Peer(keys()), "rx": Peer(keys())}
    )

    # What the process does

    async def call(self, args: Any) -> Any:
        return await self.world.calls.call(args)

    async def set(
        self, level: int, name: int, value: bytes, memory: tuple[wire.Segment, ...] = ()
    ) -> None:
        await self.call(wire.SetsockoptArgs(self.number, level, name, value, memory))

    async def get(self, level: int, name: int, length: int = 64) -> bytes:
        return bytes(await self.call(wire.GetsockoptArgs(self.number, level, name, length)))

    async def enable(self, direction: Direction, session: Session | None = None) -> None:
        """Set a key the way this kernel has it."""
        session = session or keys()
        if "freebsd" in self.sock.state.personality.keys.interfaces:
            request = enable_value(session)
            memory = tuple(wire.Segment(*segment) for segment in request.memory)
            await self.set(IPPROTO_TCP, ENABLE[direction], request.value, memory)
            return
        if not self.sock.state.ulp:
            await self.set(linux.SOL_TCP, linux.TCP_ULP, linux.TLS_ULP_NAME)
        await self.set(linux.SOL_TLS, TLS[direction], crypto_info(session).pack())

    async def send(self, data: bytes, record_type: int | None = None, flags: int = 0) -> int:
        abi = self.sock.state.personality.messages
        control = b""
        if record_type is not None:
            control = abi.layout.pack(*abi.set_record_type, bytes((record_type,)))
        return int(await self.call(wire.SendmsgArgs(self.number, data, control, flags)))

    async def recv(self, length: int = 16384) -> bytes:
        return bytes((await self.call(wire.RecvmsgArgs(self.number, length, ROOM, 0))).data)

    # What the peer does

    async def arrive(self, data: bytes, record_type: int) -> None:
        """The peer sends a record."""
        await self.far.send(self.peers["rx"].seal(data, record_type))

    async def records(self, count: int) -> list[tuple[int, bytes]]:
        """The next records that the kernel has sent."""
        found = []
        for _ in range(count):
            header = await self._exactly(5)
            body = await self._exactly(int.from_bytes(header[3:], "big"))
            found += self.peers["tx"].open(header + body)
        return found

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = await self.far.recv(length - len(data))
            assert more, "the stream has ended"
            data += more
        return data

    async def reset(self) -> None:
        """The peer's RST has come."""
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.far.close()
        await self.tcp(TCP_CLOSE)

    async def end(self) -> None:
        """The peer's FIN has come."""
        self.far.shutdown(socket.SHUT_WR)
        await self.tcp(TCP_CLOSE_WAIT)

    async def tcp(self, state: int) -> None:
        while tcp_state(self.sock.sock) != state:
            await trio.lowlevel.checkpoint()


async def received(t: Taken, deliver: Callable[[bytes], object]) -> str:
    """Receive as RPC does: messages are delivered, control records go to the daemon. The error by
    which reception has ended, or nothing at the end of the stream."""

    async def message(data: memoryview) -> None:
        deliver(bytes(data))

    async def control() -> None:
        await tls.handle_control(t.world.host, t.sock)

    try:
        await t.sock.rpc.pump(RecordReader(1000), message, control)
    except (PeerError, WorldError) as error:
        return str(error)
    return ""


async def refusal(call: Callable[..., Any], *arguments: Any) -> int:
    """The errno with which the kernel refuses a system call, by its own numbers."""
    with pytest.raises((Refused, UmktlsError)) as caught:
        await call(*arguments)
    return caught.value.errno


def tcp_ends() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection; the second does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        far.setblocking(False)
        return listener.accept()[0], far


@asynccontextmanager
async def taken(
    path: Path,
    personality: str = "umktls",
    engine: str = "software",
    wrap: Connection = lambda sock: sock,
) -> AsyncIterator[Taken]:
    """A socket that a process of a client host has, as after a CONNECT. `wrap`: its TCP socket."""
    with trio.fail_after(patience(SECONDS)):
        near, far = tcp_ends()
        async with world(path, personality, engine=parse_engines(engine)) as w:
            sock = w.host.adopt(wrap(near))
            w.cleanup.callback(sock.close, "the test is over")
            await w.calls.call(HELLO)
            (process,) = w.host.syscalls.processes
            with trio.socket.from_stdlib_socket(far) as end:
                yield Taken(w, sock, process.install(sock), end)
