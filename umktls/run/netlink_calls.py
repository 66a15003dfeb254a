"""System calls on generic netlink sockets but for what is sent and received: socket(2), bind(2),
options, netlink(7).

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
from umktls.run.netlink import NetlinkSocket
from umktls.run.netlink_names import SOCKADDR_NL, NetlinkNames, address_untrusted
from umktls.run.proc import waiting_in
from umktls.run.seccomp import In, Rule
from umktls.run.system import NUMBERS, refused
from umktls.upcall.syscalls import SetsockoptArgs

__all__ = ["NETLINK_TABLE", "NetlinkCalls"]

TYPES = (socket.SOCK_RAW, socket.SOCK_DGRAM)
TYPE_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
INT = struct.Struct("<i")
# linux/netlink.h: those that are a number and nothing else here.
NETLINK_LIST_MEMBERSHIPS = 9
SWITCHES = (3, 4, 5, 8, 10, 11, 12)
MEMBERSHIP = (NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP)
# Of SOL_SOCKET: what a pair would say otherwise.
ABOUT_ITSELF = (socket.SO_DOMAIN, socket.SO_PROTOCOL, socket.SO_TYPE)
# Whoever has joined is looked at so often, until it waits.
SETTLE_SECONDS = 0.05
SENDING = ("sendmsg", "sendto")
Handler = Callable[["NetlinkCalls", Call], Result | None]


class NetlinkCalls:
    """The handlers; see `NETLINK_TABLE` for when they are called. `spawn` starts a task."""

    def __init__(self, agency: Agency, names: NetlinkNames, spawn: Callable[..., None]) -> None:
        self._agency = agency
        self._names = names
        self._spawn = spawn

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
            self._names.add(ours)
            self._spawn(self._live, ours)
            flags = os.O_CLOEXEC if kind & socket.SOCK_CLOEXEC else 0
            return call.listener.add(call.notification.id, far.fileno(), flags)

    async def _live(self, ours: NetlinkSocket) -> None:
        try:
            await ours.run()
        finally:
            self._names.remove(ours)
        await self._agency.sweep()

    # ---- names

    def bind(self, call: Call) -> Result | None:
        ours = self._names.find(call)
        if ours is None:
            return None
        port, groups = address_untrusted(call, call.argument(1), call.number(2))
        if ours.bound and port != ours.port:
            raise refused(errno.EINVAL)
        if not ours.bound:
            self._names.bind(ours, call.thread, port)
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

    def connect(self, call: Call) -> Result | None:
        ours = self._names.find(call)
        if ours is None:
            return None
        if call.number(2) >= 2 and call.memory.read(call.argument(1), 2) == bytes(2):  # AF_UNSPEC
            ours.peer = (0, 0)
            return 0
        ours.peer = address_untrusted(call, call.argument(1), call.number(2))
        if not ours.bound:
            self._names.bind(ours, call.thread, 0)
        return 0

    def name(self, call: Call) -> Result | None:
        ours = self._names.find(call)
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
        ours = self._names.find(call)
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
        if group in ours.groups and ours in self._names:
            with suppress(UmktlsError):
                await self._ask_membership(ours, NETLINK_ADD_MEMBERSHIP, group)

    def getsockopt(self, call: Call) -> Result | None:
        ours = self._names.find(call)
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


async def settled(thread: int) -> None:
    """Until a thread waits: it is seen twice at the same place in the same system call, which is
    none that is answered here (receiving apart, which waits for something to come)."""
    busy = {NUMBERS[rule.call] for rule in NETLINK_TABLE} | {NUMBERS[name] for name in SENDING}
    before: tuple[int, str] | None = None
    with suppress(OSError):  # it has gone, or may not be looked at
        while True:
            now = waiting_in(thread)
            if now is not None and now == before and now[0] not in busy:
                return
            before = now
            await trio.sleep(SETTLE_SECONDS)


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
}
