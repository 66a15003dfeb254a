"""The test bench: a host, the daemon under test as its process, and meetings with scripted peers.

A `Meeting` is one TCP connection. At one end is the host, with its kernel TLS and the daemon; at
the other a `TlsPeer` in the hands of a scenario. On a client host the kernel end connects and
calls, so the peer is the server; on a server host it is the other way round.
"""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from typing import Literal, Protocol

import trio

from umktls.abi.personality import Personality
from umktls.certs.kinds import Wallet
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Event
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.connecting import secure
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Connection
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.kernel.upcalls.daemons import PATIENCE
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.rpc import xdr
from umktls.rpc.message import (
    NULL_AUTH,
    STARTTLS_VERIFIER,
    AcceptStat,
    AuthFlavor,
    Call,
    OpaqueAuth,
    encode_accepted,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.program import Program
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.server import Dispatcher, Service
from umktls.scenarios.subject import DAEMONS, Role, Subject
from umktls.scenarios.tlspeer import APPLICATION_DATA, TlsPeer, keylog_in

__all__ = ["DAEMONS", "Bench", "Meeting", "Role", "Unexpected"]

ECHO = Program(0x20756D6B, 1, "ECHO")
"""What is said over the finished connections; the number is one of those for everybody's use."""
ECHO.add(0, "NULL", xdr.VOID, xdr.VOID)
SAY = ECHO.add(1, "SAY", xdr.opaque(1 << 20), xdr.opaque(1 << 20))

CALL_SECONDS = 10.0
END_SECONDS = 5.0
MESSAGE_LIMIT = 1 << 21
# Three records each way.
TALK_BYTES = 40_000


class Need(Protocol):
    """See `umktls.scenarios.table.Need`."""

    def met(self, personality: Personality, agent: bool) -> bool: ...


class Unexpected(WorldError):
    """The daemon, or the kernel with it, did something else than the scenario expects."""


@dataclass
class Bench:
    """What scenarios work with. `seconds` is the upcall's deadline. `agent`: the daemon is one for
    Linux's netlink family `handshake`."""

    role: Role
    host: Host
    subject: Subject
    wallet: Wallet
    directory: Path
    seconds: float
    listener: socket.socket
    agent: bool = False

    def has(self, need: Need) -> bool:
        return need.met(self.host.personality, self.agent)

    @property
    def silence_seconds(self) -> float:
        """How long a peer may say nothing: to a server a little longer than an upcall takes."""
        return self.seconds * (PATIENCE if self.role == "server" else 1)

    @property
    def daemon(self) -> str:
        return DAEMONS[self.role]

    @asynccontextmanager
    async def meeting(
        self, security: Literal["tls", "mtls"] = "tls", server: str = "localhost"
    ) -> AsyncIterator[Meeting]:
        """A new connection; at the end of the block both ends are closed. `server` is what a
        client's host has mounted."""
        near, far = self._tcp_pair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        peer = TlsPeer(stream, keylog_in(self.directory), server=self.role == "client")
        end = ClientEnd if self.role == "client" else ServerEnd
        async with trio.open_nursery() as nursery:
            meeting = Meeting(self, peer, end(self, near, security, server))
            nursery.start_soon(meeting.kernel.run)
            try:
                yield meeting
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(peer.stream)
                    with trio.move_on_after(END_SECONDS):
                        await meeting.kernel.ended.wait()
            nursery.cancel_scope.cancel()

    def _tcp_pair(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a TCP connection on this machine: the host's, and the peer's.

        The server's end has the same port every time: tickets are kept by address and port.
        """
        connecting = socket.create_connection(self.listener.getsockname())
        accepted, _ = self.listener.accept()
        for sock in (connecting, accepted):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (connecting, accepted) if self.role == "client" else (accepted, connecting)

    def registered_pid(self) -> int:
        """The daemon's process, which need not be the one that was started."""
        return self.host.handles[self.daemon][0].pid

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that changes only when something happens in the trace."""
        happened = trio.Event()

        def note(_: Event) -> None:
            happened.set()

        with self.host.trace.subscribed(note):
            while not condition():
                await happened.wait()
                happened = trio.Event()


class KernelEnd:
    """The host's end of a meeting. `ended` is set when it is over, with `error` if it never was
    a session."""

    def __init__(self, bench: Bench, sock: socket.socket, security: str, server: str) -> None:
        self.bench = bench
        self.security = security
        self.server = server
        self.raw = sock
        self.sock: KernelSocket | None = None
        self.ended = trio.Event()
        self.error: UmktlsError | None = None

    @property
    def established(self) -> bool:
        return self.sock is not None and self.sock.session is not None

    @property
    def flags(self) -> int:
        """RPCTLS_FLAGS_*, as the daemon has told them."""
        return 0 if self.sock is None else self.sock.identity.flags

    async def run(self) -> None:
        raise NotImplementedError


class ClientEnd(KernelEnd):
    """A mount's connection, and calls on it."""

    rpc: RpcClient

    async def run(self) -> None:
        host = self.bench.host
        config = MountConfig(self.server, "/", security=self.security)
        adopted = host.adopt(self.raw, self.security, config.server)
        self.sock = adopted
        host.trace.emit("tcp-connect", adopted.name, peer=adopted.peer, local=adopted.local)
        try:
            await secure(host, adopted, config)
        except UmktlsError as error:
            self.error = error
            self.ended.set()
            return
        self.rpc = RpcClient(
            no_second, self._disconnect, self._control, host.trace, CALL_SECONDS, "the peer"
        )
        self.rpc.offer(adopted)
        await self.rpc.run()

    async def _control(self, sock: KernelSocket) -> None:
        await tls.handle_control(self.bench.host, sock)

    async def _disconnect(self, sock: KernelSocket, reason: str) -> None:
        await tls.disconnect(self.bench.host, sock, reason)
        self.ended.set()


async def no_second() -> KernelSocket:
    raise TlsRefused("the connection ended")


class ServerEnd(KernelEnd):
    """A client's connection, and the service that it calls."""

    async def run(self) -> None:
        echo: Callable[..., object] = lambda data, context: data  # noqa: E731
        dispatcher = Dispatcher([Service(ECHO, {"SAY": echo})])
        host = self.bench.host
        adopted = host.adopt(self.raw, self.security)
        self.sock = adopted
        host.trace.emit("tcp-accept", adopted.name, peer=adopted.peer)
        await Connection(host, adopted, self.raw.getpeername()).serve(dispatcher, True)
        self.ended.set()


@dataclass
class Meeting:
    """One connection: the peer, and the kernel's end."""

    bench: Bench
    peer: TlsPeer
    kernel: KernelEnd
    began: float = field(default_factory=trio.current_time)
    _reader: RecordReader = field(default_factory=lambda: RecordReader(MESSAGE_LIMIT))

    # ---- in clear

    async def probe(self) -> None:
        """The AUTH_TLS probe, asked or answered with STARTTLS."""
        if self.peer.server:
            call = await self._clear_message()
            assert isinstance(call, Call)
            reply = encode_accepted(call.xid, STARTTLS_VERIFIER, AcceptStat.SUCCESS)
            await self.peer.write(mark(len(reply)) + reply)
            return
        credential = OpaqueAuth(AuthFlavor.AUTH_TLS, b"")
        message = encode_call(random.getrandbits(32), ECHO.number, 1, 0, credential, NULL_AUTH)
        await self.peer.write(mark(len(message)) + message)
        reply_message = await self._clear_message()
        if getattr(reply_message, "verifier", None) != STARTTLS_VERIFIER:
            raise Unexpected(f"the host answers the probe with {reply_message}")

    async def _clear_message(self) -> object:
        length = int.from_bytes(await self.peer.read_exact(4), "big") & 0x7FFFFFFF
        return parse_untrusted(memoryview(await self.peer.read_exact(length)))

    # ---- RPC over TLS

    def call_message(self, data: bytes) -> bytes:
        """A call of SAY, record mark included."""
        message = encode_call(random.getrandbits(32), ECHO.number, 1, 1, NULL_AUTH, NULL_AUTH)
        message += b"".join(SAY.encode_args(data))
        return mark(len(message)) + message

    async def talk(self, length: int = TALK_BYTES) -> None:
        """One call and its answer. Raises `Unexpected` when another answer comes."""
        data = random.randbytes(length)
        if isinstance(self.kernel, ClientEnd):
            await self.established()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer)
                answer = await self.kernel.rpc.call(SAY, data, NULL_AUTH)
        else:
            await self.peer.send(APPLICATION_DATA, self.call_message(data))
            answer = await self.answer_to_peer()
        if answer != data:
            raise Unexpected("the answer to a call is not what the server said")

    async def _answer(self) -> None:
        """The peer answers one call, by saying the same."""
        call = await self._message()
        assert isinstance(call, Call)
        reply = encode_accepted(call.xid, NULL_AUTH, AcceptStat.SUCCESS) + bytes(call.body)
        await self.peer.send(APPLICATION_DATA, mark(len(reply)) + reply)

    async def answer_to_peer(self) -> bytes:
        """What the host has answered to the peer's call."""
        reply = await self._message()
        return bytes(SAY.decode_result_untrusted(reply.body))  # type: ignore[attr-defined]

    async def _message(self) -> object:
        while True:
            for message in self._reader.messages():
                return parse_untrusted(message)
            self._reader.feed(await self.peer.receive_data())

    # ---- what became of it

    async def established(self) -> None:
        """Wait until the host has its session. Raises `Unexpected` when it gets none."""
        kernel = self.kernel

        def known() -> bool:
            ready = isinstance(kernel, ServerEnd) or hasattr(kernel, "rpc")
            return kernel.ended.is_set() or (kernel.established and ready)

        await self.bench.until(known)
        if not kernel.established:
            raise Unexpected(f"no session: {self.reason()}")

    async def over(self) -> str:
        """Wait until the host has ended the connection; why it did."""
        await self.kernel.ended.wait()
        return self.reason()

    async def refused(self, within: float = math.inf) -> str:
        """Wait until the host has given up; the phase and the reason.

        Raises `Unexpected` when there is a session, or when it took longer than `within` seconds.
        """
        kernel = self.kernel
        await self.bench.until(lambda: kernel.ended.is_set() or kernel.established)
        if kernel.established:
            raise Unexpected("a session was made")
        took = trio.current_time() - self.began
        if took > within:
            raise Unexpected(f"refused only after {took:.1f} s: {self.reason()}")
        return f"refused ({self.reason()})"

    def reason(self) -> str:
        """Why the host ended the connection, as far as it knows."""
        sock = self.kernel.sock
        if sock is not None and sock.failure is not None:
            return f"{sock.failure.phase}: {sock.failure.reason}"
        return str(self.kernel.error or "no reason given")
