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

import socket
from contextlib import suppress
from typing import Any

import trio

from umktls.abi.cmsg import LINUX_CMSG
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT, broken, readable
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.socket.received import APPLICATION_DATA
from umktls.ktls.socket.states import State
from umktls.run.edges import Edges, really_closed, unread_by_peer

__all__ = ["Replaced"]

PIECE = 256 * 1024
# With what fits a pair this fits the receive buffer of a half that gets its key.
CLEAR_PIECE = 32 * 1024
MARK = b"!"
# So much may be opened or received and not read.
RECEIVED_LIMIT = 128 * 1024


class Replaced:
    """One TCP socket behind a pair. `end` is our end of it, `inode` tells the program's."""

    def __init__(self, sock: KernelSocket, end: socket.socket, inode: int, edges: Edges) -> None:
        end.setblocking(False)
        self.sock = sock
        self.state = sock.state
        self.end = end
        self.inode = inode
        self._edges = edges
        self._buffer = memoryview(bytearray(PIECE))
        self._unread = bytearray()  # received in clear, and not in the pair yet
        self._marked = False
        self._reads_plainly = False
        self._received_all = False
        self._gone = trio.Event()
        self.finished = trio.Event()
        self._read = trio.Event()
        self.arrived = trio.Event()

    # ---- its life

    async def run(self) -> None:
        """Carry data both ways until the program has closed its end and all of it was sent."""
        self._edges.add(self.end.fileno(), self._noticed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                await self._send()
                nursery.cancel_scope.cancel()
        finally:
            self._edges.remove(self.end.fileno())
            trio.lowlevel.notify_closing(self.end)
            self.end.close()
            self.sock.close("closed by the program")
            self.arrived.set()
            self.finished.set()

    @property
    def left(self) -> bool:
        """Whether no program has it any more."""
        return not self.finished.is_set() and really_closed(self.end.fileno())

    def _noticed(self, closed: bool) -> None:
        """The program has read something of the pair, or closed its end."""
        if closed:
            self._gone.set()
        elif self._marked and not unread_by_peer(self.end.fileno()):
            self._marked = False
            self._mark_passed()
        elif self._unread or self._reads_plainly:
            self.hand_on()
        self._read.set()
        self._read = trio.Event()

    def news(self) -> None:
        """Something has come, or keys have, or the end: who waits in a recvmsg looks again."""
        self.hand_on()
        self.arrived.set()
        self.arrived = trio.Event()

    # ---- the program sends

    async def _send(self) -> None:
        while True:
            await readable(self.end)
            if not self.take_sent():
                break
            await self.sock.queue.drained()
        await self.sock.queue.emptied()
        if not really_closed(self.end.fileno()):
            with suppress(OSError):
                self.sock.sock.shutdown(socket.SHUT_WR)
            await self._gone.wait()

    def take_sent(self) -> bool:
        """Seal what the program has written, a piece of it; False where it will write no more.
        Raises nothing: a connection that takes nothing any more ends."""
        try:
            count = self.end.recv_into(self._buffer)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not count:
            self.state.conditions.shut = True
            return False
        try:
            # In clear the parts themselves wait in the queue.
            data = self._buffer[:count] if self.seals else bytes(self._buffer[:count])
            if self.state.open_record:
                self.sock.queue.push(self.state.send(data).wire)
            else:
                self.sock.queue.push(self.state.tx.seal_message([data]))
        except UmktlsError as error:
            self.break_off(error)
        return True

    @property
    def seals(self) -> bool:
        return self.state.tx.state is State.SEALED

    @property
    def opens(self) -> bool:
        return self.state.rx.state is not State.CLEAR

    def take_all_sent(self) -> None:
        """Seal all that was written so far, and see whether that was the end."""
        with suppress(OSError):  # there is no more
            self.end.recv(1, socket.MSG_PEEK)
            while self.take_sent():
                self.end.recv(1, socket.MSG_PEEK)

    def send(self, data: bytes, control: bytes, flags: int) -> int:
        """One sendmsg(2) with all that it has. Raises `UmktlsError`."""
        self.take_all_sent()
        try:
            sent = self.state.send(data, control, flags)
        except UmktlsError:
            self.sock.queue.push(self.state.take_pending())
            raise
        self.sock.queue.push(sent.wire)
        return sent.count

    @property
    def crowded(self) -> bool:
        """Whether TCP has enough to do."""
        return self.sock.queue.size > SEND_QUEUE_LIMIT

    # ---- the program receives

    async def _receive(self) -> None:
        while not self._received_all:
            if self._full:
                await self._read.wait()
                continue
            try:
                await readable(self.sock.sock)
            except WorldError as error:
                self._lost(error)
                self.news()
            if self._receive_some():
                self.news()

    def take_received(self) -> None:
        """Take what TCP has, where nobody has looked yet."""
        came = False
        while not (self._received_all or self._full) and self._receive_some():
            came = True
        if came:
            self.news()

    def _lost(self, error: WorldError) -> None:
        self._received_all = True
        self.state.connection_lost(error)

    @property
    def _full(self) -> bool:
        if not self.opens:
            return bool(self._unread)
        parked = sum(len(record.rest) for record in self.state.rx.parked)
        return self.state.rx.waiting_bytes() + parked > RECEIVED_LIMIT

    def _receive_some(self) -> bool:
        """One piece, or the end; False where there is nothing."""
        if self._received_all:
            return False
        room = self.state.rx.get_buffer() if self.opens else self._buffer[:CLEAR_PIECE]
        try:
            count = self.sock.sock.recv_into(room)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(broken("receive", error))
            return True
        self._received_all = not count
        if self.opens:
            self.state.rx.buffer_filled(count)
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

    def _hand_on_clear(self) -> None:
        sent = self._put(self._unread)
        del self._unread[:sent]
        if self._unread:
            return
        if self._received_all:
            self._end(socket.SHUT_WR)

    def _hand_on_opened(self) -> None:
        rx = self.state.rx
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
        if self.state.rx.eof or (self.state.ended and not self._something()):
            self._end(socket.SHUT_WR)
        elif not self._marked and self.state.readable():
            with suppress(OSError):
                self.end.send(MARK, socket.MSG_OOB)
                self._marked = True

    def _something(self) -> bool:
        rx = self.state.rx
        return bool(rx.parked) or rx.record_ready() or rx.error is not None

    def _mark_passed(self) -> None:
        """Somebody reads by read(2)."""
        rx = self.state.rx
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

    # ---- inside a call of the program, which has `copy` open

    def recvmsg(
        self, copy: socket.socket, length: int, controllen: int, flags: int
    ) -> tuple[bytes, bytes, int]:
        """recvmsg(2) on a half with a key, never waiting. Raises `UmktlsError`."""
        self._take_back(copy)
        self._reads_plainly = False
        try:
            with suppress(WouldBlock):
                return self.state.recvmsg(length, controllen, flags)
            self.take_received()
            return self.state.recvmsg(length, controllen, flags)
        finally:
            if self._marked and not self.state.readable():
                self._unmark(copy)
            self.hand_on()
            self._read.set()
            self._read = trio.Event()

    def give_back(self, data: bytes, control: bytes) -> None:
        """What `recvmsg` has returned could not be delivered."""
        told = LINUX_CMSG.parse_untrusted(control)
        type_ = told[0].data[0] if told else APPLICATION_DATA
        self.state.rx.give_back_data(data, type_)
        self.hand_on()

    def _take_back(self, copy: socket.socket) -> None:
        """Data that is in the pair and was not read is the head of the queue again."""
        if not self._reads_plainly:
            return
        data = self._empty(copy)
        if data:
            self.state.rx.give_back_data(data)

    def _empty(self, copy: socket.socket) -> bytes:
        """All that is in the pair for the program, the mark left out."""
        found = bytearray()
        while unread_by_peer(self.end.fileno()):
            try:
                piece = copy.recv(PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:  # there was a mark, and nothing behind it
                continue
            if not piece:
                break
            found += piece
        self._marked = False
        return bytes(found)

    def _unmark(self, copy: socket.socket) -> None:
        self._marked = False
        with suppress(BlockingIOError):
            copy.recv(1, socket.MSG_DONTWAIT)

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
            rx, start = self.state.rx, 0
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
