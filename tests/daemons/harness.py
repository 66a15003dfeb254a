"""A daemon inside the test process, a small kernel below it, and TLS peers in threads."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from umktls_daemons.programs.options import ClientOptions, ServerOptions
from umktls_daemons.programs.rpctlscd import ClientService
from umktls_daemons.programs.rpctlssd import ServerService
from umktls_daemons.programs.running import upcalls_of
from umktls_daemons.programs.service import HandshakeService

from tests.conftest import patience
from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.pki import certificates
from umktls.abi import rpctls
from umktls.upcall.versions import VERSIONS
from umktls.userland.libc import Kernel

T = TypeVar("T")

RESULT_OK = rpctls.RPCTLSERR_OK
ENCRYPTED = rpctls.RPCTLS_FLAGS_HANDSHAKE
MUTUAL = rpctls.RPCTLS_FLAGS_HANDSHAKE | rpctls.RPCTLS_FLAGS_GOTCERT | rpctls.RPCTLS_FLAGS_VERIFIED


@dataclass
class Peer:
    """The other end of a connection: a raw socket and threads to work on it."""

    sock: socket.socket
    pool: ThreadPoolExecutor

    def run(self, work: Callable[[socket.socket], T]) -> Future[T]:
        return self.pool.submit(work, self.sock)

    def tls(
        self, context: ssl.SSLContext, work: Callable[[ssl.SSLSocket], T], **options: Any
    ) -> Future[T]:
        """Handshake in a thread, then `work`."""

        def handshake(sock: socket.socket) -> T:
            with context.wrap_socket(sock, suppress_ragged_eofs=False, **options) as tls:
                return work(tls)

        return self.run(handshake)


class Harness:
    """One daemon with its kernel. `service` is the daemon's object; `options` are the settings that
    the next one starts with."""

    def __init__(
        self,
        kernel: FakeKernel,
        start: Callable[[], HandshakeService],
        pool: ThreadPoolExecutor,
        options: dict[str, Any],
    ):
        self.kernel = kernel
        self.options = options
        self.service = start()
        self._start = start
        self._pool = pool
        self._sockets: list[socket.socket] = []

    def start_another(self, *left: FakeSocket) -> None:
        """The daemon is gone, and another one takes its place. It adopts the sessions `left`."""
        self.kernel.orphans += left
        self.service = self._start()

    def connection(self, **options: Any) -> tuple[FakeSocket, Peer]:
        """A new connection: the kernel's end and the peer's."""
        return self.wrap(*socket.socketpair(), **options)

    def wrap(
        self, near: socket.socket, far: socket.socket, **options: Any
    ) -> tuple[FakeSocket, Peer]:
        """The same for a connection that is there already."""
        far.settimeout(SECONDS)
        self._sockets += [near, far]
        return FakeSocket(near, **options), Peer(far, self._pool)

    def receive(self, sock: FakeSocket, length: int) -> bytes:
        """Application data, with HANDLERECORD for whatever comes before it."""
        return sock.receive(length, self.kernel.handlerecord)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


DAEMONS = {"client": "rpctlscd", "server": "rpctlssd"}


def service_of(side: str, kernel: Kernel, **options: Any) -> HandshakeService:
    """A daemon's object for the settings `options`."""
    if side == "client":
        return ClientService(kernel, ClientOptions(**options))
    return ServerService(kernel, ServerOptions(**options))


@contextlib.contextmanager
def daemon(
    side: str, directory: Path, certificate: str | None = None, **options: Any
) -> Iterator[Harness]:
    """The daemon of one side, with the test certificate of that name in its -D directory."""
    name = DAEMONS[side]
    certdir = directory / "certdir"
    certdir.mkdir()
    if certificate is not None:
        certificates().certdir(certificate, certdir)
    options.setdefault("verifylocs", certificates().ca)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        kernel = stack.enter_context(FakeKernel(directory, VERSIONS[1].programs[name]))

        def start() -> HandshakeService:
            connection = Kernel(directory)
            stack.callback(connection.close)
            service = service_of(side, connection, rundir=directory, certdir=certdir, **options)
            upcalls = upcalls_of(service, connection, name)
            upcalls.start()
            stack.callback(upcalls.close)
            service.adopt_orphans(upcalls)
            return service

        harness = Harness(kernel, start, pool, options)
        # Before the threads of the pool are waited for.
        stack.callback(harness.close)
        yield harness


def client_context(
    certificate: str | None = None, alpn: tuple[str, ...] = ("sunrpc",)
) -> ssl.SSLContext:
    """A client of the ssl module that trusts the good CA."""
    context = ssl.create_default_context(cafile=str(certificates().ca))
    # An end without close_notify is none to be silent of; Python 3.11.2 would be.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return _finish(context, certificate, alpn)


def server_context(
    certificate: str = "server", alpn: tuple[str, ...] = ("sunrpc",), *, mutual: bool = False
) -> ssl.SSLContext:
    """A server of the ssl module."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(certificates().ca))
    return _finish(context, certificate, alpn)


def _finish(
    context: ssl.SSLContext, certificate: str | None, alpn: tuple[str, ...]
) -> ssl.SSLContext:
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        context.load_cert_chain(
            certificates().certificate(certificate), certificates().key(certificate)
        )
    return context


def echo(tls: ssl.SSLSocket) -> bytes:
    """Read 4 bytes and send them back in capitals."""
    data = tls.recv(4)
    tls.sendall(data.upper())
    return data


def exchange(tls: ssl.SSLSocket) -> bytes:
    """Send 4 bytes and read what comes back."""
    tls.sendall(b"ping")
    return tls.recv(4)


def ping_pong(server: Harness, sock: FakeSocket, client: Future[Any]) -> None:
    """The kernel's part where the peer plays `exchange`."""
    assert server.receive(sock, 4) == b"ping"
    sock.send(b"pong")
    assert client.result(SECONDS) == b"pong"


def session_of(
    server: Harness, context: ssl.SSLContext, **options: Any
) -> tuple[FakeSocket, ssl.SSLSession | None]:
    """A first connection of a client's, and the session by whose ticket it can come again."""
    sock, peer = server.connection()
    ticket = peer.tls(context, lambda tls: (tls.recv(4), tls.session)[1], **options)
    server.kernel.connect(sock)
    sock.send(b"ping")
    return sock, ticket.result(SECONDS)


@contextlib.contextmanager
def at_a_terminal(
    command: Sequence[str | Path],
) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """A daemon that has asked for a passphrase on its terminal, and that terminal; gone behind the
    block."""
    master, slave = pty.openpty()
    with open(master, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(command, stdin=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        try:
            prompt = b""
            while not prompt.endswith(b"private key: "):
                prompt += terminal.read(100)
            yield process, terminal
        finally:
            process.kill()
            process.wait(patience(SECONDS))


def ping(client: Harness, sock: FakeSocket) -> None:
    """The kernel's part of `echo`."""
    sock.send(b"ping")
    assert client.receive(sock, 4) == b"PING"
