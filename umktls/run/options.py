"""Socket options and names: what is set, got and asked of a socket.

Those of TCP and below are the real socket's, those of kernel TLS the model's.
"""

from __future__ import annotations

import errno
import socket
import struct

from umktls.abi import linux
from umktls.run.call import Answer, Call, Result
from umktls.run.registry import Registry, key_was_set, look, no_copyin
from umktls.run.sockets import Replaced
from umktls.run.system import NUMBERS, refused, socket_name

__all__ = ["OptionCalls"]

OPTION_MAX = 1024
NAMES = {NUMBERS.get(name, -1): name for name in ("getsockname", "getpeername")}
ULP = (linux.SOL_TCP, linux.TCP_ULP)


class OptionCalls:
    """The handlers; see calls.py for when they are called."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def setsockopt(self, call: Call) -> Result:
        level, name = call.number(1), call.number(2)
        ours = self._registry.find(call.thread, call.number(0))
        about_tls = level == linux.SOL_TLS or (level, name) == ULP
        if ours is None and not about_tls:
            return Answer.GO_ON
        value = call.option_value(OPTION_MAX)
        if ours is not None:
            return self._set_on_replaced(call, ours, level, name, value)
        sock = call.descriptor()
        if not of_internet(sock):
            sock.close()
            return Answer.GO_ON
        return self._set_first(call, sock, level, name, value)

    def _set_first(
        self, call: Call, sock: socket.socket, level: int, name: int, value: bytes
    ) -> Result:
        """TCP_ULP, or an option of SOL_TLS of a socket that has no key yet."""
        registry = self._registry
        kept = False
        try:
            if level != linux.SOL_TLS:
                registry.attach(sock, value)
                return 0
            state = registry.attached(sock)
            if state is None:
                return Answer.GO_ON  # ENOPROTOOPT
            state.setsockopt(level, name, value, no_copyin)
            if name not in (linux.TLS_TX, linux.TLS_RX):
                return 0

            def put(source: int, number: int, flags: int) -> None:
                call.listener.put(call.notification.id, source, number, flags)

            ours, kept = registry.replace(sock, state, call.thread, put), True
            key_was_set(ours.sock, name)
            return 0
        finally:
            if not kept:
                sock.close()

    def _set_on_replaced(
        self, call: Call, ours: Replaced, level: int, name: int, value: bytes
    ) -> int:
        if level == linux.SOL_TLS or (level, name) == ULP:
            look(ours.sock)
            self._set_key(call, ours, level, name, value)
        else:
            ours.outgoing.take_all()  # TCP_CORK is for what was written before it, or behind it
            ours.sock.sock.setsockopt(level, name, value)
        return 0

    def _set_key(self, call: Call, ours: Replaced, level: int, name: int, value: bytes) -> None:
        if (level, name) == (linux.SOL_TLS, linux.TLS_TX):
            ours.outgoing.take_all()  # it is under the key before
        raw = None
        if (level, name) == (linux.SOL_TLS, linux.TLS_RX) and not ours.opens:
            with call.descriptor() as copy:
                raw = ours.take_raw(copy)
        try:
            ours.state.setsockopt(level, name, value, no_copyin)
        finally:
            if raw is not None:
                ours.give_raw(raw)
        key_was_set(ours.sock, name if level == linux.SOL_TLS else 0)
        ours.news()

    def getsockopt(self, call: Call) -> Result:
        level, name = call.number(1), call.number(2)
        ours = self._registry.find(call.thread, call.number(0))
        about_tls = level == linux.SOL_TLS or (level, name) == ULP
        if ours is None and not about_tls:
            return Answer.GO_ON
        (room,) = struct.unpack("<i", call.memory.read(call.argument(4), 4))
        if room < 0:
            raise refused(errno.EINVAL)
        if ours is not None and not about_tls:
            ours.outgoing.take_all()  # TCP_INFO counts it
            value = real_option(ours.sock.sock, level, name, room)
        elif ours is not None:
            value = ours.state.getsockopt(level, name, room)
        else:
            with call.descriptor() as sock:
                state = self._registry.attached(sock) if of_internet(sock) else None
            if state is None:
                return Answer.GO_ON
            value = state.getsockopt(level, name, room)
        call.memory.write(call.argument(3), value)
        call.memory.write(call.argument(4), struct.pack("<i", len(value)))
        return 0

    def name(self, call: Call) -> Result:
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None:
            return Answer.GO_ON
        which = call.notification.number
        address = socket_name(NAMES[which], ours.sock.sock.fileno())
        (room,) = struct.unpack("<i", call.memory.read(call.argument(2), 4))
        if room < 0:
            raise refused(errno.EINVAL)
        call.memory.write(call.argument(1), address[:room])
        call.memory.write(call.argument(2), struct.pack("<i", len(address)))
        return 0

    def ioctl(self, call: Call) -> Result:
        """SIOCINQ: what has come from the peer and was not read, as it came."""
        ours = self._registry.find(call.thread, call.number(0))
        if ours is None:
            return Answer.GO_ON
        ours.take_received()
        call.memory.write(call.argument(2), struct.pack("<i", ours.unread()))
        return 0


def real_option(sock: socket.socket, level: int, name: int, room: int) -> bytes:
    """The option of the real socket, as far as there is room. Raises OSError."""
    value = sock.getsockopt(level, name, min(room, OPTION_MAX) or 1)  # 0 would be an int's
    return value[:room]


def of_internet(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
