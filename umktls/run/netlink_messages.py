"""System calls that send and receive on generic netlink sockets, netlink(7).

Errors and their order are those of Linux's net/netlink/af_netlink.c. Each handler says None where
the descriptor is no such socket: then the call is somebody else's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping

from umktls.abi.handshake import AF_NETLINK
from umktls.abi.netlink import SOL_NETLINK
from umktls.ktls.session.errors import WouldBlock
from umktls.run.call import Answer, Call, Result, answer_later
from umktls.run.memory import MessageHeader, scattered
from umktls.run.messages import timeout_of
from umktls.run.netlink import NetlinkSocket
from umktls.run.netlink_names import SOCKADDR_NL, NetlinkNames, address_untrusted
from umktls.run.proc import nonblocking
from umktls.run.seccomp import Rule
from umktls.run.system import refused

__all__ = ["NETLINK_MESSAGE_TABLE", "NETLINK_PKTINFO", "NetlinkMessages"]

INT = struct.Struct("<i")
NETLINK_PKTINFO = 3
MESSAGE_MAX = 1 << 18
Handler = Callable[["NetlinkMessages", Call], Result | None]


class NetlinkMessages:
    """The handlers; see `NETLINK_MESSAGE_TABLE` for when they are called. `spawn` starts a task."""

    def __init__(self, names: NetlinkNames, spawn: Callable[..., None]) -> None:
        self._names = names
        self._spawn = spawn

    def sendmsg(self, call: Call) -> Result | None:
        ours = self._names.find(call)
        if ours is None:
            return None
        header = MessageHeader.read(call.memory, call.argument(1))
        data = gathered(call, header)
        return self._send(call, ours, data, header.name, header.name_length, call.number(2))

    def sendto(self, call: Call) -> Result | None:
        ours = self._names.find(call)
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
        port, groups = address_untrusted(call, name, length) if name and length else ours.peer
        if not call.valid:
            raise refused(errno.EINTR)
        if not ours.bound:
            self._names.bind(ours, call.thread, 0)
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
        ours = self._names.find(call)
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
        ours = self._names.find(call)
        if ours is None:
            return None
        length = min(call.argument(2), MESSAGE_MAX)

        def deliver(data: bytes, source: bytes, control: bytes, flags: int) -> None:
            call.memory.write_all(scattered(((call.argument(1), length),), data))
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
                seconds = timeout_of(copy, socket.SO_RCVTIMEO)

        def receive_again() -> int:
            try:
                return receive_now(call, ours, length, flags, deliver)
            except BlockingIOError as error:
                raise WouldBlock("nothing has come") from error

        ours.receiving.add(call, receive_again, seconds)
        return Answer.LATER


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


NETLINK_MESSAGE_TABLE: Mapping[Rule, Handler] = {
    Rule("sendmsg"): NetlinkMessages.sendmsg,
    Rule("sendto"): NetlinkMessages.sendto,
    Rule("recvmsg"): NetlinkMessages.recvmsg,
    Rule("recvfrom"): NetlinkMessages.recvfrom,
}
