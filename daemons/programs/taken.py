"""What a handshake begins with: a socket that was taken, and what is to be made of it."""

from __future__ import annotations

from collections.abc import Callable

from umktls.dataclass import dataclass
from umktls.userland.libc import Socket
from umktls.userland.streams import Deadline

from ..sessions.handshake import Expectations
from ..tls.tlsadapter import Endpoint, TlsSession

__all__ = ["Attempt", "Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A socket that was taken. `security` is what the mount or the export asks for: tls or mtls,
    or anonymous, which is TLS without a client certificate;
    `connection` is what the kernel's trace calls it, such as c7. `deadline` is the upcall's.
    """

    sock: Socket
    security: str
    address: str
    port: int
    deadline: Deadline
    connection: str = ""

    @classmethod
    def ask(cls, sock: Socket) -> Taken:
        """Ask the kernel what there is to know."""
        host, port = sock.peer_address() or ("", 0)
        about = sock.about()
        return cls(sock, about.security, host, port, about.deadline, about.connection)

    def __str__(self) -> str:
        """For the log: the peer, and the name by which trace and mount know the connection."""
        peer = self.address or "a local peer"
        return f"{peer} [connection {self.connection}]" if self.connection else peer


@dataclass(frozen=True, slots=True)
class Attempt:
    """A handshake to be made; `keep` is given each session ticket that arrives later."""

    endpoint: Endpoint
    expected: Expectations
    keep: Callable[[TlsSession], None] | None = None
