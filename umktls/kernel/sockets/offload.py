"""The kernel's side of a card that terminates TLS (see umktls.ktls.engines.toe).

The daemon gets one end of a socket pair in the TCP socket's place, and until the keys are set two
tasks play the card: what the daemon writes goes to TCP; what TCP brings goes to the daemon, record
by record, until it is to be held back. Held bytes are simply not read: they stay in the real
receive queue. When a direction gets its key, its task ends, and the socket goes on as any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import Protocol

import trio

from umktls.errors import WorldError
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.stream import SendQueue, read_some
from umktls.ktls.engines import RECORD_HEADER_LENGTH
from umktls.ktls.engines.toe import HoldBack, record_size
from umktls.ktls.socket.rx import Receiver

__all__ = ["Offload", "unread"]

READ_SIZE = 65536


def unread(sock: socket.socket) -> int:
    """Bytes in the receive queue that nobody has read (FIONREAD)."""
    answer = fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


class Served(Protocol):
    """What the card needs of its socket."""

    sock: socket.socket
    queue: SendQueue


class Offload:
    """The card, as far as one connection's handshake goes."""

    def __init__(self, sock: Served, *, server: bool) -> None:
        self._sock = sock
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._watch = HoldBack(server=server)
        # The record that is being received; the one that is held back, in the end.
        self._partial = bytearray()
        self._sending = trio.CancelScope()
        self._receiving = trio.CancelScope()
        self._closed = False

    @property
    def descriptor(self) -> int:
        """The descriptor of the daemon's end of the pair."""
        return self._far.fileno()

    @property
    def held(self) -> int:
        """Bytes that were received and that the daemon has not seen."""
        return unread(self._sock.sock) + len(self._partial)

    @property
    def waiting(self) -> int:
        """Bytes that the daemon could read."""
        return 0 if self._closed else unread(self._far)

    # ---- from the daemon to the network

    async def send(self) -> None:
        """The task of this direction."""
        with self._sending, contextlib.suppress(WorldError, trio.ClosedResourceError, OSError):
            while not self._closed:
                await trio.lowlevel.wait_readable(self._near)
                if not self._take():
                    return
                await self._sock.queue.drained()

    def _take(self) -> bool:
        """Move what the daemon has written to TCP's queue; False at its end."""
        while True:
            try:
                data = self._near.recv(READ_SIZE)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._watch.sent(data)
            self._sock.queue.push([data])

    def flush(self) -> None:
        """Send all that the daemon has written so far."""
        if not self._closed:
            with contextlib.suppress(WorldError, OSError):
                self._take()

    def tx_enabled(self) -> None:
        """The card has the key for sending: the daemon's own records are over."""
        self.flush()
        self._sending.cancel()
        self._finish()

    # ---- from the network to the daemon

    async def receive(self) -> None:
        """The task of this direction."""
        turn = Turn()
        with self._receiving, contextlib.suppress(trio.ClosedResourceError, OSError):
            with contextlib.suppress(WorldError):  # a reset is an end, too
                while await self._next_record():
                    await turn.did(len(self._partial))
                    if self._watch.holding:
                        return
                    if record_size(self._partial) is not None:
                        self._watch.received(bytes(self._partial))
                    await self._hand_on()
            self._near.shutdown(socket.SHUT_WR)

    async def _next_record(self) -> bool:
        """Read one record into `_partial`, or what there is if it is no TLS; False at the end."""
        wanted = RECORD_HEADER_LENGTH
        while len(self._partial) < wanted:
            scratch = memoryview(bytearray(wanted - len(self._partial)))
            count = await read_some(self._sock.sock, scratch)
            if not count:
                return False
            self._partial += scratch[:count]
            if len(self._partial) >= RECORD_HEADER_LENGTH:
                # What is no TLS goes to the daemon as it is, which can say so.
                wanted = record_size(self._partial) or len(self._partial)
        return True

    async def _hand_on(self) -> None:
        """Give the daemon what is in `_partial`; what it cannot take yet stays there."""
        while self._partial:
            try:
                sent = self._near.send(self._partial)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._near)
                continue
            del self._partial[:sent]

    def rx_enabled(self, rx: Receiver) -> None:
        """The card has the key for receiving: what the daemon left comes first, then the rest."""
        self._receiving.cancel()
        left = bytearray()
        while self.waiting:
            left += self._far.recv(READ_SIZE)
        rx.give_back(left + self._partial, 0)
        self._partial.clear()
        self._finish()

    # ---- the end

    def _finish(self) -> None:
        """With both keys the pair has nothing left to do."""
        if self._sending.cancel_called and self._receiving.cancel_called:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._sending.cancel()
        self._receiving.cancel()
        trio.lowlevel.notify_closing(self._near)
        self._near.close()
        self._far.close()
