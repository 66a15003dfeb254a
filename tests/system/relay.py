"""A TCP relay between a mount and its server, which loses what it is told to lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Relay", "Relayed", "Way", "relaying", "shut"]

PIECE = 1 << 16
RECORD_HEADER = 5  # RFC 8446 section 5.1; its last two bytes are the length
END_SECONDS = 60


class Way:
    """One direction of a connection. While it is held, bytes are taken and not passed on."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source = source
        self._target = target
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._held = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def waiting(self) -> int:
        """How many bytes have been taken and not passed on."""
        return len(self._waiting)

    def hold(self) -> None:
        with self._lock:
            self._held = True

    def let_go(self) -> None:
        """Pass on what has been held, and from now on everything."""
        with self._lock:
            self._held = False
            self._pass_on()

    def let_one_record_go(self) -> None:
        """Pass on the first TLS record of those that are held, if all of it is here."""
        with self._lock:
            end = RECORD_HEADER + int.from_bytes(self._waiting[3:RECORD_HEADER], "big")
            if RECORD_HEADER < end <= len(self._waiting):
                self._target.sendall(self._waiting[:end])
                del self._waiting[:end]

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._source.recv(PIECE):
                with self._lock:
                    self._waiting += data
                    if not self._held:
                        self._pass_on()
        with self._lock:
            if not self._held:
                shut(self._target, socket.SHUT_WR)

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            self._target.sendall(self._waiting)
        self._waiting.clear()


class Relayed:
    """One connection through the relay: `calls` go to the server, `replies` come back."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.calls = Way(client, server)
        self.replies = Way(server, client)
        for way in (self.calls, self.replies):
            way.thread.start()

    def cut(self) -> None:
        """Both ends see the connection end; what is on its way is lost."""
        shut(self.client)
        shut(self.server)

    def close(self) -> None:
        self.cut()
        for way in (self.calls, self.replies):
            way.thread.join(END_SECONDS)
        self.client.close()
        self.server.close()


def shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """shutdown(2); it may have been done already."""
    with contextlib.suppress(OSError):
        sock.shutdown(how)


class Relay:
    """Listens on `port`, and relays each connection to the port that `to` was told."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._target = 0
        self.port: int = listener.getsockname()[1]
        self.connections: list[Relayed] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def to(self, port: int) -> int:
        """Relay to this port; returns the relay's own."""
        self._target = port
        self._thread.start()
        return self.port

    @property
    def current(self) -> Relayed:
        """The connection that is in use."""
        return self.connections[-1]

    def cut(self) -> None:
        """Cut the connection that is in use."""
        self.current.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), END_SECONDS)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self.connections.append(Relayed(client, server))

    def close(self) -> None:
        shut(self._listener)
        if self._target:
            self._thread.join(END_SECONDS)
        for connection in self.connections:
            connection.close()


@contextmanager
def relaying() -> Iterator[Relay]:
    """A relay that listens; it is gone at the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener)
        try:
            yield relay
        finally:
            relay.close()
