"""Which netlink sockets are ours, and under which port each is known, netlink(7)."""

from __future__ import annotations

import errno
import struct

from umktls.abi.handshake import AF_NETLINK
from umktls.run.call import Call
from umktls.run.netlink import NetlinkSocket
from umktls.run.proc import inode_of, process_of
from umktls.run.system import refused

__all__ = ["SOCKADDR_NL", "NetlinkNames", "address_untrusted"]

SOCKADDR_NL = struct.Struct("<HHII")
# A port that nobody has, where the process's number is taken: below this, as Linux's.
PORTS_BELOW = (1 << 32) - 4096


class NetlinkNames:
    """The sockets by the inode of the program's end, and by port."""

    def __init__(self) -> None:
        self._sockets: dict[int, NetlinkSocket] = {}
        self._ports: dict[int, NetlinkSocket] = {}

    def find(self, call: Call) -> NetlinkSocket | None:
        """Ours, if the call's descriptor is of one of ours."""
        return self._sockets.get(inode_of(call.thread, call.number(0))) if self._sockets else None

    def add(self, ours: NetlinkSocket) -> None:
        self._sockets[ours.inode] = ours

    def remove(self, ours: NetlinkSocket) -> None:
        del self._sockets[ours.inode]
        if self._ports.get(ours.port) is ours:
            del self._ports[ours.port]

    def __contains__(self, ours: NetlinkSocket) -> bool:
        return ours.inode in self._sockets

    def bind(self, ours: NetlinkSocket, thread: int, port: int) -> None:
        """`port` 0: any, netlink_autobind. Raises OSError."""
        if not port:
            port = process_of(thread)
            below = PORTS_BELOW
            while port in self._ports:
                below -= 1
                port = below
        if port in self._ports:
            raise refused(errno.EADDRINUSE)
        self._ports[port] = ours
        ours.port, ours.bound = port, True


def address_untrusted(call: Call, where: int, length: int) -> tuple[int, int]:
    """Port and groups of a sockaddr_nl of the program's. Raises OSError."""
    if length < SOCKADDR_NL.size:
        raise refused(errno.EINVAL)
    raw = call.memory.read(where, SOCKADDR_NL.size)
    if not call.valid:
        raise refused(errno.EINTR)
    family, _, port, groups = SOCKADDR_NL.unpack(raw)
    if family != AF_NETLINK:
        raise refused(errno.EINVAL)
    return port, groups
