"""Which sockets of which process are ours."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from umktls.abi import linux
from umktls.kernel.host.host import Host
from umktls.kernel.sockets.calls import look_below, rx_enabled, tx_enabled
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.calls import KtlsSocket
from umktls.run.epolls import EpollMover
from umktls.run.proc import descriptors_of, flags_of, inode_of, registrations_of
from umktls.run.reactor import Reactor
from umktls.run.sockets import Replaced
from umktls.run.system import refused

__all__ = ["Registry"]

# Sockets with a ULP and no key that are remembered; who has more at once loses the oldest ULP.
ATTACHED_LIMIT = 16384
SO_COOKIE = 57
# What the pair is to have of the socket that it stands for.
COPIED_OPTIONS = (
    (socket.SO_RCVTIMEO, 16),
    (socket.SO_SNDTIMEO, 16),
)

Put = Callable[[int, int, int], None]


class Registry:
    """Sockets that have a ULP, by SO_COOKIE, and those behind a pair, by the inode of the program's
    end."""

    def __init__(self, host: Host, reactor: Reactor, mover: EpollMover) -> None:
        self._host = host
        self._reactor = reactor
        self._mover = mover
        self._attached: dict[bytes, KtlsSocket] = {}
        self.replaced: dict[int, Replaced] = {}

    def find(self, thread: int, number: int) -> Replaced | None:
        """Ours, if that descriptor of the process is of one of ours."""
        return self.replaced.get(inode_of(thread, number)) if self.replaced else None

    # ---- before the first key

    def attach(self, sock: socket.socket, value: bytes) -> None:
        """TCP_ULP on a socket of the program's. Raises `UmktlsError`."""
        state = self.attached(sock) or self._host.connections.new_state(sock)
        self._look(sock, state)
        state.setsockopt(linux.SOL_TCP, linux.TCP_ULP, value, no_copyin)
        self._attached[cookie(sock)] = state
        while len(self._attached) > ATTACHED_LIMIT:
            del self._attached[next(iter(self._attached))]

    def attached(self, sock: socket.socket) -> KtlsSocket | None:
        """The state of a socket that has a ULP and no key."""
        return self._attached.get(cookie(sock))

    def _look(self, sock: socket.socket, state: KtlsSocket) -> None:
        tcp = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
        first = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] if tcp else 0
        state.conditions.established = first == 1

    # ---- the first key

    def replace(self, sock: socket.socket, state: KtlsSocket, thread: int, put: Put) -> Replaced:
        """Put a pair in the place of `sock`, which is a copy of the program's and ours from now on.
        `put` makes (our descriptor, number, flags) a descriptor of the program's. Raises OSError;
        the socket has no ULP then.
        """
        self._attached.pop(cookie(sock), None)
        inode = os.fstat(sock.fileno()).st_ino
        numbers = descriptors_of(thread, inode)
        waiting = registrations_of(thread, inode)
        end, far = socket.socketpair()
        try:
            for option, size in COPIED_OPTIONS:
                value = sock.getsockopt(socket.SOL_SOCKET, option, size)
                far.setsockopt(socket.SOL_SOCKET, option, value)
            flags = {number: flags_of(thread, number) for number in numbers}
            far.setblocking(not any(each & os.O_NONBLOCK for each in flags.values()))
            for number, each in flags.items():
                put(far.fileno(), number, each & os.O_CLOEXEC)
            if waiting:
                self._mover.move(thread, waiting, sock.fileno(), far.fileno())
            kernel_socket = self._host.adopt(sock, state=state)
            # A program's keys are its own business.
            state.tx.on_wants_rekey = state.rx.on_wants_rekey = None
            replaced = Replaced(kernel_socket, end, os.fstat(far.fileno()).st_ino, self._reactor)
        except BaseException:
            end.close()
            raise
        finally:
            far.close()
        self.replaced[replaced.inode] = replaced
        self._host.spawn(self._carry, replaced)
        return replaced

    async def _carry(self, replaced: Replaced) -> None:
        try:
            await replaced.run()
        finally:
            self.replaced.pop(replaced.inode, None)


def cookie(sock: socket.socket) -> bytes:
    """SO_COOKIE: no other socket ever has the same."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def no_copyin(address: int, length: int) -> bytes:
    raise refused(errno.EFAULT)


def key_was_set(sock: KernelSocket, name: int) -> None:
    """Tell whoever watches."""
    sock.phase = "kernel TLS"
    if name == linux.TLS_TX:
        tx_enabled(sock)
    elif name == linux.TLS_RX:
        rx_enabled(sock)


def look(sock: KernelSocket) -> None:
    """See `look_below`."""
    if not sock.closed:
        look_below(sock)
