"""The daemon's side of version 2's transport: an ONC RPC service on a netlink socket.

    server = NetlinkServer(kernel, "tlsclnt", RPCTLSCD_V2, {"CONNECT": connect, ...})
    server.start()

It does with netlink messages what `svc.UpcallServer` does with a stream: handlers get the decoded
argument and return the result, each in a thread of its own, the one that has read the message.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from umktls.abi.freebsd import ERRNO_NAMES
from umktls.abi.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NLMSG_ERROR,
    RPC_FAMILY,
    RPCNL_REPLY,
    RPCNL_REQUEST,
    SOL_NETLINK,
)
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_FIRST_CALLS
from umktls.errors import PeerError, UmktlsError
from umktls.rpc.message import Call, parse_untrusted
from umktls.rpc.program import Program
from umktls.rpc.server import Dispatcher, Handler, Job, Service
from umktls.rpc.xdr import Buffer
from umktls.upcall import netlink as wire
from umktls.upcall.syscalls import CloseArgs, SendmsgArgs, SetsockoptArgs
from umktls.userland.failures import KernelGone, SystemCallError, close_all
from umktls.userland.libc import CALL_SECONDS, Kernel
from umktls.userland.svc import MAX_THREADS, UpcallPeer
from umktls.userland.threads import Readers

__all__ = ["NetlinkServer"]

logger = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")
NOTHING = contextlib.nullcontext()
# A datagram, and the descriptors beside it.
Arrived = tuple[bytes, list[int]]


class NetlinkServer:
    """Serves `handlers` (by procedure name) of `program` as a member of `group`. `prepare` is
    called once, behind the first answer: for what need not be ready before that. `first`: what is
    asked first of a CONNECT's socket (UMKTLS_FIRST_CALLS), which then comes along with the upcall
    where the kernel does that. `finish`, by procedure: makes its result of what its handler
    answers before it is done (see `Kernel.calls`).

    Raises `UmktlsError` when the kernel has no such sockets or no such group.
    """

    def __init__(
        self,
        kernel: Kernel,
        group: str,
        program: Program,
        handlers: Mapping[str, Handler],
        threads: int = MAX_THREADS,
        prepare: Callable[[], None] | None = None,
        first: bytes = b"",
        finish: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
    ) -> None:
        self._finish = finish
        self._prepare = prepare
        self._first = first
        self._brings = False
        self._kernel = kernel
        self._dispatcher = Dispatcher([Service(program, handlers)])
        self._readers = Readers(
            self._receive, self._take, lambda: self._sock.close(), threads, "upcall"
        )
        self._number, self._sock = kernel.netlink_socket()
        try:
            family = self._ask_for_family()
            if group not in family.groups:
                raise PeerError(f"the kernel's family {family.name} has no group {group}")
        except (OSError, UmktlsError) as error:
            self._sock.close()
            raise KernelGone(f"netlink: {error}") from error
        self._family, self._group = family.number, family.groups[group]
        pid, uid, _ = _UCRED.unpack(
            self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        self._peer = UpcallPeer(pid, uid)

    def _ask_for_family(self) -> wire.Family:
        self._sock.settimeout(CALL_SECONDS)
        self._sock.send(wire.encode_get_family(1, RPC_FAMILY))
        answer = wire.parse_untrusted(self._sock.recv(wire.MAX_DATAGRAM))
        self._sock.settimeout(None)
        if answer.type == NLMSG_ERROR:
            number = wire.parse_error_untrusted(answer)
            raise PeerError(f"no family {RPC_FAMILY}: {ERRNO_NAMES.get(number, number)}")
        return wire.parse_family_untrusted(answer)

    def start(self) -> None:
        """Become a member, and begin to answer, in threads of its own."""
        group = self._group.to_bytes(4, "little")
        if self._first:
            with contextlib.suppress(SystemCallError):
                self._kernel.call(
                    SetsockoptArgs(self._number, SOL_UMKTLS, UMKTLS_FIRST_CALLS, self._first, ())
                )
                self._brings = True
        self._kernel.call(
            SetsockoptArgs(self._number, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group, ())
        )
        self._readers.start()

    def close(self) -> None:
        """Stop answering. Upcalls that run go on; their answers are lost."""
        with contextlib.suppress(UmktlsError):
            self._kernel.call(CloseArgs(self._number))
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> Arrived | None:
        """The kernel's next message; None when its end is closed."""
        try:
            if not self._brings:
                return (datagram, []) if (datagram := self._sock.recv(wire.MAX_DATAGRAM)) else None
            datagram, descriptors, _, _ = socket.recv_fds(self._sock, wire.MAX_DATAGRAM, 1)
        except OSError:
            return None
        return (datagram, descriptors) if datagram else None

    def _take(self, arrived: Arrived) -> None:
        datagram, descriptors = arrived
        try:
            self._answer(wire.parse_untrusted(datagram), descriptors)
        except PeerError as error:
            logger.warning("garbage on the netlink socket, message dropped: %s", error)
        finally:
            close_all(descriptors)

    def _answer(self, message: wire.Message, descriptors: list[int]) -> None:
        if message.type == NLMSG_ERROR:
            number = wire.parse_error_untrusted(message)
            name = ERRNO_NAMES.get(number, str(number))
            logger.warning("the kernel did not take an answer: %s%s", name, HINTS.get(name, ""))
            return
        part = wire.parse_rpc_untrusted(message)
        if message.type != self._family or part.command != RPCNL_REQUEST or part.body is None:
            raise PeerError(f"a netlink message of type {message.type} that is no upcall")
        call = parse_untrusted(part.body)
        if not isinstance(call, Call):
            raise PeerError("a reply where a call was expected")
        with self._with_what_it_brings(part, descriptors):
            job = self._dispatcher.dispatch(call, self._peer)
            reply = self._done(message.seq, job) if isinstance(job, Job) else job
        if reply is not None:
            self._reply(message.seq, reply)
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            prepare()

    def _with_what_it_brings(
        self, part: wire.RpcPart, descriptors: list[int]
    ) -> AbstractContextManager[None]:
        """A socket comes with CONNECT only, and a record with HANDLERECORD."""
        if part.replies:
            return self._kernel.brought(part.replies, descriptors)
        return self._kernel.told_of(part.record) if part.record else NOTHING

    def _done(self, xid: int, job: Job) -> list[Buffer] | None:
        """The handler's reply; None where it has been given along with system calls."""
        finish = self._finish.get(job.procedure.name) if self._brings else None
        if finish is None:
            return job.run()

        def say(answer: Any) -> SendmsgArgs:
            return self._said(xid, job.reply_with(finish(answer)))

        self._kernel.answers_by(say)
        reply = job.run()
        if not self._kernel.has_answered():
            return reply
        with contextlib.suppress(UmktlsError):
            self._kernel.settle()
        return None

    def _said(self, xid: int, parts: list[Buffer]) -> SendmsgArgs:
        """The system call that answers the upcall."""
        return SendmsgArgs(self._number, self._message(xid, parts), b"", 0)

    def _message(self, xid: int, parts: list[Buffer]) -> bytes:
        return wire.encode_rpc(RPCNL_REPLY, self._family, self._group, xid, b"".join(parts))

    def _reply(self, xid: int, parts: list[Buffer]) -> None:
        """Answer the upcall behind system calls that were put off; along with them, where the
        kernel takes by sendmsg(2) what is said on this socket, as it does if it makes first calls.
        """
        try:
            if self._brings and self._kernel.has_calls_to_make():
                self._kernel.call(self._said(xid, parts))
                return
            with contextlib.suppress(UmktlsError):
                self._kernel.settle()
            self._sock.send(self._message(xid, parts))
        except (OSError, UmktlsError) as error:
            logger.info("an answer came too late: %s", error)


HINTS = {"EPROCUNAVAIL": " (it came too late: nobody waits for it any more)"}
