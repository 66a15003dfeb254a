"""A generic netlink socket of an unmodified program.

How a netlink socket is replaced
--------------------------------
The program gets one end of a pair of SEQPACKET sockets from socket(2): datagrams keep their limits
there, poll, epoll, select, O_NONBLOCK, dup and fork are the machine's. What it sends by sendmsg
or sendto never passes the pair: Linux deals with a netlink message inside that call, so the
supervisor asks the host, puts the socket of an ACCEPT into the caller's table, queues the answers
in the pair, and then lets the call return. What comes by write(2), which is not notified, is read
from the pair and dealt with behind it; only an ACCEPT cannot be, for want of a call that waits.

All that is received is in the pair. recvmsg and recvfrom are answered from there by the supervisor,
since they return whom it came from (a sockaddr_nl); read(2) needs nobody.

Each request to the host has a sequence number of ours and asks for an acknowledgement, so that its
end is known; the program gets one only where it has asked.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import trio

from umktls.abi.handshake import (
    HANDSHAKE_A_ACCEPT_SOCKFD,
    HANDSHAKE_A_DONE_SOCKFD,
    HANDSHAKE_CMD_ACCEPT,
    HANDSHAKE_CMD_DONE,
)
from umktls.abi.netlink import NLM_F_ACK, NLMSG_ERROR
from umktls.errors import UmktlsError, WorldError
from umktls.run.agency import Agency, Taken
from umktls.run.genl import (
    command_of,
    done_message,
    ends_an_answer,
    is_request,
    sockfd_untrusted,
    with_sockfd,
)
from umktls.run.proc import inode_of, is_socket
from umktls.run.reactor import CLOSED, READ_BY_PEER, really_closed
from umktls.run.system import refused
from umktls.run.waiting import Waiting
from umktls.upcall import genl
from umktls.upcall.netlink import MAX_DATAGRAM, Message, encode_message
from umktls.upcall.syscalls import CloseArgs
from umktls.userland.failures import close_all

__all__ = ["NETLINK_CAP_ACK", "NETLINK_NO_ENOBUFS", "NetlinkSocket", "Put"]

NETLINK_NO_ENOBUFS, NETLINK_CAP_ACK = 5, 10
# So long the host may take for a request.
ANSWER_SECONDS = 10.0
# Datagrams that wait for a program which does not read; Linux has SO_RCVBUF for it.
BACKLOG = 1024
_UCRED = struct.Struct("3i")
# No socket can be put into the table of a caller that does not wait.
UNNOTIFIED = errno.EOPNOTSUPP
# Of a dump, which ends with NLMSG_DONE and is not acknowledged besides.
ENDED = -1
# Makes a descriptor of ours one of the caller's; its number there.
Put = Callable[[int], int]


class NetlinkSocket:
    """One netlink socket. `end` is our end of the pair, `inode` tells the program's; `number` and
    `sock` are the host's socket for it. `kind` is SOCK_RAW or SOCK_DGRAM, which are the same."""

    def __init__(
        self,
        agency: Agency,
        number: int,
        sock: socket.socket,
        end: socket.socket,
        inode: int,
        kind: int,
    ) -> None:
        for each in (sock, end):
            each.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.number = number
        self.inode = inode
        self.kind = kind
        self.port = 0
        self.bound = False
        self.peer = (0, 0)
        self.groups: set[int] = set()
        self.options: dict[int, int] = {}
        self.overrun = False
        self.receiving = Waiting()
        self._agency = agency
        self._sock = sock
        self._end = end
        self._backlog: deque[bytes] = deque()
        self._seqs = itertools.count(1)
        self._turn = trio.Lock()
        self._tell, self._answers = trio.open_memory_channel[tuple[Message, list[int]]](1024)

    # ---- its life

    async def run(self) -> None:
        """Until no program has it any more, or the host has gone."""
        self._agency.reactor.add(self._end.fileno(), READ_BY_PEER, self._noticed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._written, nursery.cancel_scope)
                await self._received()
                nursery.cancel_scope.cancel()
        finally:
            self._agency.reactor.remove(self._end.fileno())
            for each in (self._end, self._sock):
                trio.lowlevel.notify_closing(each)
                each.close()
            self._tell.close()
            self.receiving.tell()
            with trio.CancelScope(shield=True), suppress(UmktlsError):
                await self._agency.call(CloseArgs(self.number))

    def _noticed(self, events: int) -> None:
        """The program has read something, or closed its end."""
        if not events & CLOSED:
            self._flush()

    async def _received(self) -> None:
        """What the host sends: answers to whoever waits for them, and notifications."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_DATAGRAM, 4)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            for message in genl.messages_untrusted(data):
                self._sort(message, descriptors)
                descriptors = []
            close_all(descriptors)

    def _sort(self, message: Message, descriptors: list[int]) -> None:
        if message.seq or message.pid:
            try:
                self._tell.send_nowait((message, descriptors))
                return
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._agency.counts["dropped"] += 1
        else:
            self._agency.counts["notified"] += 1
            self.queue(encode_message(message))
        close_all(descriptors)

    async def _written(self, scope: trio.CancelScope) -> None:
        """What the program has sent by write(2), each with who it was."""
        room = socket.CMSG_SPACE(_UCRED.size)
        while True:
            await trio.lowlevel.wait_readable(self._end)
            try:
                data, control, _, _ = self._end.recvmsg(MAX_DATAGRAM, room)
            except BlockingIOError:
                continue
            except OSError:
                break
            if not data and really_closed(self._end.fileno()):
                break
            process = _UCRED.unpack(control[0][2])[0] if control else 0
            with suppress(OSError, UmktlsError):
                await self.sent(data, process, None)
        scope.cancel()

    # ---- the program receives

    def queue(self, datagram: bytes) -> None:
        """For the program to read. Where too much waits it is lost, and a recvmsg says so."""
        if len(self._backlog) >= BACKLOG:
            self._agency.counts["dropped"] += 1
            self.overrun = NETLINK_NO_ENOBUFS not in self.options
            return
        self._backlog.append(datagram)
        self._flush()

    def _flush(self) -> None:
        while self._backlog:
            try:
                self._end.send(self._backlog[0])
            except BlockingIOError:
                break
            except OSError:
                self._backlog.clear()
                break
            self._backlog.popleft()
        self.receiving.tell()

    # ---- the program sends

    async def sent(self, datagram: bytes, thread: int, put: Put | None) -> None:
        """Deal with all messages of a datagram: their answers are queued when this returns. `put`
        is for the caller's table, None where nothing can be put there. Raises `UmktlsError` where
        the host does not answer."""
        capped = bool(self.options.get(NETLINK_CAP_ACK))
        for message in genl.messages_untrusted(datagram):
            error = await self._deal_with(message, thread, put) if is_request(message) else 0
            if error > 0:
                self.queue(genl.encode_error(message, error, self.port, capped=capped))
            elif not error and message.flags & NLM_F_ACK:
                self.queue(genl.acknowledge(message, self.port))

    async def _deal_with(self, message: Message, thread: int, put: Put | None) -> int:
        """One request; the errno that comes of it, 0 for none, ENDED where its answer has an end of
        its own."""
        self._agency.counts["requests"] += 1
        of_handshake = message.type == self._agency.family
        if of_handshake and command_of(message) == HANDSHAKE_CMD_ACCEPT:
            return UNNOTIFIED if put is None else await self._accept(message, put)
        if of_handshake and command_of(message) == HANDSHAKE_CMD_DONE:
            return await self._done(message, thread)
        return await self._ask(message, self._hand_on)

    async def _accept(self, message: Message, put: Put) -> int:
        failed = 0

        def give(original: Message, reply: Message, descriptors: list[int]) -> None:
            nonlocal failed
            number = sockfd_untrusted(reply, HANDSHAKE_A_ACCEPT_SOCKFD)
            if number is None or not descriptors:
                self._hand_on(original, reply, descriptors)
                return
            try:
                inode, theirs = os.fstat(descriptors[0]).st_ino, put(descriptors[0])
            except OSError as error:
                failed = number
                self._agency.trace.emit("warning", None, reason=f"ACCEPT: {error}")
                return
            self._agency.taken[inode] = Taken(number)
            self._agency.counts["accepted"] += 1
            self._hand_on(original, with_sockfd(reply, HANDSHAKE_A_ACCEPT_SOCKFD, theirs), [])

        await self._agency.sweep()
        error = await self._ask(message, give)
        if failed:  # handshake_nl_accept_doit: the request ends with EIO
            await self._ask(done_message(self._agency.family, failed, errno.EIO), self._hand_on)
            await self._agency.call(CloseArgs(failed))
            return errno.EMFILE
        return error

    async def _done(self, message: Message, thread: int) -> int:
        number = sockfd_untrusted(message, HANDSHAKE_A_DONE_SOCKFD)
        taken = None
        if number is not None:
            inode = inode_of(thread, number) if number >= 0 else 0
            taken = self._agency.taken.get(inode)
            if inode and taken is None and not is_socket(thread, number):
                return errno.ENOTSOCK
            ours = taken.number if taken is not None else self.number if inode else -1
            message_there = with_sockfd(message, HANDSHAKE_A_DONE_SOCKFD, ours)
        else:
            message_there = message
        error = await self._ask(message_there, self._hand_on)
        if taken is not None and not error:
            taken.done = True
            self._agency.counts["done"] += 1
        return error

    def _hand_on(self, original: Message, reply: Message, descriptors: list[int]) -> None:
        """A reply as it is, but for the numbers of the socket."""
        self.queue(encode_message(replace(reply, seq=original.seq, pid=self.port)))

    async def _ask(
        self, message: Message, take: Callable[[Message, Message, list[int]], None]
    ) -> int:
        """Have the host answer one request, and `take` get each reply; the errno of its end."""
        async with self._turn:
            seq = next(self._seqs)
            there = replace(message, seq=seq, pid=self.port, flags=message.flags | NLM_F_ACK)
            with trio.move_on_after(ANSWER_SECONDS):
                await self._send(encode_message(there))
                while True:
                    reply, descriptors = await self._next_answer()
                    try:
                        if reply.seq != seq:
                            continue  # one that came too late
                        if reply.type == NLMSG_ERROR:
                            return genl.error_of_untrusted(reply)
                        take(message, reply, descriptors)
                        if ends_an_answer(reply):
                            return ENDED
                    finally:
                        close_all(descriptors)
        self._agency.trace.emit("warning", None, reason="the host has not answered by netlink")
        return errno.EIO

    async def _send(self, datagram: bytes) -> None:
        while True:
            try:
                self._sock.send(datagram)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            except (OSError, trio.ClosedResourceError) as error:
                raise gone() from error

    async def _next_answer(self) -> tuple[Message, list[int]]:
        try:
            return await self._answers.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise gone() from error

    def receive(self, copy: socket.socket, flags: int) -> bytes:
        """One datagram of those that wait, which is left there with MSG_PEEK. Raises OSError:
        EAGAIN; ENOBUFS where some were lost."""
        if self.overrun:
            self.overrun = False
            raise refused(errno.ENOBUFS)
        peek = flags & socket.MSG_PEEK
        data = copy.recv(MAX_DATAGRAM, socket.MSG_DONTWAIT | peek)
        if not peek:
            self._flush()
        return data


def gone() -> WorldError:
    return WorldError("the host has gone", errno.ECONNREFUSED)
