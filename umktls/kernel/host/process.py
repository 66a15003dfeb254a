"""An emulated process: a daemon as its kernel sees it."""

from __future__ import annotations

import errno
import itertools
import socket
from dataclasses import field

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, WorldError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.netlink import NetlinkSocket
from umktls.ktls.engines import Route
from umktls.upcall import syscalls as wire

__all__ = ["Process"]

# Descriptors of one emulated process; FreeBSD's kern.maxfilesperproc is larger, but a daemon that
# holds so many has a leak.
DESCRIPTOR_LIMIT = 65536


@dataclass(eq=False)
class Process:
    """A daemon as the emulated kernel sees it: its id, its descriptors.

    `may_wait`: a peer that does not read may have a call of its wait (`sendmsg` of
    umktls.kernel.sockets.calls). `answering`: the calls that are answered beside the others.
    """

    pid: int
    uid: int
    sock: socket.socket
    descriptors: dict[int, KernelSocket] = field(default_factory=dict)
    netlink: dict[int, NetlinkSocket] = field(default_factory=dict)
    taken: int | None = None  # what wire.TAKEN is in the calls that go together
    may_wait: bool = False
    answering: set[trio.CancelScope] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(3))

    def install(self, sock: KernelSocket) -> int:
        """A new descriptor for `sock`. Raises `CallerError` EMFILE when the table is full."""
        number = self._new_number()
        self.descriptors[number] = sock
        self.may_wait = self.may_wait or sock.detours.route("tx") is Route.HOST
        return number

    def forget(self, sock: KernelSocket) -> None:
        """`sock` is another process's from now on."""
        for number in [number for number, held in self.descriptors.items() if held is sock]:
            del self.descriptors[number]

    def install_netlink(self, sock: NetlinkSocket) -> int:
        """A new descriptor for a netlink socket. Raises as `install`."""
        number = self._new_number()
        self.netlink[number] = sock
        return number

    def _new_number(self) -> int:
        if len(self.descriptors) + len(self.netlink) >= DESCRIPTOR_LIMIT:
            raise CallerError(f"process {self.pid} has too many descriptors", errno.EMFILE)
        return next(self._numbers)

    def descriptor(self, number: int, gone: int = errno.ECONNRESET) -> KernelSocket:
        """The socket behind descriptor `number`.

        Raises `CallerError` EBADF where there is none, `WorldError` with the errno `gone` where the
        kernel has ended the connection below it.
        """
        if number == wire.TAKEN and self.taken is not None:
            number = self.taken
        sock = self.descriptors.get(number)
        if sock is None:
            raise CallerError(f"process {self.pid} has no descriptor {number}", errno.EBADF)
        if sock.closed:
            raise WorldError(f"{sock.name} has ended", gone)
        return sock
