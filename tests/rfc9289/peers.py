"""Peers that know nothing of this project: the ssl module as a client, a script as a server."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from tests.daemons.fakesocket import SECONDS, receive_message
from umktls.kernel.krpc.client import boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.krpc.server import Listening
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AuthFlavor,
    Call,
    DeniedReply,
    OpaqueAuth,
    encode_call,
    parse_untrusted,
)
from umktls.rpc.record import mark
from umktls.testing.echo import ECHO
from umktls.testing.hosts import mount_config, serving

T = TypeVar("T")
AUTH_TLS = OpaqueAuth(AuthFlavor.AUTH_TLS, b"")
Reply = Call | AcceptedReply | DeniedReply


class Client:
    """A TCP connection to a server, used by blocking calls in a thread."""

    def __init__(self, port: int, certs: Path) -> None:
        self._certs = certs
        self.raw: socket.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.tls: ssl.SSLSocket | None = None

    def close(self) -> None:
        (self.tls or self.raw).close()

    def probe(self) -> Reply:
        """The AUTH_TLS probe as RFC 9289 section 4.1 has it, and its answer."""
        return self.call(0, AUTH_TLS)

    def call(
        self,
        procedure: int,
        credential: OpaqueAuth = NULL_AUTH,
        verifier: OpaqueAuth = NULL_AUTH,
        arguments: bytes = b"",
    ) -> Reply:
        """One RPC, in TLS if there is TLS."""
        message = encode_call(7, ECHO.number, ECHO.version, procedure, credential, verifier)
        message += arguments
        (self.tls or self.raw).sendall(mark(len(message)) + message)
        return self.reply()

    def reply(self) -> Reply:
        return parse_untrusted(receive_message(_Exact(self.tls or self.raw)))

    def start_tls(self, certificate: bool = False, **options: Any) -> ssl.SSLSocket:
        """Shake hands; the server is to be localhost, of the CA, and to say sunrpc."""
        context = ssl.create_default_context(cafile=str(self._certs / "ca.pem"))
        context.set_alpn_protocols(options.pop("alpn", ["sunrpc"]))
        if certificate:
            part = self._certs / "client"
            context.load_cert_chain(part / "cert.pem", part / "certkey.pem")
        for name, value in options.items():
            setattr(context, name, value)
        self.tls = context.wrap_socket(
            self.raw, server_hostname="localhost", suppress_ragged_eofs=False
        )
        return self.tls


class _Exact:
    """A socket whose recv gives all that is asked for: TLS sockets know no MSG_WAITALL."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, length: int, flags: int = 0) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._sock.recv(length - len(data))
            if not piece:
                break
            data += piece
        return data


async def with_client(listening: Listening, certs: Path, work: Callable[[Client], T]) -> T:
    """Do `work` with a client of the server, in a thread."""

    def run() -> T:
        client = Client(listening.port, certs)
        try:
            return work(client)
        finally:
            client.close()

    return await trio.to_thread.run_sync(run)


def server(tmp_path: Path, certs: Path, **changes: Any) -> AbstractAsyncContextManager[Listening]:
    """A server with its daemon, which offers TLS and does not ask for it."""
    return serving(tmp_path / "s", **{"certs": certs, "security": "none", **changes})


Script = Callable[[trio.SocketStream], Awaitable[None]]
Connect = Callable[[], Awaitable[KernelSocket]]


@asynccontextmanager
async def client_of_script(tmp_path: Path, certs: Path, script: Script) -> AsyncIterator[Connect]:
    """A client host whose connections go to a server that is a script."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    config = mount_config(listeners[0].socket.getsockname()[1], tmp_path / "c", certs=certs)
    async with boot_client(config) as host, trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, script, listeners))
        await host.daemon_ready("rpctlscd")
        yield partial(make_connection, host, config)
        nursery.cancel_scope.cancel()


async def read_call(stream: trio.SocketStream) -> tuple[Call, bytes]:
    """The first call that arrives, with its bytes, and nothing behind it."""
    data = bytes(await stream.receive_some(4096))
    assert int.from_bytes(data[:4], "big") & 0x7FFFFFFF == len(data) - 4
    call = parse_untrusted(memoryview(data)[4:])
    assert isinstance(call, Call)
    return call, data
