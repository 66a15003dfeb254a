"""The threads that carry a bounced session's data between the kernel and the connection.

For each direction that is bounced the kernel has given one end of a socket pair:

    RPC  ->  TX pair  ->  seal (SSL_write)  ->  wire  ->  connection
    RPC  <-  RX pair  <-  open (SSL_read)   <-----------  connection

Only the sending thread writes to the connection, from `wire`, a queue: whoever seals something (the
session, for an alert too) appends to it inside the session's lock, so the order on the wire is the
order of sealing, and nobody waits for the peer with that lock held. While something is on the wire,
nothing is taken from the TX pair: a slow peer slows RPC down, as it would over TCP.

Both threads end when `close` is called; before that, each direction ends by itself as a connection
does: end of stream in the TX pair means that RPC will send no more, and the RX pair gets its end
when the peer has closed or the session has failed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from umktls.errors import WorldError
from umktls.ktls.engines import RECORD_HEADER_LENGTH, Buffer
from umktls.ktls.session import Direction
from umktls.userland.streams import NotTls, record_length_untrusted

__all__ = ["Bounced", "Relay"]

logger = logging.getLogger(__name__)

READ_SIZE = 256 * 1024
FINISH_SECONDS = 3.0  # less than the kernel's patience with DISCONNECT
CLOSE_SECONDS = 1.0


class Bounced(Protocol):
    """The session, as the threads see it."""

    def seal(self, data: Buffer) -> bool:
        """Seal data and write the records; False when the session has failed."""

    def open(self, sealed: bytes) -> bytes | None:
        """The data in one record; None when there will be no more."""

    def broken(self, reason: str) -> None:
        """What came is no record at all."""


class Told(Protocol):
    """A kernel that captures, and wants to know what was sent and received."""

    def sent(self, data: bytes) -> None: ...

    def received(self, data: bytes) -> None: ...


class Relay:
    """Carries what is bounced of the connection `fd`, from `start` until `close`; `told`, if there
    is one, hears of it."""

    def __init__(
        self,
        fd: int,
        pairs: Mapping[Direction, socket.socket],
        session: Bounced,
        told: Told | None = None,
    ) -> None:
        self._told = told
        self._connection = socket.socket(fileno=os.dup(fd))
        self._pairs = dict(pairs)
        self._session = session
        self._wire: deque[memoryview | None] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._closed = False
        self._lock = threading.Lock()  # the descriptor of `_wake` is not used once it is closed
        self._drained = threading.Event()
        self._threads = {
            direction: threading.Thread(target=run, name=f"bounce-{direction}", daemon=True)
            for direction, run in (("tx", self._send), ("rx", self._receive))
            if direction in pairs
        }

    @property
    def sends(self) -> bool:
        """Whether sending is bounced, and so `write` can be called."""
        return "tx" in self._pairs

    def start(self) -> None:
        """Raises `WorldError` where there is no thread to be had; `close` is to follow."""
        try:
            for thread in self._threads.values():
                thread.start()
        except RuntimeError as error:
            text = "no thread is left to this user (ulimit -u)"
            raise WorldError(text, errno.EAGAIN) from error

    def write(self, data: bytes) -> None:
        """Append to what goes to the connection. Does not wait."""
        self._wire.append(memoryview(data))
        self._wake_up()

    def end(self) -> None:
        """Shut the connection down for sending behind what was written so far."""
        self._wire.append(None)
        self._wake_up()

    def finish_sending(self) -> None:
        """Wait, not long, until all that RPC has sent is with TCP."""
        if self.sends:
            self._drained.wait(FINISH_SECONDS)

    def close(self) -> None:
        """End the threads; what is still on the wire has a moment to go. Once is enough."""
        if self._stopping:
            return
        self._stopping = True
        self._wake_up()
        sender = self._threads.get("tx")
        if sender is not None and sender.is_alive():
            sender.join(CLOSE_SECONDS)
        shut(self._connection, socket.SHUT_RD)
        for pair in self._pairs.values():
            shut(pair, socket.SHUT_RDWR)
        for thread in self._threads.values():
            if thread.is_alive():
                thread.join(CLOSE_SECONDS)
        self._close_all()

    def _close_all(self) -> None:
        for sock in (self._connection, *self._pairs.values()):
            sock.close()
        with self._lock:
            self._closed = True
            os.close(self._wake)

    def _wake_up(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    # ---- RPC to the peer

    def _send(self) -> None:
        pair = self._pairs["tx"]
        open_ = True
        try:
            while not (self._stopping and not self._wire):
                if not open_ and not self._wire:
                    self._drained.set()
                ready = self._wait_to_send(pair if open_ else None)
                if self._wire:
                    self._write_some()
                elif ready:
                    open_ = self._seal_some(pair)
        except OSError as error:
            logger.info("bouncing ends, the connection broke: %s", error.strerror)
        shut(pair, socket.SHUT_RDWR)
        self._drained.set()

    def _wait_to_send(self, pair: socket.socket | None) -> bool:
        """Wait for something to do; whether the pair has something to read."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._wire:
            poller.register(self._connection, select.POLLOUT)
        elif pair is not None:
            poller.register(pair, select.POLLIN)
        ready = {fd for fd, _ in poller.poll()}
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return pair is not None and pair.fileno() in ready

    def _seal_some(self, pair: socket.socket) -> bool:
        """Take what RPC has sent and seal it; False at its end."""
        try:
            data = pair.recv(READ_SIZE)
        except BlockingIOError:
            return True
        return bool(data) and self._session.seal(data)

    def _write_some(self) -> None:
        head = self._wire[0]
        if head is None:
            shut(self._connection, socket.SHUT_WR)
            self._wire.popleft()
            return
        with contextlib.suppress(BlockingIOError):
            sent = self._connection.send(head)
            if self._told is not None:
                self._told.sent(bytes(head[:sent]))
            head = head[sent:]
        if head:
            self._wire[0] = head
        else:
            self._wire.popleft()

    # ---- the peer to RPC

    def _receive(self) -> None:
        pair = self._pairs["rx"]
        waiting = bytearray()
        going = True
        try:
            while going:
                wait(self._connection, select.POLLIN)
                with contextlib.suppress(BlockingIOError):
                    chunk = self._connection.recv(READ_SIZE)
                    if self._told is not None:
                        self._told.received(chunk)
                    waiting += chunk
                    going = bool(chunk) and self._open_all(waiting, pair)
        except NotTls as error:
            self._session.broken(str(error))
        except OSError as error:
            logger.info("bouncing ends: %s", error)
        shut(pair, socket.SHUT_WR)

    def _open_all(self, waiting: bytearray, pair: socket.socket) -> bool:
        """Open the whole records in `waiting` and hand their data on; False at the end.

        Each one's before the next is opened: that may be the peer's close_notify, upon which the
        kernel is told that nothing more comes. Raises `NotTls`, `OSError`.
        """
        start = 0
        going = True
        while going and (size := whole_record(waiting, start)):
            opened = self._session.open(bytes(waiting[start : start + size]))
            start += size
            going = opened is not None
            if opened:
                send_all(pair, opened)
        del waiting[:start]
        return going


def whole_record(waiting: bytearray, start: int) -> int:
    """Length of the record at `start`, 0 if not all of it is there. Raises `NotTls`."""
    if len(waiting) - start < RECORD_HEADER_LENGTH:
        return 0
    header = bytes(waiting[start : start + RECORD_HEADER_LENGTH])
    size = RECORD_HEADER_LENGTH + record_length_untrusted(header)
    return size if len(waiting) - start >= size else 0


def send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        wait(sock, select.POLLOUT)
        with contextlib.suppress(BlockingIOError):
            view = view[sock.send(view) :]


def wait(sock: socket.socket, events: int) -> None:
    poller = select.poll()
    poller.register(sock, events)
    poller.poll()


def shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)
