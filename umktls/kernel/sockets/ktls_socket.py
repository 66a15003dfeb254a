"""A TCP socket of the emulated kernel: bytes on the wire, KTLS state, and who owns it.

`KernelSocket` is what its three users share:

    RPC           sends and receives messages by `rpc`                          rpcside.py
    a daemon      has taken the socket, and makes system calls                  calls.py
    the kernel    opens it, has it handshake, ends it; people ask for figures   here, stat.py

The protocol is in `umktls.ktls` and knows no sockets. A direction that kernel TLS does not take may
go another way (detours.py).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress

import trio

from umktls.abi import freebsd
from umktls.errors import PeerError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.peers import format_address
from umktls.kernel.owners.owner import Owner
from umktls.kernel.sockets.detours import WORDS, Detours, Means
from umktls.kernel.sockets.facts import Failure, Identity, TlsFacts
from umktls.kernel.sockets.following import Following
from umktls.kernel.sockets.lanes import Intake
from umktls.kernel.sockets.rpcside import RpcSide
from umktls.kernel.sockets.stream import SendQueue
from umktls.ktls.calls import KtlsSocket
from umktls.rpc.xdr import Struct

__all__ = ["KernelSocket"]


def prepare(sock: socket.socket) -> None:
    """Set the options that all sockets of the kernel have: no call blocks, and TCP does not keep a
    record back to send it with the next one."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# Sealing where nobody else does.
NOBODY_ELSE: AbstractAsyncContextManager[None] = nullcontext()


class KernelSocket:
    """One connected TCP socket. `name` is what the trace calls the connection.

    `security` is what the mount or export asks ("none", "tls", "mtls") and `peername` the server
    name that the user typed: the daemon can ask for both.
    """

    def __init__(
        self,
        sock: socket.socket,
        state: KtlsSocket,
        name: str,
        trace: Trace,
        means: Means,
        security: str = "none",
        peername: str = "",
    ) -> None:
        prepare(sock)
        self.sock = sock
        self.state = state
        self.name = name
        self.trace = trace
        self.security = security
        self.peername = peername
        self.peer = format_address(sock.getpeername())
        self.local = format_address(sock.getsockname())
        self.opened = trace.now()
        # What version 2 of the upcall calls this socket; the host gives it.
        self.cookie = 0
        self.deadline = 0.0  # of the CONNECT upcall, trio's time
        # What later upcalls have as their argument, the name of the session; None: there is none.
        self.session: Struct | None = None
        self.owner = Owner()
        self.identity = Identity()
        self.tls: TlsFacts | None = None
        self.failure: Failure | None = None
        self.phase = "connected"
        self.closed = False
        self.on_close: Callable[[KernelSocket], None] = lambda sock: None
        self.update_unanswered = False  # a KeyUpdate of ours that asks for the peer's
        self.following: Following | None = None  # a KeyUpdate of the peer's that is handed up
        # Where data comes from and goes to; `detours` may change it.
        self.intake: Intake | None = None  # None: from TCP as it is
        self.detours = Detours(self, means)
        self.card = self.detours.card()
        self.queue: SendQueue = self.card or SendQueue(sock, means.spawn)
        self.rpc = RpcSide(self, means.spawn)

    def sealing(self) -> AbstractAsyncContextManager[None]:
        """Inside the block nobody else seals: the caller can set a key or send a record."""
        return NOBODY_ELSE if self.card is None else self.card.lock

    def check_kernel_tls(self) -> None:
        """The kernel's own look at whether KTLS works, per direction.

        Raises `UmktlsError` when a direction has no keys and goes no other way that was asked for:
        nothing may be sent in clear then.
        """
        self.detours.go_clear(self.rpc.count_dropped)
        self.trace.emit(
            "mode",
            self.name,
            tx=freebsd.TCP_TLS_MODE_NAMES[self.state.mode("tx")],
            rx=freebsd.TCP_TLS_MODE_NAMES[self.state.mode("rx")],
            engine_tx=self.detours.engine("tx") or "none",
            engine_rx=self.detours.engine("rx") or "none",
        )
        missing = [word for direction, word in WORDS.items() if not self.detours.engine(direction)]
        if missing:
            raise PeerError(
                f"the daemon says the handshake succeeded, but set no keys for "
                f"{' and '.join(missing)}",
                errno.EPROTO,
            )

    def fail(self, failure: Failure) -> None:
        """Remember why TLS failed here; the first reason is the one that counts."""
        if self.failure is None:
            self.failure = failure

    def why_it_ended(self, otherwise: str) -> str:
        """The reason for the end of receiving: TLS's, if it has one."""
        return otherwise if self.failure is None else f"TLS ended: {self.failure}"

    def shutdown(self, how: int) -> None:
        """shutdown(2). What was sent before stays queued and goes first only as far as it fits.

        Reading is over at once, even if the peer goes on sending, for which Linux would have us
        read on.
        """
        if how != socket.SHUT_WR:
            self.rpc.end_reading()
        if how != socket.SHUT_RD:
            self.rpc.end_sending()
        self.detours.flush()
        try:
            self.sock.shutdown(how)
        except OSError as error:
            raise WorldError(f"shutdown: {error.strerror}", error.errno) from error
        if how != socket.SHUT_RD:
            self.state.conditions.shut = True

    def hang_up(self) -> None:
        """Nothing can be sent any more. What has arrived is still read: it may say why."""
        self.detours.flush()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.rpc.end_sending()
        self.rpc.resume()

    def close(self, reason: str) -> None:
        """Drop the kernel's reference. Bytes that the socket did not take yet are lost."""
        if self.closed:
            return
        self.closed = True
        self.phase = "closed"
        self.owner.wipe()
        self.queue.fail(WorldError(f"the connection was closed: {reason}", errno.ECONNABORTED))
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()
        self.rpc.close()
        self.detours.close()
        self.state.close()
        self.state.rx.close()
        self.trace.emit("closed", self.name, reason=reason)
        self.on_close(self)
