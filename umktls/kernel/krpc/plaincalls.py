"""RPC in clear, one call after the other, for what is asked around a mount: rpcbind and MOUNT.

A connection of its own for each purpose, over TCP, UDP or a local socket, which ends with its
block. UDP loses messages: the same call is sent again with the same xid until its deadline.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar

import trio

from umktls.dataclass import dataclass
from umktls.errors import PeerError, WorldError
from umktls.kernel.krpc import tcpconnect
from umktls.rpc.client import raise_for_reply
from umktls.rpc.message import NULL_AUTH, Call, OpaqueAuth, Reply, encode_call, parse_untrusted
from umktls.rpc.program import Procedure
from umktls.rpc.record import RecordReader, mark

__all__ = ["Place", "PlainCalls", "plain_calls"]

A = TypeVar("A")
R = TypeVar("R")

# Seconds after which a call over UDP is sent again; the last one from then on.
UDP_PAUSES = (0.5, 1.0, 2.0)
# A list of exports or of clients can be long.
REPLY_LIMIT = 4 * 1024 * 1024
DATAGRAM_LIMIT = 65535


@dataclass(frozen=True, slots=True)
class Place:
    """Where calls go: `address` as the socket family has it, by SOCK_STREAM or SOCK_DGRAM."""

    family: socket.AddressFamily
    address: Any
    kind: socket.SocketKind = socket.SOCK_STREAM

    @classmethod
    def local(cls, path: Path) -> Place:
        """A local socket."""
        return cls(socket.AF_UNIX, os.fspath(path))

    def at(self, port: int, kind: socket.SocketKind) -> Place:
        """Another port of the same address."""
        host, _, *rest = self.address
        return Place(self.family, (host, port, *rest), kind)

    @property
    def netid(self) -> str:
        """What rpcbind calls the network (RFC 5665): tcp, udp, tcp6, udp6, local."""
        if self.family == socket.AF_UNIX:
            return "local"
        protocol = "udp" if self.kind == socket.SOCK_DGRAM else "tcp"
        return f"{protocol}6" if self.family == socket.AF_INET6 else protocol

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            return str(self.address)
        return f"{self.address[0]} {self.netid[:3].upper()} port {self.address[1]}"


class PlainCalls:
    """Calls to one place, on one socket, each answered within `seconds`."""

    def __init__(self, sock: trio.socket.SocketType, place: Place, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds
        self._reader = RecordReader(REPLY_LIMIT)
        self.place = place

    async def call(
        self, procedure: Procedure[A, R], argument: A, credential: OpaqueAuth = NULL_AUTH
    ) -> R:
        """One call. Raises WorldError (ETIMEDOUT when there is no answer in time, what the socket
        has otherwise), and PeerError for rejections and for what makes no sense."""
        xid = random.getrandbits(32)
        head = encode_call(
            xid, procedure.program, procedure.version, procedure.number, credential, NULL_AUTH
        )
        message = head + b"".join(procedure.encode_args(argument))
        exchange = self._datagrams if self.place.kind == socket.SOCK_DGRAM else self._stream
        try:
            with trio.move_on_after(self._seconds):
                reply = await exchange(xid, message)
                return procedure.decode_result_untrusted(raise_for_reply(reply))
        except OSError as error:
            raise failed(self.place, error) from error
        raise WorldError(
            f"{self.place} did not answer {procedure.name} within {self._seconds:g} s",
            errno.ETIMEDOUT,
        )

    async def _stream(self, xid: int, message: bytes) -> Reply:
        left = memoryview(mark(len(message)) + message)
        while left:  # a stream of trio's would have errors of its own for it
            left = left[await self._sock.send(left) :]
        while data := await self._sock.recv(DATAGRAM_LIMIT):
            self._reader.feed(data)
            for answer in self._reader.messages():
                reply = parse_untrusted(answer)
                if not isinstance(reply, Call) and reply.xid == xid:
                    return reply
        raise PeerError(f"{self.place} closed the connection instead of an answer", errno.EPROTO)

    async def _datagrams(self, xid: int, message: bytes) -> Reply:
        for pause in chain(UDP_PAUSES, repeat(UDP_PAUSES[-1])):
            await self._sock.send(message)
            with trio.move_on_after(pause):
                return await self._datagram(xid)
        raise AssertionError("there is always another pause")

    async def _datagram(self, xid: int) -> Reply:
        while True:
            reply = parse_untrusted(await self._sock.recv(DATAGRAM_LIMIT))
            if not isinstance(reply, Call) and reply.xid == xid:
                return reply


@asynccontextmanager
async def plain_calls(
    place: Place,
    seconds: float,
    reserved: bool | None = False,
    connect_seconds: float | None = None,
) -> AsyncIterator[PlainCalls]:
    """Calls to a place inside the block. reserved: whether from a port below 1024; None: from one
    if we are root and one is free. seconds: for each call; connect_seconds: for the connection, if
    that is another time.

    Raises WorldError when there is no connection, with the socket's errno.
    """
    try:
        connected = await tcpconnect.connect_address(
            place.family, place.address, reserved, connect_seconds or seconds, place.kind
        )
    except OSError as error:
        raise failed(place, error) from error
    with trio.socket.from_stdlib_socket(connected) as sock:
        yield PlainCalls(sock, place, seconds)


def failed(place: Place, error: OSError) -> WorldError:
    number = error.errno or errno.EIO
    return WorldError(f"{place}: {os.strerror(number)}", number)
