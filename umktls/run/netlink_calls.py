"""System calls on generic netlink sockets: socket(2), bind(2), sendmsg(2) and so on, netlink(7).

Errors and their order are those of Linux's net/netlink/af_netlink.c. Each handler says None where
the descriptor is no such socket: then the call is somebody else's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from umktls.abi.handshake import AF_NETLINK
from umktls.abi.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_GENERIC,
    SOL_NETLINK,
)
from umktls.errors import UmktlsError
from umktls.run.agency import Agency
from umktls.run.call import Answer, Call, Result, answer_later
from umktls.run.memory import MessageHeader, scatter
from umktls.run.messages import timeout_of
from umktls.run.netlink import NetlinkSocket
from umktls.run.proc import inode_of, nonblocking, process_of, waiting_in
from umktls.run.seccomp import In, Rule
from umktls.run.system import NUMBERS, refused
from umktls.upcall.syscalls import SetsockoptArgs

__all__ = ["NETLINK_TABLE", "NetlinkCalls"]

SOCKADDR_NL = struct.Struct("<HHII")
TYPES = (socket.SOCK_RAW, socket.SOCK_DGRAM)
TYPE_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
INT = struct.Struct("<i")
# linux/netlink.h: those that are a number and nothing else here.
NETLINK_PKTINFO, NETLINK_LIST_MEMBERSHIPS = 3, 9
SWITCHES = (3, 4, 5, 8, 10, 11, 12)
MEMBERSHIP = (NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP)
# Of SOL_SOCKET: what a pair would say otherwise.
ABOUT_ITSELF = (socket.SO_DOMAIN, socket.SO_PROTOCOL, socket.SO_TYPE)
# A port that nobody has, where the process's number is taken: below this, as Linux's.
PORTS_BELOW = (1 << 32) - 4096
MESSAGE_MAX = 1 << 18
# Whoever has joined is looked at so often, until it waits.
SETTLE_SECONDS = 0.05
RECEIVING = ("recvmsg", "recvfrom")
Handler = Callable[["NetlinkCalls", Call], Result | None]


class NetlinkCalls:
    """The handlers; see `NETLINK_TABLE` for when they are called. `spawn` starts a task."""

    def __init__(self, agency: Agency, spawn: Callable[..., None]) -> None:
        self._agency = agency
        self._spawn = spawn
        self._sockets: dict[int, NetlinkSocket] = {}
        self._ports: dict[int, NetlinkSocket] = {}

    def _find(self, call: Call) -> NetlinkSocket | None:
        return self._sockets.get(inode_of(call.thread, call.number(0))) if self._sockets else None

    # ---- socket(2)

    def socket(self, call: Call) -> Result | None:
        kind = call.number(1)
        if kind & ~TYPE_FLAGS not in TYPES:
            return Answer.GO_ON  # ESOCKTNOSUPPORT
        return answer_later(call, self._spawn, lambda: self._new(call, kind))

    async def _new(self, call: Call, kind: int) -> int:
        number, sock = await self._agency.ask(self._agency.kernel.netlink_socket)
        end, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            far.setblocking(not kind & socket.SOCK_NONBLOCK)
            inode = os.fstat(far.fileno()).st_ino
            ours = NetlinkSocket(self._agency, number, sock, end, inode, kind & ~TYPE_FLAGS)
            self._sockets[inode] = ours
            self._spawn(self._live, ours)
            flags = os.O_CLOEXEC if kind & socket.SOCK_CLOEXEC else 0
            return call.listener.add(call.notification.id, far.fileno(), flags)

    async def _live(self, ours: NetlinkSocket) -> None:
        try:
            await ours.run()
        finally:
            del self._sockets[ours.inode]
            if self._ports.get(ours.port) is ours:
                del self._ports[ours.port]
        await self._agency.sweep()

    # ---- names

    def bind(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        port, groups = self._address(call, call.argument(1), call.number(2))
        if ours.bound and port != ours.port:
            raise refused(errno.EINVAL)
        if not ours.bound:
            self._bind(ours, call.thread, port)
        if not groups:
            return 0
        numbers = {1 << bit for bit in range(32) if groups >> bit & 1}
        wanted = [number.bit_length() for number in sorted(numbers)]

        async def join_all() -> int:
            for group in wanted:
                await self._ask_membership(ours, NETLINK_ADD_MEMBERSHIP, group)
                ours.groups.add(group)
            return 0

        return answer_later(call, self._spawn, join_all)

    def _bind(self, ours: NetlinkSocket, thread: int, port: int) -> None:
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

    def _address(self, call: Call, where: int, length: int) -> tuple[int, int]:
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

    def connect(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        if call.number(2) >= 2 and call.memory.read(call.argument(1), 2) == bytes(2):  # AF_UNSPEC
            ours.peer = (0, 0)
            return 0
        ours.peer = self._address(call, call.argument(1), call.number(2))
        if not ours.bound:
            self._bind(ours, call.thread, 0)
        return 0

    def name(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        if call.notification.number == NUMBERS["getsockname"]:
            port, mask = ours.port, sum(1 << group - 1 for group in ours.groups if group <= 32)
        else:
            port, mask = ours.peer
        (room,) = INT.unpack(call.memory.read(call.argument(2), 4))
        if room < 0:
            raise refused(errno.EINVAL)
        call.memory.write(call.argument(1), SOCKADDR_NL.pack(AF_NETLINK, 0, port, mask)[:room])
        call.memory.write(call.argument(2), INT.pack(SOCKADDR_NL.size))
        return 0

    # ---- options

    def setsockopt(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        level, name = call.number(1), call.number(2)
        if level == socket.SOL_SOCKET:
            return Answer.GO_ON
        if level != SOL_NETLINK or name not in (*SWITCHES, *MEMBERSHIP):
            raise refused(errno.ENOPROTOOPT)
        value = 0
        if call.number(4) >= INT.size:
            (value,) = INT.unpack(call.memory.read(call.argument(3), INT.size))
        if name in MEMBERSHIP:
            return self._membership(call, ours, name, value)
        ours.options[name] = int(value != 0)
        return 0

    def _membership(self, call: Call, ours: NetlinkSocket, name: int, group: int) -> Result:
        if name == NETLINK_ADD_MEMBERSHIP and group in self._agency.groups:
            self._spawn(self._join_settled, ours, call.thread, group)
            ours.groups.add(group)
            return 0

        async def change() -> int:
            await self._ask_membership(ours, name, group)
            (ours.groups.add if name == NETLINK_ADD_MEMBERSHIP else ours.groups.discard)(group)
            return 0

        return answer_later(call, self._spawn, change)

    async def _ask_membership(self, ours: NetlinkSocket, name: int, group: int) -> None:
        value = INT.pack(group)
        await self._agency.call(SetsockoptArgs(ours.number, SOL_NETLINK, name, value, ()))

    async def _join_settled(self, ours: NetlinkSocket, thread: int, group: int) -> None:
        """A host has work for an agent as soon as it has one; a program that joins may have more to
        ask, and tlshd takes a READY that comes then for an answer. So it is a member, for the host,
        when it waits."""
        await settled(thread)
        if group in ours.groups and ours.inode in self._sockets:
            with suppress(UmktlsError):
                await self._ask_membership(ours, NETLINK_ADD_MEMBERSHIP, group)

    def getsockopt(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        level, name = call.number(1), call.number(2)
        (room,) = INT.unpack(call.memory.read(call.argument(4), INT.size))
        if room < 0:
            raise refused(errno.EINVAL)
        if level == socket.SOL_SOCKET and name in ABOUT_ITSELF:
            kinds = (AF_NETLINK, NETLINK_GENERIC, ours.kind)
            value = INT.pack(kinds[ABOUT_ITSELF.index(name)])
        elif level == socket.SOL_SOCKET:
            return Answer.GO_ON
        elif level == SOL_NETLINK and name == NETLINK_LIST_MEMBERSHIPS:
            mask = sum(1 << group - 1 for group in ours.groups)
            value = mask.to_bytes(-(-mask.bit_length() // 32) * 4 or 4, "little")
        elif level == SOL_NETLINK and name in SWITCHES:
            if room < INT.size:
                raise refused(errno.EINVAL)
            value = INT.pack(ours.options.get(name, 0))
        else:
            raise refused(errno.ENOPROTOOPT)
        call.memory.write(call.argument(3), value[:room])
        told = len(value) if name == NETLINK_LIST_MEMBERSHIPS else min(room, len(value))
        call.memory.write(call.argument(4), INT.pack(told))
        return 0

    # ---- messages

    def sendmsg(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        header = MessageHeader.read(call.memory, call.argument(1))
        data = gathered(call, header)
        return self._send(call, ours, data, header.name, header.name_length, call.number(2))

    def sendto(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        if call.argument(2) > MESSAGE_MAX:
            raise refused(errno.EMSGSIZE)
        data = call.memory.read(call.argument(1), call.argument(2))
        return self._send(call, ours, data, call.argument(4), call.number(5), call.number(3))

    def _send(
        self, call: Call, ours: NetlinkSocket, data: bytes, name: int, length: int, flags: int
    ) -> Result:
        if flags & socket.MSG_OOB:
            raise refused(errno.EOPNOTSUPP)
        if not data:
            raise refused(errno.ENODATA)
        port, groups = self._address(call, name, length) if name and length else ours.peer
        if not call.valid:
            raise refused(errno.EINTR)
        if not ours.bound:
            self._bind(ours, call.thread, 0)
        if groups:
            raise refused(errno.EPERM)  # no family here takes what programs send to a group
        if port:
            raise refused(errno.ECONNREFUSED)  # programs do not talk to each other by these

        def put(descriptor: int) -> int:
            return call.listener.add(call.notification.id, descriptor, os.O_CLOEXEC)

        async def deal_with() -> int:
            await ours.sent(data, call.thread, put)
            return len(data)

        return answer_later(call, self._spawn, deal_with)

    def recvmsg(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        header = MessageHeader.read(call.memory, call.argument(1))

        def deliver(data: bytes, source: bytes, control: bytes, flags: int) -> None:
            header.received(call.memory, data, control[: header.control_length], flags)
            if header.name:
                call.memory.write(header.name, source[: header.name_length])
                call.memory.write(header.address + 8, struct.pack("<I", len(source)))

        return self._receive(call, ours, header.length, call.number(2), deliver)

    def recvfrom(self, call: Call) -> Result | None:
        ours = self._find(call)
        if ours is None:
            return None
        length = min(call.argument(2), MESSAGE_MAX)

        def deliver(data: bytes, source: bytes, control: bytes, flags: int) -> None:
            scatter(call.memory, ((call.argument(1), length),), data)
            if call.argument(4):
                (room,) = INT.unpack(call.memory.read(call.argument(5), INT.size))
                call.memory.write(call.argument(4), source[: max(room, 0)])
                call.memory.write(call.argument(5), INT.pack(len(source)))

        return self._receive(call, ours, length, call.number(3), deliver)

    def _receive(
        self, call: Call, ours: NetlinkSocket, length: int, flags: int, deliver: Deliver
    ) -> Result:
        if flags & socket.MSG_OOB:
            raise refused(errno.EOPNOTSUPP)
        try:
            return receive_now(call, ours, length, flags, deliver)
        except BlockingIOError:
            with call.descriptor() as copy:
                if flags & socket.MSG_DONTWAIT or nonblocking(copy.fileno()):
                    raise
                seconds = timeout_of(copy)
        news = ours.arrived  # what comes before the task runs counts too

        async def receive_later() -> int:
            nonlocal news
            with trio.move_on_after(seconds):
                while True:
                    await news.wait()
                    news = ours.arrived
                    with suppress(BlockingIOError):
                        return receive_now(call, ours, length, flags, deliver)
            raise refused(errno.EAGAIN)

        return answer_later(call, self._spawn, receive_later)


async def settled(thread: int) -> None:
    """Until a thread waits: it is seen twice at the same place in the same system call, which is
    none that is answered here (receiving apart, which waits for something to come)."""
    busy = {NUMBERS[rule.call] for rule in NETLINK_TABLE} - {NUMBERS[name] for name in RECEIVING}
    before: tuple[int, str] | None = None
    with suppress(OSError):  # it has gone, or may not be looked at
        while True:
            now = waiting_in(thread)
            if now is not None and now == before and now[0] not in busy:
                return
            before = now
            await trio.sleep(SETTLE_SECONDS)


# Puts data, the source's address, control messages and flags where the program wants them.
Deliver = Callable[[bytes, bytes, bytes, int], None]


def receive_now(call: Call, ours: NetlinkSocket, length: int, flags: int, deliver: Deliver) -> int:
    """One datagram. Raises OSError, BlockingIOError where there is none."""
    if not call.valid:
        raise refused(errno.EINTR)
    with call.descriptor() as copy:
        data = ours.receive(copy, flags)
    group = group_of(ours, data)
    mask = 1 << group - 1 if 0 < group <= 32 else 0
    control = b""
    if ours.options.get(NETLINK_PKTINFO):
        control = struct.pack("<QiiI4x", 20, SOL_NETLINK, NETLINK_PKTINFO, group)
    out = socket.MSG_TRUNC if len(data) > length else 0
    deliver(data[:length], SOCKADDR_NL.pack(AF_NETLINK, 0, 0, mask), control, out)
    return len(data) if flags & socket.MSG_TRUNC else min(len(data), length)


def group_of(ours: NetlinkSocket, data: bytes) -> int:
    """The group that a datagram was for: those to a group have neither a sequence number nor a
    port, and of the host's groups one alone has any."""
    return max(ours.groups, default=0) if data[8:16] == bytes(8) else 0


