"""Sockets whose bytes a capture sees.

While nobody captures, a socket is Python's own, and not one instruction is spent. When a capture
begins, `tap` gives the socket this class in place of its own, and `untap` takes it back: whoever
has the socket already goes on with it, whichever way its data goes. Both classes have the same
layout, so Python allows that (Data model, "object.__class__"); methods that no code of the kernel
uses on a connection are not here.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from umktls.capture.packets import Flags
from umktls.ktls.session import Direction
from umktls.rpc.xdr import Buffer

__all__ = ["Ear", "TappedSocket", "tap", "untap"]


class Ear(Protocol):
    """Who is told; see `line.Line`."""

    def pass_bytes(self, way: Direction, data: Buffer) -> None: ...

    def finish(self, way: Direction, flag: Flags = Flags.FIN) -> None: ...


_EARS: WeakKeyDictionary[socket.socket, Ear] = WeakKeyDictionary()


def tap(sock: socket.socket, ear: Ear) -> None:
    """Tell `ear` of what passes `sock` from here on."""
    _EARS[sock] = ear
    sock.__class__ = TappedSocket


def untap(sock: socket.socket) -> None:
    if isinstance(sock, TappedSocket):
        del _EARS[sock]
        object.__setattr__(sock, "__class__", socket.socket)


class TappedSocket(socket.socket):
    """See the module."""

    __slots__ = ()

    # ---- what is received

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        try:
            data = super().recv(size, flags)
        except ConnectionResetError:
            self._ear.finish("rx", Flags.RST)
            raise
        self._received(data, flags)
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        try:
            count = super().recv_into(buffer, size, flags)
        except ConnectionResetError:
            self._ear.finish("rx", Flags.RST)
            raise
        self._received(memoryview(buffer)[:count], flags)
        return count

    def _received(self, data: Buffer, flags: int) -> None:
        if flags & socket.MSG_PEEK:
            return
        if len(data):
            self._ear.pass_bytes("rx", data)
        else:
            self._ear.finish("rx")

    # ---- what is sent

    def sendmsg(
        self,
        buffers: Iterable[Any],
        control: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        pieces = list(buffers)
        try:
            count = super().sendmsg(pieces, control, flags)
        except ConnectionResetError:
            self._ear.finish("rx", Flags.RST)
            raise
        self._sent(pieces, count)
        return count

    def _sent(self, pieces: Iterable[Any], count: int) -> None:
        """One packet for what was sent by one call, as far as that goes."""
        taken = bytearray()
        for piece in pieces:
            taken += memoryview(piece)[: count - len(taken)]
            if len(taken) == count:
                break
        self._ear.pass_bytes("tx", taken)

    # ---- its ends

    def shutdown(self, how: int, /) -> None:
        super().shutdown(how)
        if how != socket.SHUT_RD:
            self._ear.finish("tx")

    @property
    def _ear(self) -> Ear:
        return _EARS[self]
