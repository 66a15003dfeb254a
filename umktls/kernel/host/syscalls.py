"""The system calls that a daemon makes, over an AF_UNIX seqpacket socket.

One connection is one emulated process: it has a descriptor table of its own, which ends with it. A
datagram is a call, answered by one datagram; a descriptor for a socket travels beside the answer
(SCM_RIGHTS), so that the daemon can handshake on the real socket. Anything that is not a system
call ends the connection, with one line in the trace; the host lives.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import trio

from umktls.abi import rpctls
from umktls.abi.alerts import TlsAlert, alert_name
from umktls.errors import CallerError, PeerError, UmktlsError, UnsupportedError
from umktls.kernel.ground.turns import Turn
from umktls.kernel.host.accepting import taken_from_trio
from umktls.kernel.host.callnames import call_name, describe_call
from umktls.kernel.host.process import Process
from umktls.kernel.owners.upcalls import Request
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.facts import Failure, TlsFacts
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.handover import Handover
from umktls.kernel.upcalls.netlink import NetlinkHost, NetlinkSocket
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.kernel.upcalls.renewal import Renewals
from umktls.ktls.session import Direction
from umktls.private import allowed, peer_credentials
from umktls.upcall import datagrams
from umktls.upcall import syscalls as wire

__all__ = ["SyscallServer"]

T = TypeVar("T")

DATAGRAM_LIMIT = 128 * 1024
# sendmsg(2), unix(7): what the system may have again in a moment; so often and so long (seconds)
# it is asked.
PASSING = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
SEND_TRIES, SEND_PAUSE = 20, 0.1
# What a daemon may put into the trace by utrace: event -> fields that are kept.
UTRACE_EVENTS = {
    "handshake": (
        *("version", "suite", "alpn", "peer"),
        *("resumed", "verified", "client_certificate", "remark"),
    ),
    "handshake-failed": ("phase", "reason", "advice"),
    "ticket": ("lifetime", "bytes"),
    "ticket-dropped": ("lifetime", "bytes"),
    "key-update": ("direction", "generation", "requested"),
    "alert": ("level", "description", "reason"),
    "swallowed": ("type", "name", "bytes"),
    "warning": ("reason",),
    "reloaded": ("outcome",),
}
# Calls of which nothing is told: of one, what it does is; of the other, those that it holds.
UNTOLD = (rpctls.SYS_utrace, rpctls.SYS_umktls_together)
# The phases of failures: of one whose daemon names none, and of a fatal alert behind the handshake.
SOME_PHASE, ALERT_PHASE = "handshake", "alert"
# Alerts about what was said on one connection, by names and numbers: a byte that the network has
# spoilt is one. All others are about who the peers are, or what they can.
PASSING_ALERTS = frozenset(
    text
    for alert in (
        TlsAlert.UNEXPECTED_MESSAGE,
        TlsAlert.BAD_RECORD_MAC,
        TlsAlert.RECORD_OVERFLOW,
        TlsAlert.ILLEGAL_PARAMETER,
        TlsAlert.DECODE_ERROR,
        TlsAlert.DECRYPT_ERROR,
    )
    for text in (alert_name(alert), str(alert.value))
)


# Options whose value is a descriptor beside the answer.
BOUNCE_OPTIONS: Mapping[tuple[int, int], Direction] = {
    (rpctls.SOL_UMKTLS, rpctls.UMKTLS_TX_BOUNCE): "tx",
    (rpctls.SOL_UMKTLS, rpctls.UMKTLS_RX_BOUNCE): "rx",
}


@dataclass(slots=True)
class Answer:
    """A system call's result, and the real descriptor that goes with it.

    `give_away` is a socket that is the other process's from then on.
    """

    result: Any
    pass_descriptor: int | None = None
    give_away: socket.socket | None = None


class CalledHost(NetlinkHost, Protocol):
    """What the system calls need of the host."""

    sockets: dict[str, KernelSocket]
    handover: Handover
    renewals: Renewals

    def register_daemon(self, process: Process, name: str, path: bytes) -> None: ...

    def process_gone(self, process: Process) -> None: ...

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


class SyscallServer:
    """Answers the system calls of all daemons of one host."""

    def __init__(self, host: CalledHost) -> None:
        self._host = host
        self.processes: list[Process] = []
        self._calls: dict[int, Callable[[Process, Any], Any]] = {
            rpctls.SYS_rpctls_syscall: self._rpctls,
            rpctls.SYS_rpctls_syscall_15: self._take_cookie,
            rpctls.SYS_socket: self._socket,
            rpctls.SYS_close: self._close,
            rpctls.SYS_setsockopt: self._setsockopt,
            rpctls.SYS_getsockopt: self._getsockopt,
            rpctls.SYS_sendmsg: self._sendmsg,
            rpctls.SYS_recvmsg: self._recvmsg,
            rpctls.SYS_shutdown: self._shutdown,
            rpctls.SYS_utrace: self._utrace,
            rpctls.SYS_umktls_together: self._together,
            rpctls.SYS_umktls_adopt: self._adopt,
        }
        self._operations: dict[int, Callable[[Process, bytes], Answer]] = {
            rpctls.RPCTLS_SYSC_CLSETPATH: lambda p, path: self._set_path(p, "rpctlscd", path),
            rpctls.RPCTLS_SYSC_CLSOCKET: lambda p, _: self._take(p, "rpctlscd"),
            rpctls.RPCTLS_SYSC_CLSHUTDOWN: lambda p, _: self._unregister(p, "rpctlscd"),
            rpctls.RPCTLS_SYSC_SRVSETPATH: lambda p, path: self._set_path(p, "rpctlssd", path),
            rpctls.RPCTLS_SYSC_SRVSOCKET: lambda p, _: self._take(p, "rpctlssd"),
            rpctls.RPCTLS_SYSC_SRVSHUTDOWN: lambda p, _: self._unregister(p, "rpctlssd"),
            rpctls.RPCTLS_SYSC_SRVSTARTUP: lambda p, _: self._startup(p),
        }

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
                with contextlib.suppress(OSError):
                    await self._serve(process)
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
            try:
                datagram = process.sock.recv(DATAGRAM_LIMIT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(process.sock)
                turn.begin()
                continue
            if not datagram:
                return
            try:
                request = datagrams.decode_request_untrusted(datagram)
            except PeerError as error:
                self._garbage(f"process {process.pid}: {error}")
                return
            await self._answer(process, request)
            await turn.did(len(datagram))

    def _garbage(self, reason: str) -> None:
        self._host.trace.emit("garbage", None, where="the system-call socket", reason=reason)

    async def _answer(self, process: Process, request: datagrams.Request) -> None:
        answer, reply = await self._carry_out(process, request)
        with answer.give_away or contextlib.nullcontext() as given:
            descriptor = answer.pass_descriptor if given is None else given.fileno()
            await send_with_descriptor(process.sock, reply, descriptor)

    async def _carry_out(
        self, process: Process, request: datagrams.Request
    ) -> tuple[Answer, bytes]:
        """One call, and its reply."""
        answer, number, began, outcome = Answer(None), 0, time.monotonic(), "ok"
        try:
            if request.args is None:
                raise UnsupportedError(f"no system call {request.number}", errno.ENOSYS)
            called = self._calls[request.number](process, request.args)
            answer = called if isinstance(called, Answer) else await called
        except UmktlsError as error:
            number, outcome = self._host.personality.errno(error.errno), error.errno_name
        except OSError as error:  # the machine's own kernel has refused what the call needs
            refused = error.errno or errno.EIO
            number, outcome = self._host.personality.errno(refused), errno.errorcode[refused]
        if self._host.trace.close and request.number not in UNTOLD:
            self._tell(process, request, answer.result, outcome, began)
        return answer, datagrams.encode_reply(
            request.sequence, number, answer.result, request.number
        )

    def _tell(
        self, process: Process, request: datagrams.Request, result: Any, outcome: str, began: float
    ) -> None:
        """Of a call that was answered, for those who watch closely."""
        fd = getattr(request.args, "fd", -1)
        if fd < 0 and outcome == "ok" and isinstance(result, int):  # one that it has from now on
            fd = result if result in process.descriptors else -1
        sock = process.descriptors.get(fd)
        self._host.trace.step(
            "syscall",
            sock.name if sock is not None else None,
            name=call_name(request.number),
            what=describe_call(request.args),
            pid=process.pid,
            fd=fd,
            result=outcome,
            seconds=time.monotonic() - began,
        )

    async def _together(self, process: Process, args: wire.TogetherArgs) -> Answer:
        """umktls_together: the replies to all of them. Nothing is done if one cannot be among
        them, or does not decode."""
        requests = [datagrams.decode_request_untrusted(request) for request in args.requests]
        for place, request in enumerate(requests):
            check_company(request, place)
        replies, descriptor = [], None
        try:
            for request in requests:
                answer, reply = await self._carry_out(process, request)
                replies.append(reply)
                if answer.pass_descriptor is not None:
                    process.taken, descriptor = answer.result, answer.pass_descriptor
        finally:
            process.taken = None
        return Answer(replies, descriptor)

    # ---- rpctls_syscall

    def _rpctls(self, process: Process, args: wire.RpctlsSyscallArgs) -> Answer:
        if 1 not in self._host.personality.rpctls_versions:
            raise UnsupportedError("this kernel has rpctls_syscall_15", errno.ENOSYS)
        operation = self._operations.get(args.op)
        if operation is None:
            raise CallerError(f"rpctls_syscall has no operation {args.op}")
        return operation(process, bytes(args.path))

    def _set_path(self, process: Process, daemon: str, path: bytes) -> Answer:
        self._host.register_daemon(process, daemon, path)
        return Answer(0)

    def _unregister(self, process: Process, daemon: str) -> Answer:
        self._host.daemons[daemon].shut_down(process.pid)
        return Answer(0)

    def _startup(self, process: Process) -> Answer:
        self._host.daemons["rpctlssd"].several(process.pid)
        return Answer(0)

    def _take(self, process: Process, daemon: str) -> Answer:
        """CLSOCKET and SRVSOCKET: the pending socket becomes the daemon's; it owns the close."""
        offer = self._offer_of(process, daemon)
        if offer is None:
            raise CallerError(f"no socket waits for process {process.pid}", errno.EPERM)
        return self._hand_over(process, offer, server=daemon == "rpctlssd")

    def _take_cookie(self, process: Process, args: wire.SocketCookieArgs) -> Answer:
        """rpctls_syscall of FreeBSD 15: the same for the socket with that cookie."""
        if 2 not in self._host.personality.rpctls_versions:
            raise UnsupportedError("this kernel has rpctls_syscall", errno.ENOSYS)
        for daemon, daemons in self._host.daemons.items():
            for handle in daemons.of(process.pid):
                offer = handle.offered(args.socookie)
                if offer is not None:
                    return self._hand_over(process, offer, server=daemon == "rpctlssd")
        self._refuse_cookie(process, args.socookie)
        raise CallerError(f"no upcall is out for socket {args.socookie:#x}", errno.EPERM)

    def _refuse_cookie(self, process: Process, cookie: int) -> None:
        self._host.trace.emit("lookup-failed", None, pid=process.pid, cookie=f"{cookie:#x}")

    def _hand_over(self, process: Process, offer: Request[Any], *, server: bool) -> Answer:
        sock = self._host.sockets[offer.take()]
        try:
            number = process.install(sock)
        except CallerError as error:
            # The daemon cannot close what it did not get (FreeBSD 15 does the same).
            failed = {"phase": "setup", "reason": str(error), "advice": "look for what it leaks"}
            self._note(sock, "handshake-failed", failed)
            sock.close("the daemon has no descriptor left for it")
            raise
        self._host.trace.emit("socket-taken", sock.name, pid=process.pid, fd=number)
        return Answer(number, sock.detours.hand_over(server=server))

    def _socket(self, process: Process, args: wire.SocketArgs) -> Answer:
        """A netlink socket, the other end of which is the process's."""
        made, theirs = NetlinkSocket.create(
            self._host, process.pid, args.domain, args.type, args.protocol
        )
        try:
            number = process.install_netlink(made)
        except CallerError:
            theirs.close()
            made.close()
            raise
        self._host.spawn(made.run)
        return Answer(number, give_away=theirs)

    def _offer_of(self, process: Process, daemon: str) -> Request[Any] | None:
        """What is offered to this process by version 1, where it is not said which socket."""
        for handle in self._host.daemons[daemon].of(process.pid):
            if isinstance(handle, RegisteredDaemon):
                return handle.the_offer()
        return None

    def _adopt(self, process: Process, args: wire.AdoptArgs) -> Answer:
        sock = self._host.handover.adopt(process, args.program)
        return Answer(wire.AdoptResult(process.install(sock), sock.cookie))

    # ---- calls on a descriptor

    def _close(self, process: Process, args: wire.CloseArgs) -> Answer:
        netlink = process.netlink.pop(args.fd, None)
        if netlink is not None:
            netlink.close()
            return Answer(None)
        sock = process.descriptors.pop(args.fd, None)
        if sock is None:
            raise CallerError(f"process {process.pid} has no descriptor {args.fd}", errno.EBADF)
        self._host.handover.given_up(process, sock)
        return Answer(None)

    async def _setsockopt(self, process: Process, args: wire.SetsockoptArgs) -> Answer:
        memory = {segment.address: bytes(segment.data) for segment in args.memory}

        def copyin(address: int, length: int) -> bytes:
            data = memory.get(address)
            if data is None or len(data) < length:
                raise CallerError(f"bad address {address:#x}", errno.EFAULT)
            return data[:length]

        if args.fd in process.netlink:
            process.netlink[args.fd].setsockopt(args.level, args.name, bytes(args.value))
            return Answer(None)
        sock = process.descriptor(args.fd)
        if (args.level, args.name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_SESSION):
            sock.owner.keep_deposit(args.value, process.uid)
            return Answer(None)
        if (args.level, args.name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_ADOPTED):
            self._host.handover.adopted(process, sock, bytes(args.value))
            return Answer(None)
        async with sock.sealing():
            calls.setsockopt(sock, args.level, args.name, bytes(args.value), copyin)
        return Answer(None)

    def _getsockopt(self, process: Process, args: wire.GetsockoptArgs) -> Answer:
        sock = process.descriptor(args.fd)
        bounced = BOUNCE_OPTIONS.get((args.level, args.name))
        if bounced is not None:
            return Answer(b"", give_away=sock.detours.bounce(bounced))
        return Answer(calls.getsockopt(sock, args.level, args.name, args.length))

    async def _sendmsg(self, process: Process, args: wire.SendmsgArgs) -> Answer:
        sock = process.descriptor(args.fd, errno.EPIPE)
        return Answer(await calls.sendmsg(sock, bytes(args.data), bytes(args.control), args.flags))

    def _recvmsg(self, process: Process, args: wire.RecvmsgArgs) -> Answer:
        sock = process.descriptor(args.fd)
        return Answer(
            wire.RecvmsgResult(*calls.recvmsg(sock, args.length, args.controllen, args.flags))
        )

    def _shutdown(self, process: Process, args: wire.ShutdownArgs) -> Answer:
        process.descriptor(args.fd, errno.ENOTCONN).shutdown(args.how)
        return Answer(None)

    # ---- utrace

    def _utrace(self, process: Process, args: wire.UtraceArgs) -> Answer:
        """utrace(2): the daemon's own event goes into the trace of the connection it names."""
        event, sock, fields = self._utrace_event(process, bytes(args.data))
        self._note(sock, event, fields)
        return Answer(None)

    def _note(self, sock: KernelSocket | None, event: str, fields: dict[str, Any]) -> None:
        if sock is not None:
            note(sock, event, fields)
            if event == "key-update" and fields.get("direction") == "received":
                self._host.renewals.update_received(sock)
        self._host.trace.emit(event, sock.name if sock is not None else None, **fields)

    def _utrace_event(
        self, process: Process, data: bytes
    ) -> tuple[str, KernelSocket | None, dict[str, Any]]:
        try:
            record = json.loads(data)
            event = record["event"]
            kept = UTRACE_EVENTS[event]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CallerError("utrace: not an event that the kernel knows") from error
        fields = {key: plain(record[key]) for key in kept if key in record}
        if event == "handshake-failed":
            fields["phase"] = fields.get("phase") or SOME_PHASE
        elif event == "alert" and fields.get("level") == "fatal":
            fields["phase"] = ALERT_PHASE
        number = record.get("fd")
        return event, process.descriptors.get(number) if type(number) is int else None, fields


