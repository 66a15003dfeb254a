"""A socket of an unmodified program that has kernel TLS: what stands in its place.

How a socket is replaced
------------------------
A program keeps its own TCP socket, and all calls on it are the machine's, until it sets the first
key (SOL_TLS, TLS_TX or TLS_RX). TCP_ULP alone changes nothing, as on Linux. With the first key the
supervisor takes a copy of the TCP socket (pidfd_getfd) and puts one end of a pair of AF_UNIX stream
sockets in its place, under all numbers that the process has for it (SECCOMP_ADDFD_FLAG_SETFD).
What epoll descriptors of the process waited for is registered anew with the same events and data
(epolls.py). That is late enough: none of OpenSSL, nginx and Python has its socket looked at
by others then; all of them ask for kernel TLS on every connection, and most never set a key.

    program --- write, sendfile ---> pair ---> sealed ---> TCP
    program <--- read, recvmsg ----- pair <--- opened <--- TCP

What is sent in bulk is written to the pair and costs no notification. Records other than data come
by sendmsg with a control message: what is in the pair goes before them. Limits between calls are
not seen in a pair: writes that wait together become records together.

A direction without a key goes through the pair as it is. When it gets one, what the program
has not read is taken back out of the pair: those are records.

What is received with a key stays here, since recvmsg has to tell each record's type. So that
poll, select and epoll say that there is something to read, the pair has a mark in it: a byte
out of band, which is readable for all of them and which read(2) passes over in silence. If it is
gone without a recvmsg, the program reads by read(2): then data is put into the pair, up to the next
record that is none. There a read gets the end of the stream instead of EIO, since a program that
cannot take such a record cannot go on. A recvmsg takes back what is in the pair.

The ends: a FIN or a reset of the peer ends the pair's direction when everything before it was read;
what is sent after a reset meets its error. A pair that nobody has open any more ends TCP's
connection when all that was in it has been sent.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from umktls.abi.cmsg import LINUX_CMSG
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import broken
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.socket.received import APPLICATION_DATA
from umktls.ktls.socket.states import State
from umktls.run.outgoing import PIECE, SCRATCH, Outgoing
from umktls.run.reactor import (
    CLOSED,
    ENDED,
    READ_BY_PEER,
    READABLE,
    Reactor,
    really_closed,
    unread_by_peer,
)
from umktls.run.waiting import Waiting

__all__ = ["Replaced"]

# With what fits a pair this fits the receive buffer of a half that gets its key.
CLEAR_PIECE = 32 * 1024
MARK = b"!"
# Python's own are objects, which are slow to compute with.
DONTWAIT, OUT_OF_BAND = int(socket.MSG_DONTWAIT), int(socket.MSG_OOB)
# So much may be opened or received and not read.
RECEIVED_LIMIT = 128 * 1024

Copy = Callable[[], socket.socket]


class Replaced:
    """One TCP socket behind a pair. `end` is our end of it, `inode` tells the program's."""

    def __init__(
        self, sock: KernelSocket, end: socket.socket, inode: int, reactor: Reactor
    ) -> None:
        end.setblocking(False)
        self.sock = sock
        self.state = sock.state
        self.rx = sock.state.rx
        self.end = end
        self.inode = inode
        self._reactor = reactor
        self.outgoing = Outgoing(sock, end, reactor, self.break_off)
        self._unread = bytearray()  # received in clear, and not in the pair yet
        self._marked = False
        self._reads_plainly = False
        self._watched = False  # whether the reactor has the TCP socket
        self._received_all = False
        self._gone = trio.Event()
        self.finished = trio.Event()
        self.receiving = Waiting()

    # ---- its life

    async def run(self) -> None:
        """Have data carried both ways until the program has closed its end and all of it was
        sent."""
        self._reactor.add(self.end.fileno(), READ_BY_PEER, self._noticed)
        self._watch()
        try:
            await self.outgoing.run()
            if not really_closed(self.end.fileno()):
                with suppress(OSError):
                    self.sock.sock.shutdown(socket.SHUT_WR)
                await self._gone.wait()
        finally:
            self._reactor.remove(self.end.fileno())
            self._unwatch()
            self.end.close()
            self.sock.close("closed by the program")
            self.receiving.tell()
            self.finished.set()

    @property
    def left(self) -> bool:
        """Whether no program has it any more."""
        return not self.finished.is_set() and really_closed(self.end.fileno())

    def _noticed(self, events: int) -> None:
        """The program has read or written something of the pair, or closed its end."""
        if events & CLOSED:
            self._gone.set()
        elif self._marked and not unread_by_peer(self.end.fileno()):
            self._marked = False
            self._mark_passed()
        elif self._unread or self._reads_plainly:
            self.hand_on()
        if events & ENDED:
            self.outgoing.expect_the_end()
        elif events & READABLE:
            self.outgoing.take()
        if self.receiving and self.receives_no_more():
            self.receiving.tell()

    def news(self) -> None:
        """Something has come, or keys have, or the end: who waits in a recvmsg looks again."""
        self.hand_on()
        if self.receiving:
            self.receiving.tell()

    def receives_no_more(self) -> bool:
        """Whether the program has said so, by shutdown(SHUT_RD): a pair tells who sends nothing."""
        try:
            self.end.send(b"")
        except OSError as error:
            return error.errno == errno.EPIPE
        return False

    @property
    def opens(self) -> bool:
        return self.rx.state is not State.CLEAR

    # ---- the program receives

    def _watch(self) -> None:
        """Have the reactor tell of what TCP receives, where there is room for it."""
        if not (self._watched or self._received_all or self._full):
            self._watched = True
            self._reactor.add(self.sock.sock.fileno(), READABLE, self._came)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._reactor.remove(self.sock.sock.fileno())

    def _came(self, events: int) -> None:
        if self._full:
            self._unwatch()
        elif self._receive_some():
            self.news()

    def take_received(self) -> bool:
        """Take what TCP has, where nobody has looked yet; whether that was something."""
        came = False
        while not (self._received_all or self._full) and self._receive_some():
            came = True
        if came:
            self.news()
        return came

    def _lost(self, error: WorldError) -> None:
        self._received_all = True
        self.state.connection_lost(error)

    @property
    def _full(self) -> bool:
        if not self.opens:
            return bool(self._unread)
        parked = sum(len(record.rest) for record in self.rx.parked)
        return self.rx.waiting_bytes() + parked > RECEIVED_LIMIT

    def _receive_some(self) -> bool:
        """One piece, or the end; False where there is nothing."""
        room = self.rx.get_buffer() if self.opens else SCRATCH[:CLEAR_PIECE]
        try:
            count = self.sock.sock.recv_into(room)
        except BlockingIOError:
            return False
        except OSError as error:
            self._unwatch()
            self._lost(broken("receive", error))
            return True
        if not count:
            self._unwatch()
            self._received_all = True
        if self.opens:
            self.rx.buffer_filled(count)
        else:
            self._unread += room[:count]
        return True

    def hand_on(self) -> None:
        """Let the program know, or have, what there is."""
        if self.end.fileno() < 0:
            return
        if not self.opens:
            self._hand_on_clear()
        elif self._reads_plainly:
            self._hand_on_opened()
        else:
            self._mark()
        self._watch()

    def _hand_on_clear(self) -> None:
        sent = self._put(self._unread)
        del self._unread[:sent]
        if self._unread:
            return
        if self._received_all:
            self._end(socket.SHUT_WR)

    def _hand_on_opened(self) -> None:
        rx = self.rx
        try:
            while (record := rx.read_record()) is not None and record.type == APPLICATION_DATA:
                count = self._put(record.rest)
                rx.consume(count)
                if record.rest:
                    return
        except UmktlsError:  # recvmsg will have it
            pass
        self._mark()

    def _mark(self) -> None:
        """Have the pair say that there is something to read, where there is."""
        if self.rx.eof or (self.state.ended and not self._something()):
            self._end(socket.SHUT_WR)
        elif not self._marked and self.state.readable():
            with suppress(OSError):
                self.end.send(MARK, OUT_OF_BAND)
                self._marked = True

    def _something(self) -> bool:
        rx = self.rx
        return bool(rx.parked) or rx.record_ready() or rx.error is not None

    def _mark_passed(self) -> None:
        """Somebody reads by read(2)."""
        rx = self.rx
        with suppress(UmktlsError):
            record = rx.read_record()
            if record is not None and record.type != APPLICATION_DATA:
                self.break_off(WorldError(f"a read met a record of type {record.type}"))
                return
        self._reads_plainly = True
        self.hand_on()

    def _put(self, data: Any) -> int:
        """How much of it the pair has taken."""
        if not len(data):
            return 0
        try:
            return self.end.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # nobody will read it
            return len(data)

    def _end(self, how: int) -> None:
        with suppress(OSError):
            self.end.shutdown(how)

    def break_off(self, error: UmktlsError) -> None:
        """Nothing goes on here."""
        self.sock.trace.emit("warning", self.sock.name, reason=f"the connection ends: {error}")
        self.sock.hang_up()
        self._end(socket.SHUT_RDWR)
        self.outgoing.expect_the_end()

    def nothing_has_come(self) -> bool:
        """Whether a recvmsg on a half with a key has to wait, where that is plain to see."""
        rx = self.rx
        if rx.state is not State.SEALED or rx.parked or rx.waiting_bytes() or self._reads_plainly:
            return False
        return rx.error is None and not self.state.ended and not self.take_received()

    # ---- inside a call of the program, of whose end `copy` makes a descriptor here

    def recvmsg(
        self, copy: Copy, length: int, controllen: int, flags: int
    ) -> tuple[bytes, bytes, int]:
        """recvmsg(2) on a half with a key, never waiting. Raises `UmktlsError`."""
        if self._reads_plainly:
            self._take_back(copy)
        try:
            try:
                return self.state.recvmsg(length, controllen, flags)
            except WouldBlock:
                if not self.take_received():
                    raise
            return self.state.recvmsg(length, controllen, flags)
        finally:
            if self._marked and not self.state.readable():
                self._unmark(copy)
            self.hand_on()

    def give_back(self, data: bytes, control: bytes) -> None:
        """What `recvmsg` has returned could not be delivered."""
        told = LINUX_CMSG.parse_untrusted(control)
        type_ = told[0].data[0] if told else APPLICATION_DATA
        self.rx.give_back_data(data, type_)
        self.hand_on()

    def _take_back(self, copy: Copy) -> None:
        """Data that is in the pair and was not read is the head of the queue again."""
        self._reads_plainly = False
        with copy() as end:
            data = self._empty(end)
        if data:
            self.rx.give_back_data(data)

    def _empty(self, copy: socket.socket) -> bytes:
        """All that is in the pair for the program, the mark left out."""
        found = bytearray()
        while unread_by_peer(self.end.fileno()):
            try:
                piece = copy.recv(PIECE, DONTWAIT)
            except BlockingIOError:  # there was a mark, and nothing behind it
                continue
            if not piece:
                break
            found += piece
        self._marked = False
        return bytes(found)

    def _unmark(self, copy: Copy) -> None:
        self._marked = False
        with copy() as end, suppress(BlockingIOError):
            end.recv(1, DONTWAIT)

    def unread(self) -> int:
        """Bytes from the peer that were neither opened nor, in clear, put into the pair."""
        return self.sock.detours.unread() + len(self._unread)

    def take_raw(self, copy: socket.socket) -> bytes:
        """What was received in clear and not read, in the pair and behind it."""
        raw = self._empty(copy) + bytes(self._unread)
        self._unread.clear()
        return raw

    def give_raw(self, raw: bytes) -> None:
        """It is the head of what is received, with or without a key."""
        if not self.opens:
            self._unread[:0] = raw
        else:
            rx, start = self.rx, 0
            while start < len(raw):
                room = rx.get_buffer(len(raw) - start)
                count = min(len(room), len(raw) - start)
                room[:count] = raw[start : start + count]
                rx.buffer_filled(count)
                start += count
            if self._received_all and not self.state.dropped:
                rx.get_buffer()
                rx.buffer_filled(0)
        self.news()
