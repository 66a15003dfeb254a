"""The system calls that a daemon makes, over an AF_UNIX seqpacket socket.

One connection is one emulated process: it has a descriptor table of its own, which ends with it. A
datagram is a call, answered by one datagram; a descriptor for a socket travels beside the answer
(SCM_RIGHTS), so that the daemon can handshake on the real socket. Anything that is not a system
call ends the connection, with one line in the trace; the host lives.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterable
from typing import Any

import trio

from umktls.abi import rpctls
from umktls.errors import CallerError, PeerError, UmktlsError, UnsupportedError
from umktls.kernel.ground.kept import Kept
from umktls.kernel.ground.turns import Turn
from umktls.kernel.host.accepting import taken_from_trio
from umktls.kernel.host.callnames import call_name, describe_call
from umktls.kernel.host.depending import Depending
from umktls.kernel.host.gates import stand_before
from umktls.kernel.host.handlers import Answer, CalledHost, Handler, Handlers
from umktls.kernel.host.process import Process
from umktls.private import allowed, peer_credentials
from umktls.rpc.xdr import Struct
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire

__all__ = ["SyscallServer"]

DATAGRAM_LIMIT = 128 * 1024
# sendmsg(2), unix(7): what the system may have again in a moment; so often and so long (seconds)
# it is asked.
PASSING = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
SEND_TRIES, SEND_PAUSE = 20, 0.1
# Of a call that has failed.
NOTHING = Answer(None)
# Calls that may wait for a peer, where the machine's kernel TLS seals.
MAY_WAIT = (rpctls.SYS_sendmsg, rpctls.SYS_umktls_together)
# Calls of which nothing is told: of one, what it does is; of the other, those that it holds.
UNTOLD = (rpctls.SYS_utrace, rpctls.SYS_umktls_together)


class SyscallServer:
    """Answers the system calls of all daemons of one host."""

    def __init__(self, host: CalledHost) -> None:
        self._host = host
        self.processes: list[Process] = []
        self._calls: dict[int, Handler] = Handlers(host, self._together, self._one_by_one).table

    async def serve_process(self, sock: trio.socket.SocketType) -> None:
        """Answers one process until it goes; then what it held is released."""
        with sock:  # until it is the process's
            pid, uid, _ = peer_credentials(sock)
            process = Process(pid, uid, taken_from_trio(sock))
        self.processes.append(process)
        try:
            with process.sock:
                if not allowed(uid):
                    self._garbage(f"process {pid} of user {uid} is not allowed to call")
                    return
                # A process that cannot be answered is better told so by the end.
                try:
                    with contextlib.suppress(OSError):
                        await self._serve(process)
                finally:
                    for one in process.answering:
                        one.cancel()
        finally:
            self.processes.remove(process)
            for netlink in process.netlink.values():
                netlink.close()
            self._host.process_gone(process)

    async def _serve(self, process: Process) -> None:
        """Answer calls in their order; those that wait already, without a trip to the scheduler."""
        process.sock.setblocking(False)
        turn = Turn()
        while True:
            datagram = await turn.datagram(process.sock, DATAGRAM_LIMIT)
            if not datagram:
                return
            try:
                request = datagrams.decode_request_untrusted(datagram)
            except PeerError as error:
                self._garbage(f"process {process.pid}: {error}")
                return
            if process.may_wait and request.number in MAY_WAIT:
                self._host.spawn(self._answer_beside, process, request)
            else:
                await self._answer(process, request)
            if turn.over(len(datagram)):
                await turn.give_way()

    def _garbage(self, reason: str) -> None:
        self._host.trace.emit("garbage", None, where="the system-call socket", reason=reason)

    async def _answer_beside(self, process: Process, request: datagrams.Request) -> None:
        """Answer a call for which the others do not wait, unless the process has gone before."""
        if process not in self.processes:
            return
        with trio.CancelScope() as scope, contextlib.suppress(OSError):
            process.answering.add(scope)
            try:
                await self._answer(process, request)
            finally:
                process.answering.discard(scope)

    async def _answer(self, process: Process, request: datagrams.Request) -> None:
        answer, reply = await self._carry_out(process, request)
        if answer.give_away is None:
            await send_with_descriptor(process.sock, reply, answer.pass_descriptor)
            return
        with answer.give_away as given:
            await send_with_descriptor(process.sock, reply, given.fileno())

    async def _carry_out(
        self, process: Process, request: datagrams.Request
    ) -> tuple[Answer, bytes]:
        """One call, and its reply."""
        answer, number, began, outcome = NOTHING, 0, time.monotonic(), "ok"
        try:
            if request.args is None:
                raise UnsupportedError(f"no system call {request.number}", errno.ENOSYS)
            if self._host.trace.steps.kinds:
                await stand_before(self._host, process, request.args)
                began = time.monotonic()
            called = self._calls[request.number](process, request.args)
            answer = called if isinstance(called, Answer) else await called
        except UmktlsError as error:
            number, outcome = self._host.personality.errno(error.errno), error.errno_name
        except OSError as error:  # the machine's own kernel has refused what the call needs
            refused = error.errno or errno.EIO
            number, outcome = self._host.personality.errno(refused), errno.errorcode[refused]
        if (self._host.trace.close or self._host.capture) and is_told(request):
            self._tell(process, request, answer.result, outcome, began)
        return answer, datagrams.encode_reply(
            request.sequence, number, answer.result, request.number
        )

    def _failed(self, request: datagrams.Request, number: int) -> bytes:
        """The reply to a call that has failed with this machine's errno `number`."""
        mapped = self._host.personality.errno(number)
        return datagrams.encode_reply(request.sequence, mapped, None, request.number)

    def _tell(
        self, process: Process, request: datagrams.Request, result: Any, outcome: str, began: float
    ) -> None:
        """Tell those who watch closely, and a capture, of a call that was answered."""
        fd = getattr(request.args, "fd", -1)
        if fd == wire.TAKEN and process.taken is not None:
            fd = process.taken
        if fd < 0 and outcome == "ok" and isinstance(result, int):  # one that it has from now on
            fd = result if result in process.descriptors else -1
        sock = process.descriptors.get(fd)
        name = sock.name if sock is not None else None
        fields: dict[str, Any] = {
            "name": call_name(request.number),
            "what": describe_call(request.args),
            "pid": process.pid,
            "fd": fd,
            "result": outcome,
            "seconds": time.monotonic() - began,
        }
        if self._host.trace.close:
            self._host.trace.step("syscall", name, **fields)
        if self._host.capture is not None:
            self._host.capture.syscall(name, fields)

    async def _together(self, process: Process, args: wire.TogetherArgs) -> Answer:
        """umktls_together: the replies to all of them. Nothing is done if one cannot be among
        them, or does not decode."""
        requests = [datagrams.decode_request_untrusted(request) for request in args.requests]
        for place, request in enumerate(requests):
            if request.args is not None and is_bad_company(request.args, place):
                name = wire.SYSCALLS[request.number].name
                text = f"{name} cannot go together with other calls, or not behind them"
                raise CallerError(text)
        return await self._one_by_one(process, requests)

    async def _one_by_one(self, process: Process, requests: Iterable[datagrams.Request]) -> Answer:
        """The replies to several calls, which can be made together."""
        replies, descriptor, depending = [], None, Depending(process)
        try:
            for request in requests:
                if depending.forbids(request):
                    replies.append(self._failed(request, errno.ECANCELED))
                    continue
                answer, reply = await self._carry_out(process, request)
                depending.made(request, None if answer is NOTHING else answer)
                replies.append(reply)
                if answer.pass_descriptor is not None:
                    process.taken, descriptor = answer.result, answer.pass_descriptor
        finally:
            process.taken = None
        return Answer(replies, descriptor)