def check_company(request: datagrams.Request, place: int) -> None:
    """Raises `CallerError` for a call that cannot be made with others, at this place among them."""
    if request.args is None:
        return
    if wire.goes_alone(request.args) or (place > 0 and wire.leads(request.args)):
        name = wire.SYSCALLS[request.number].name
        raise CallerError(f"{name} cannot go together with other calls, or not behind them")


def plain(value: object) -> str | int | float | bool | None:
    """`value` if it is a plain one, its text otherwise."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def note(sock: KernelSocket, event: str, fields: dict[str, Any]) -> None:
    """Keep what concerns the connection itself: what was agreed, or why it failed."""
    if event == "handshake":
        text = {key: str(fields.get(key, "?")) for key in ("version", "suite", "alpn", "peer")}
        certificate = str(fields.get("client_certificate", "unknown"))
        sock.tls = TlsFacts(
            **text,
            resumed=bool(fields.get("resumed")),
            client_certificate=certificate,
            remark=str(fields.get("remark") or ""),
        )
    elif event == "handshake-failed":
        names = ("phase", "reason", "advice")
        phase, reason, advice = (str(fields.get(name, "")) for name in names)
        sock.fail(Failure(phase, reason, advice))
    elif event == "alert" and fields.get("level") == "fatal":
        reason = fields.get("reason") or fields.get("description") or "a fatal alert"
        sock.fail(
            Failure(ALERT_PHASE, str(reason), final=fields.get("description") not in PASSING_ALERTS)
        )


async def send_with_descriptor(sock: socket.socket, data: bytes, descriptor: int | None) -> None:
    """Send one datagram, with a descriptor beside it if there is one.

    The other end waits for it: what the system lacks now is waited for, a little. Raises `OSError`.
    """
    for _ in range(SEND_TRIES):
        try:
            await send_now(sock, data, descriptor)
            return
        except OSError as error:
            if error.errno not in PASSING:
                raise
        await trio.sleep(SEND_PAUSE)
    raise OSError(errno.ENOBUFS, "the answer to a system call could not be sent")


async def send_now(sock: socket.socket, data: bytes, descriptor: int | None) -> None:
    while True:
        try:
            if descriptor is None:
                sock.send(data)
            else:
                socket.send_fds(sock, [data], [descriptor])
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        else:
            return