def gathered(call: Call, header: MessageHeader) -> bytes:
    """The data to send. Raises OSError."""
    if header.length > MESSAGE_MAX:
        raise refused(errno.EMSGSIZE)
    return header.gather(call.memory)


NETLINK_TABLE: Mapping[Rule, Handler] = {
    Rule("socket", ((In(0, (AF_NETLINK,)), In(2, (NETLINK_GENERIC,))),)): NetlinkCalls.socket,
    Rule("bind"): NetlinkCalls.bind,
    Rule("connect"): NetlinkCalls.connect,
    Rule("getsockname"): NetlinkCalls.name,
    Rule("getpeername"): NetlinkCalls.name,
    Rule("setsockopt", ((In(1, (SOL_NETLINK,)),),)): NetlinkCalls.setsockopt,
    Rule(
        "getsockopt",
        (
            (In(1, (SOL_NETLINK,)),),
            (In(1, (socket.SOL_SOCKET,)), In(2, ABOUT_ITSELF)),
        ),
    ): NetlinkCalls.getsockopt,
    Rule("sendmsg"): NetlinkCalls.sendmsg,
    Rule("sendto"): NetlinkCalls.sendto,
    Rule("recvmsg"): NetlinkCalls.recvmsg,
    Rule("recvfrom"): NetlinkCalls.recvfrom,
}