def is_told(request: datagrams.Request) -> bool:
    """Whether there is something to tell of a call. What a daemon tells a capture is in it."""
    if request.number in UNTOLD:
        return False
    args = request.args
    if not isinstance(args, wire.SetsockoptArgs) or args.level != rpctls.SOL_UMKTLS:
        return True
    return args.name != rpctls.UMKTLS_CAPTURED


def is_bad_company(args: Struct, place: int) -> bool:
    """Whether this call cannot be made with others, at this place among them."""
    return wire.goes_alone(args) or (place > 0 and wire.leads(args))


async def send_with_descriptor(sock: socket.socket, data: bytes, descriptor: int | None) -> None:
    """Send one datagram, with a descriptor beside it if there is one.

    The other end waits for it: what the system lacks now is waited for, a little. Raises `OSError`.
    """
    with Kept(descriptor) as kept:
        for _ in range(SEND_TRIES):
            try:
                await send_now(sock, data, kept)
                return
            except OSError as error:
                if error.errno not in PASSING:
                    raise
            kept.keep()
            await trio.sleep(SEND_PAUSE)
    raise OSError(errno.ENOBUFS, "the answer to a system call could not be sent")


async def send_now(sock: socket.socket, data: bytes, kept: Kept) -> None:
    while True:
        try:
            if kept.number is None:
                sock.send(data)
            else:
                socket.send_fds(sock, [data], [kept.number])
        except BlockingIOError:
            kept.keep()
            await trio.lowlevel.wait_writable(sock)
        else:
            return
