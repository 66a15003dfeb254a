"""A TCP socket of a machine whose kernel has TLS, where this machine's may not: Linux's, modelled.

Below a real connection is real; kernel TLS on it is the model's, with the personality `linux`.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from umktls.abi import linux
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.socket.states import State

__all__ = ["ModelSocket"]

PERSONALITY = PERSONALITIES["linux"]
LAYOUT = PERSONALITY.messages.layout


class ModelSocket(socket.socket):
    """Takes over the descriptor `fileno`."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        engine = get_engine("software")
        self.model = KtlsSocket(engine, engine, PERSONALITY)

    def setsockopt(self, level: int, name: int, value: Any, *more: Any) -> None:
        if (level, name) != (linux.SOL_TCP, linux.TCP_ULP) and level != linux.SOL_TLS:
            super().setsockopt(level, name, value, *more)
            return
        try:
            self.model.setsockopt(level, name, value, lambda address, length: b"")
        except UmktlsError as error:
            raise OSError(error.errno, str(error)) from error

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        data = b"".join(buffers)
        control = b"".join(LAYOUT.pack(*message) for message in ancdata)
        if self.model.tx.state is State.CLEAR:
            assert not control
            return super().sendmsg([data])
        view = memoryview(b"".join(self.model.sendmsg(data, control, flags)))
        while view:
            try:
                view = view[self.send(view) :]
            except BlockingIOError:
                select.select([], [self], [], 5)
        return len(data)

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0) -> Any:
        (buffer,) = buffers
        while True:
            try:
                data, control, flags = self.model.recvmsg(len(buffer), ancbufsize)
            except WouldBlock:
                room = self.model.rx.get_buffer()
                self.model.rx.buffer_filled(self.recv_into(room))
                continue
            except UmktlsError as error:
                raise OSError(error.errno, str(error)) from error
            buffer[: len(data)] = data
            messages = LAYOUT.parse_untrusted(control)
            return len(data), [(m.level, m.type, m.data) for m in messages], flags, None
