"""One connection to a backend, for one client: bytes out with back pressure, bytes in by chunks."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import suppress

import trio

from umktls.errors import WorldError
from umktls.front.through import CHUNK, Stock
from umktls.kernel.sockets.stream import SendQueue, broken, readable
from umktls.rpc.xdr import Buffer

__all__ = ["Lane"]


class Lane:
    """`sock` is connected, and is closed with the lane. `name` is the server's, for errors."""

    def __init__(self, name: str, sock: socket.socket, nursery: trio.Nursery, stock: Stock) -> None:
        self._name = name
        sock.setblocking(False)
        with suppress(OSError):  # a socket of another kind
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._stock = stock
        self._queue = SendQueue(sock, nursery.start_soon)

    async def send(self, buffers: list[Buffer]) -> None:
        """Returns when the system has all of it. Raises `WorldError` when the connection broke."""
        try:
            self._queue.push(buffers)
            await self._queue.emptied()
            self._queue.push([])  # raises where it has failed meanwhile
        except WorldError as error:
            raise self._broken(error) from error

    def end_sending(self) -> None:
        """Nothing more comes from the client."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def chunks(self) -> AsyncGenerator[memoryview, None]:
        """What comes, until the end of the stream; each is good until the next one is asked for.

        While it waits it holds no buffer. Raises `WorldError` when the connection broke.
        """
        while True:
            buffer = self._stock.take()
            count = self._receive(buffer)
            if count is None:
                self._stock.give(buffer)
                await self._readable()
                continue
            if not count:
                self._stock.give(buffer)
                return
            yield memoryview(buffer)[:count]
            # Not where the reader has gone: what it was given may still wait to be sent.
            self._stock.give(buffer)

    def _receive(self, buffer: bytearray) -> int | None:
        try:
            return self._sock.recv_into(buffer, CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._broken(broken("receive", error)) from error

    async def _readable(self) -> None:
        try:
            await readable(self._sock)
        except WorldError as error:
            raise self._broken(error) from error

    def _broken(self, error: WorldError) -> WorldError:
        return WorldError(f"backend {self._name}: {error}", error.errno)

    def close(self) -> None:
        """End the connection. What waits to be sent is dropped."""
        self._queue.fail(WorldError("the connection was closed"))
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
