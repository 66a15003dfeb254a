"""RPC-with-TLS for clients that have none: a relay of the tests' own, by Python's ssl.

    a client in clear -> Sealing -> a server with RPC-with-TLS

It knows nothing of this project but how a probe looks. One thread for each connection.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import patience

__all__ = ["Sealing"]

SECONDS = 20.0
# A NULL call of NFS 3 with AUTH_TLS, and how the reply to it ends (RFC 9289 section 4.1).
PROBE = bytes.fromhex(
    "80000028 00000001 00000000 00000002 000186a3 00000003 00000000 00000007 00000000 00000000"
    "00000000"
)
STARTTLS = b"\0\0\0\x08STARTTLS\0\0\0\0"


class Sealing:
    """Serves a listening socket until it is closed. `connect` makes a connection to the server."""

    def __init__(
        self, listener: socket.socket, connect: Callable[[], socket.socket], certs: Path
    ) -> None:
        self.context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
        self.context.set_alpn_protocols(["sunrpc"])
        client = certs / "client"
        self.context.load_cert_chain(str(client / "cert.pem"), str(client / "certkey.pem"))
        self.port = listener.getsockname()[1]
        self.sealed = 0
        self._listener = listener
        self._connect = connect
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Nobody comes any more; wait until everybody has gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(patience(SECONDS))
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._relay, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _relay(self, plain: socket.socket) -> None:
        with plain, self._connect() as bare, suppress(OSError):
            bare.sendall(PROBE)
            answer = b""
            while len(answer) < 4 + 32:
                answer += bare.recv(100)
            assert answer.endswith(STARTTLS), answer
            with self.context.wrap_socket(bare, server_hostname="localhost") as tls:
                self.sealed += 1
                while step(plain, tls):
                    pass


def step(plain: socket.socket, tls: ssl.SSLSocket) -> bool:
    """Move what there is; False at the end."""
    ready = [tls] if tls.pending() else select.select([plain, tls], [], [])[0]
    if plain in ready:
        data = plain.recv(1 << 16)
        if not data:
            return False
        tls.sendall(data)
    if tls in ready:
        opened = _opened(tls)
        if opened is not None:
            plain.sendall(opened)
        return opened != b""
    return True


def _opened(tls: ssl.SSLSocket) -> bytes | None:
    """What has come; None where it was nothing for the client, as a server's tickets are: who
    waited for data behind them would leave alone what the client says."""
    seconds = tls.gettimeout()
    tls.settimeout(0)
    try:
        return tls.recv(1 << 16)
    except ssl.SSLWantReadError:
        return None
    finally:
        tls.settimeout(seconds)
