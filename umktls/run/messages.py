"""sendmsg(2), recvmsg(2) and their kin, where they are not for a pair alone."""

from __future__ import annotations

import errno
import signal
import socket
import struct
from collections.abc import Callable

from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.ktls.session.errors import WouldBlock
from umktls.run.call import Answer, Call, Handler, Result
from umktls.run.memory import CONTROL_MAX, DATA_MAX, MessageHeader, scattered
from umktls.run.outgoing import PIECE
from umktls.run.proc import process_of
from umktls.run.registry import Registry, look
from umktls.run.seccomp import Notification
from umktls.run.sockets import Replaced
from umktls.run.system import refused, tgkill

__all__ = ["ALLOWED_IN_SEND", "MSG_CMSG_CLOEXEC", "MessageCalls"]

# What a pair makes the same of. MSG_MORE is the model's: it keeps a record open.
ALLOWED_IN_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_EOR)
# Python's own are objects, which are slow to compute with.
DONTWAIT, PEEK = int(socket.MSG_DONTWAIT), int(socket.MSG_PEEK)
MSG_CMSG_CLOEXEC = 0x40000000
MMSGHDR = 64  # struct mmsghdr, LP64; its last 8 bytes are msg_len


class MessageCalls:
    """The handlers; see calls.py for when they are called."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    # ---- sending

    def sendmsg(self, call: Call) -> Result:
        """Not through the pair, where limits between messages and errors of the next would be
        lost; but for what is so much that it may have to wait in between."""
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None:
            return Answer.GO_ON
        header = MessageHeader.read(call.memory, call.argument(1))
        flags = call.number(2)
        if header.length > PIECE and not header.control_length and not flags & ~ALLOWED_IN_SEND:
            return Answer.GO_ON
        data, control = header.gather(call.memory), header.control_messages(call.memory)
        return self._send(call, ours, data, control, flags)

    def sendto(self, call: Call) -> Result:
        """Only with flags that a pair would take for something else."""
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None:
            return Answer.GO_ON
        data = call.memory.read(call.argument(1), min(call.argument(2), DATA_MAX))
        return self._send(call, ours, data, b"", call.number(3))

    def _send(self, call: Call, ours: Replaced, data: bytes, control: bytes, flags: int) -> Result:
        if not call.valid:
            return Answer.LATER
        if ours.outgoing.crowded:
            if flags & DONTWAIT or call.nonblocking():
                raise refused(errno.EAGAIN)
            with call.pair_end() as copy:
                seconds = timeout_of(copy, socket.SO_SNDTIMEO)

            def send_again() -> int:
                if ours.outgoing.crowded:
                    raise WouldBlock("there is no room")
                return self._send_now(call, ours, data, control, flags)

            ours.outgoing.wait_for_room(call, send_again, seconds)
            return Answer.LATER
        return self._send_now(call, ours, data, control, flags)

    def _send_now(self, call: Call, ours: Replaced, data: bytes, control: bytes, flags: int) -> int:
        look(ours.sock)
        try:
            return ours.outgoing.send(data, control, flags)
        except UmktlsError as error:
            if error.errno == errno.EPIPE and not flags & socket.MSG_NOSIGNAL:
                tgkill(process_of(call.thread), call.thread, signal.SIGPIPE)
            raise

    # ---- receiving

    def recvmsg(self, call: Call) -> Result:
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None or not ours.opens:
            return Answer.GO_ON
        header = MessageHeader.read(call.memory, call.argument(1))

        def deliver(data: bytes, control: bytes, flags: int) -> None:
            header.received(call.memory, data, control, flags)

        controllen = min(header.control_length, CONTROL_MAX)
        return self._receive(call, ours, Wanted(header.length, controllen, call.number(2), deliver))

    def recvfrom(self, call: Call) -> Result:
        """Only with flags, such as MSG_PEEK."""
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None or not ours.opens:
            return Answer.GO_ON
        length = min(call.argument(2), DATA_MAX)
        pieces = ((call.argument(1), length),)

        def deliver(data: bytes, control: bytes, flags: int) -> None:
            call.memory.write_all(scattered(pieces, data))
            if call.argument(5):
                call.memory.write(call.argument(5), struct.pack("<I", 0))

        return self._receive(call, ours, Wanted(length, 0, call.number(3), deliver))

    def _receive(self, call: Call, ours: Replaced, wanted: Wanted) -> Result:
        try:
            return self._receive_now(call, ours, wanted)
        except WouldBlock:
            if wanted.flags & DONTWAIT or call.nonblocking():
                raise
        with call.pair_end() as copy:
            seconds = timeout_of(copy, socket.SO_RCVTIMEO)
        ours.receiving.add(call, lambda: self._receive_now(call, ours, wanted), seconds)
        return Answer.LATER

    def _receive_now(self, call: Call, ours: Replaced, wanted: Wanted) -> Result:
        try:
            return self._receive_what_came(call, ours, wanted)
        except WouldBlock:
            if not ours.receives_no_more():
                raise
        wanted.deliver(b"", b"", 0)
        return 0

    def _receive_what_came(self, call: Call, ours: Replaced, wanted: Wanted) -> Result:
        if wanted.length and ours.nothing_has_come():
            raise WouldBlock("nothing has come")
        if not call.valid:
            return Answer.LATER
        flags = wanted.flags & ~MSG_CMSG_CLOEXEC
        data, control, out = ours.recvmsg(call.pair_end, wanted.length, wanted.controllen, flags)
        try:
            wanted.deliver(data, control, out)
        except OSError:
            if data and not flags & PEEK:
                ours.give_back(data, control)
            raise
        return len(data)

    # ---- many messages: the first alone, and the program comes again with the rest

    def sendmmsg(self, call: Call) -> Result:
        return self._first_of_many(call, self.sendmsg)

    def recvmmsg(self, call: Call) -> Result:
        return self._first_of_many(call, self.recvmsg)

    def _first_of_many(self, call: Call, one: Handler) -> Result:
        if self._registry.find(call.thread, call.number(0)) is None:
            return Answer.GO_ON
        fd, vector, count, flags = (call.argument(index) for index in range(4))
        if not count:
            return 0

        def one_message(length: int) -> int:
            call.memory.write(vector + MMSGHDR - 8, struct.pack("<I", length))
            return 1

        arguments = (fd, vector, flags, 0, 0, 0)
        first = Notification(call.notification.id, call.thread, 0, arguments)
        result = one(Call(first, call.listener, call.memory, one_message))
        return one_message(result) if isinstance(result, int) else result


@dataclass(slots=True)
class Wanted:
    """What a call wants to receive. `deliver` puts there data, control messages and flags."""

    length: int
    controllen: int
    flags: int
    deliver: Callable[[bytes, bytes, int], None]


def timeout_of(sock: socket.socket, option: int) -> float:
    """SO_RCVTIMEO or SO_SNDTIMEO in seconds."""
    raw = sock.getsockopt(socket.SOL_SOCKET, option, 16)
    seconds, micros = struct.unpack("<qq", raw)
    return seconds + micros / 1e6 if seconds or micros else float("inf")
