"""System calls on TCP sockets that a program has taken by ACCEPT.

The socket itself is the real one: the program does the handshake on it with what calls it likes.
TCP_ULP and SOL_TLS are the host's, and behind the first key so are sendmsg, sendto, recvmsg and
recvfrom: the host seals and opens. read(2) and write(2) are not notified, and go to TCP as it is;
no agent uses them between its keys and DONE. Each handler says None where the descriptor is no such
socket.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping

from umktls.abi import linux
from umktls.run.agency import Agency, Taken
from umktls.run.call import Call, Result, answer_later
from umktls.run.memory import MessageHeader, scattered
from umktls.run.seccomp import In, Rule
from umktls.run.system import refused
from umktls.upcall.syscalls import (
    MAX_CONTROL,
    MAX_DATA,
    MAX_OPTION,
    GetsockoptArgs,
    RecvmsgArgs,
    SendmsgArgs,
    SetsockoptArgs,
)

__all__ = ["TAKEN_TABLE", "TakenCalls"]

INT = struct.Struct("<i")
Handler = Callable[["TakenCalls", Call], Result | None]


class TakenCalls:
    """The handlers; see `TAKEN_TABLE` for when they are called. `spawn` starts a task."""

    def __init__(self, agency: Agency, spawn: Callable[..., None]) -> None:
        self._agency = agency
        self._spawn = spawn

    def _find(self, call: Call) -> Taken | None:
        return self._agency.find(call.thread, call.number(0))

    def setsockopt(self, call: Call) -> Result | None:
        level, name = call.number(1), call.number(2)
        taken = self._find(call) if of_tls(level, name) else None
        if taken is None:
            return None
        value = call.option_value(MAX_OPTION)

        async def set_there() -> int:
            await self._agency.call(SetsockoptArgs(taken.number, level, name, value, ()))
            taken.has_key = taken.has_key or level == linux.SOL_TLS
            return 0

        return answer_later(call, self._spawn, set_there)

    def getsockopt(self, call: Call) -> Result | None:
        level, name = call.number(1), call.number(2)
        taken = self._find(call) if of_tls(level, name) else None
        if taken is None:
            return None
        (room,) = INT.unpack(call.memory.read(call.argument(4), INT.size))
        if room < 0:
            raise refused(errno.EINVAL)

        async def get_there() -> int:
            args = GetsockoptArgs(taken.number, level, name, min(room, MAX_OPTION))
            value = bytes(await self._agency.call(args))
            call.memory.write(call.argument(3), value)
            call.memory.write(call.argument(4), INT.pack(len(value)))
            return 0

        return answer_later(call, self._spawn, get_there)

    # ---- behind the keys

    def _sealed(self, call: Call) -> Taken | None:
        taken = self._find(call)
        return taken if taken is not None and taken.has_key else None

    def sendmsg(self, call: Call) -> Result | None:
        taken = self._sealed(call)
        if taken is None:
            return None
        header = MessageHeader.read(call.memory, call.argument(1))
        data = header.gather(call.memory) if header.length <= MAX_DATA else None
        if data is None or header.control_length > MAX_CONTROL:
            raise refused(errno.EMSGSIZE)
        return self._send(call, taken, data, header.control_messages(call.memory), call.number(2))

    def sendto(self, call: Call) -> Result | None:
        taken = self._sealed(call)
        if taken is None:
            return None
        data = call.memory.read(call.argument(1), min(call.argument(2), MAX_DATA))
        return self._send(call, taken, data, b"", call.number(3))

    def _send(self, call: Call, taken: Taken, data: bytes, control: bytes, flags: int) -> Result:
        if not call.valid:
            raise refused(errno.EINTR)

        async def send_there() -> int:
            args = SendmsgArgs(taken.number, data, control, flags & 0xFFFFFFFF)
            return int(await self._agency.call(args))

        return answer_later(call, self._spawn, send_there)

    def recvmsg(self, call: Call) -> Result | None:
        taken = self._sealed(call)
        if taken is None:
            return None
        header = MessageHeader.read(call.memory, call.argument(1))

        def deliver(data: bytes, control: bytes, flags: int) -> None:
            header.received(call.memory, data, control, flags)

        room = (header.length, header.control_length)
        return self._receive(call, taken, room, call.number(2), deliver)

    def recvfrom(self, call: Call) -> Result | None:
        taken = self._sealed(call)
        if taken is None:
            return None
        pieces = ((call.argument(1), call.argument(2)),)

        def deliver(data: bytes, control: bytes, flags: int) -> None:
            call.memory.write_all(scattered(pieces, data))

        return self._receive(call, taken, (call.argument(2), 0), call.number(3), deliver)

    def _receive(
        self,
        call: Call,
        taken: Taken,
        room: tuple[int, int],
        flags: int,
        deliver: Callable[[bytes, bytes, int], None],
    ) -> Result:
        """It does not wait: the socket is the host's, which never does. EAGAIN is the caller's."""

        async def receive_there() -> int:
            length, controllen = min(room[0], MAX_DATA), min(room[1], MAX_CONTROL)
            args = RecvmsgArgs(taken.number, length, controllen, flags & 0xFFFFFFFF)
            result = await self._agency.call(args)
            deliver(bytes(result.data), bytes(result.control), result.flags)
            return len(result.data)

        return answer_later(call, self._spawn, receive_there)


def of_tls(level: int, name: int) -> bool:
    return level == linux.SOL_TLS or (level, name) == (linux.SOL_TCP, linux.TCP_ULP)


OPTIONS = ((In(1, (linux.SOL_TLS,)),), (In(1, (linux.SOL_TCP,)), In(2, (linux.TCP_ULP,))))
TAKEN_TABLE: Mapping[Rule, Handler] = {
    Rule("setsockopt", OPTIONS): TakenCalls.setsockopt,
    Rule("getsockopt", OPTIONS): TakenCalls.getsockopt,
    Rule("sendmsg"): TakenCalls.sendmsg,
    Rule("sendto"): TakenCalls.sendto,
    Rule("recvmsg"): TakenCalls.recvmsg,
    Rule("recvfrom"): TakenCalls.recvfrom,
}
