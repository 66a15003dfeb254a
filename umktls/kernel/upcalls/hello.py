"""A server's CONNECT waits until the client has something to say.

Theory of operation
===================

STARTTLS does not mean that the client is about to speak. A client of version 1 of the upcall has
one daemon, which does one handshake at a time. It probes on all of its connections, and then these
wait for each other, in an order that the server does not know. A server that gave its daemon's only
place to one that still has to wait would wait for the client, and the client for the server, until
a deadline has passed. So here a CONNECT is made when the client's first record is there, or the end
of the stream; until then a connection costs no daemon anything.

The first record counts, not the first byte: a daemon that has taken a connection waits for the rest
of the ClientHello, and whoever sends a byte on each of a thousand connections would have all the
places. The kernel only looks (MSG_PEEK) at the length in the record's header, and has TCP wake it
when so much is there (SO_RCVLOWAT). What is no TLS goes to the daemon as it is, which can say so.

A client may be silent for an upcall's time, and a little more as in the queue for the daemons.
While a handshake is made on another connection from the same address, that time does not run: a
client that shakes hands on one connection after the other is silent on the rest, however long that
takes here. What is no client at all can keep silent connections that way, as it can keep some on
which it never probes.

Real kernels give the daemon the silent connection, which blocks FreeBSD 14's for 15 seconds.
"""

from __future__ import annotations

import errno
import socket
from weakref import WeakValueDictionary

import trio

from umktls.errors import WorldError
from umktls.kernel.ground.behind import Behind
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import broken, readable_until
from umktls.kernel.upcalls.daemons import PATIENCE, address_of
from umktls.ktls.engines import RECORD_HEADER_LENGTH
from umktls.ktls.engines.toe import record_size

__all__ = ["Clients"]

# What is looked at once: the record of most ClientHellos is shorter, and has come with its header.
HELLO = 2048
PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Clients:
    """Whoever has been answered by STARTTLS, by address."""

    def __init__(self) -> None:
        self._clients: WeakValueDictionary[str, Client] = WeakValueDictionary()

    def of(self, sock: KernelSocket) -> Client:
        """The client at the other end of `sock`."""
        address = address_of(sock)
        return self._clients.setdefault(address, Client())


class Client:
    """The connections from one address: on how many handshakes are made, and when the last one of
    these was over (trio's time)."""

    __slots__ = ("__weakref__", "_heard", "_over")

    def __init__(self) -> None:
        self._heard = 0
        self._over = 0.0

    async def speaks(self, sock: KernelSocket, seconds: float) -> None:
        """Wait until there is a record to be read, or the end. `seconds` is an upcall's time.

        Raises `WorldError` when the client is silent for too long, also in the midst of a record.
        """
        began, patience = trio.current_time(), PATIENCE * seconds
        while True:
            now = trio.current_time()
            since = now if self._heard else max(began, self._over)
            if since + patience <= now:
                raise WorldError(
                    f"the client was silent for {patience:g} s after the AUTH_TLS probe; does it "
                    "speak RPC-with-TLS, and has it a handshake daemon that works?",
                    errno.ETIMEDOUT,
                )
            if await first_record(sock.sock, since + patience):
                return

    def heard(self) -> Behind:
        """Inside the block a handshake is made on one of the connections."""
        self._heard += 1
        return Behind(self._heard_out)

    def _heard_out(self) -> None:
        self._heard -= 1
        self._over = trio.current_time()


async def first_record(sock: socket.socket, until: float) -> bool:
    """Wait for a whole TLS record, for something else, or for the end of the stream, up to this
    time of trio's clock; whether it is there.

    Raises `WorldError` when the connection broke.
    """
    wanted = 1
    while await waiting(sock, wanted, until):
        there = peek(sock, max(wanted, HELLO))
        if len(there) < wanted:  # the end, or a socket that does not wait for so much (AF_UNIX)
            return True
        wanted = RECORD_HEADER_LENGTH
        if len(there) >= wanted:
            size = record_size(there[:wanted])
            if size is None or size <= len(there):
                return True
            wanted = size
    return False


async def waiting(sock: socket.socket, wanted: int, until: float) -> bool:
    """Wait for so many bytes to be there, or the end; whether that is so by then."""
    if wanted == 1:  # as sockets do
        return await readable_until(sock, until)
    set_low_water(sock, wanted)
    try:
        return await readable_until(sock, until)
    finally:
        if sock.fileno() >= 0:
            set_low_water(sock, 1)


def set_low_water(sock: socket.socket, count: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    except OSError as error:
        raise broken("receive", error) from error


def peek(sock: socket.socket, count: int) -> bytes:
    try:
        return sock.recv(count, PEEK)
    except BlockingIOError:
        return b""
    except OSError as error:
        raise broken("receive", error) from error
