"""What each system call does, one method for each. The calls come from syscalls.py."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from umktls.abi import rpctls
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.captures.capture import Capture
from umktls.kernel.host import utrace
from umktls.kernel.host.process import Process
from umktls.kernel.owners.request import Request
from umktls.kernel.sockets import calls
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.handover import Handover
from umktls.kernel.upcalls.linuxnetlink import HandshakeHost, netlink_socket
from umktls.kernel.upcalls.registered import RegisteredDaemon
from umktls.kernel.upcalls.renewal import Renewals
from umktls.ktls.session import Direction
from umktls.upcall import syscalls as wire
from umktls.upcall.datagrams import Request as WireRequest

__all__ = ["Answer", "CalledHost", "Handler", "Handlers"]

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


# Of a call that has no result.
DONE = Answer(None)

# Arguments are those of `umktls.upcall.syscalls` for its number.
Handler = Callable[[Process, Any], Answer | Awaitable[Answer]]
# Several calls, whose replies are the result.
OneByOne = Callable[[Process, Sequence[WireRequest]], Awaitable[Answer]]


class CalledHost(HandshakeHost, Protocol):
    """What the system calls need of the host."""

    handover: Handover
    renewals: Renewals
    capture: Capture | None

    def register_daemon(self, process: Process, name: str, path: bytes) -> None: ...

    def process_gone(self, process: Process) -> None: ...

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None: ...


class Handlers:
    """The system calls of one host's daemons. `table` has them by number; `together` is one that
    makes several, `one_by_one` makes those that were taken apart before.

    Each gets the process and its arguments, and raises `UmktlsError` for what a kernel would refuse
    with an errno.
    """

    def __init__(self, host: CalledHost, together: Handler, one_by_one: OneByOne) -> None:
        self._host = host
        self._one_by_one = one_by_one
        self.table: dict[int, Handler] = {
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
            rpctls.SYS_umktls_adopt: self._adopt,
            rpctls.SYS_umktls_together: together,
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
            utrace.take_note(self._host, sock, "handshake-failed", failed)
            sock.close("the daemon has no descriptor left for it")
            raise
        self._host.trace.emit("socket-taken", sock.name, pid=process.pid, fd=number)
        return Answer(number, sock.detours.hand_over(server=server))

    def _socket(self, process: Process, args: wire.SocketArgs) -> Answer:
        """A netlink socket, the other end of which is the process's."""
        made, theirs = netlink_socket(self._host, process, args.domain, args.type, args.protocol)
        try:
            number = process.install_netlink(made)
        except CallerError:
            theirs.close()
            made.close()
            raise
        made.first_calls.together = partial(self._one_by_one, process)
        made.first_calls.forget = process.forget
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
            return DONE
        sock = process.descriptors.pop(args.fd, None)
        if sock is None:
            raise CallerError(f"process {process.pid} has no descriptor {args.fd}", errno.EBADF)
        self._host.handover.given_up(process, sock)
        return DONE

    def _setsockopt(
        self, process: Process, args: wire.SetsockoptArgs
    ) -> Answer | Awaitable[Answer]:
        memory = {segment.address: bytes(segment.data) for segment in args.memory}

        def copyin(address: int, length: int) -> bytes:
            data = memory.get(address)
            if data is None or len(data) < length:
                raise CallerError(f"bad address {address:#x}", errno.EFAULT)
            return data[:length]

        if args.fd in process.netlink:
            process.netlink[args.fd].setsockopt(args.level, args.name, bytes(args.value))
            return DONE
        sock = process.descriptor(args.fd)
        if (args.level, args.name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_SESSION):
            sock.owner.keep_deposit(args.value, process.uid)
            return DONE
        if (args.level, args.name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_ADOPTED):
            self._host.handover.adopted(process, sock, bytes(args.value))
            return DONE

        def set_option() -> Answer:
            calls.setsockopt(sock, args.level, args.name, bytes(args.value), copyin)
            return DONE

        return set_option() if sock.card is None else done_alone(sock, set_option)

    def _getsockopt(self, process: Process, args: wire.GetsockoptArgs) -> Answer:
        sock = process.descriptor(args.fd)
        bounced = BOUNCE_OPTIONS.get((args.level, args.name))
        if bounced is not None:
            return Answer(b"", give_away=sock.detours.bounce(bounced))
        return Answer(calls.getsockopt(sock, args.level, args.name, args.length))

    async def _sendmsg(self, process: Process, args: wire.SendmsgArgs) -> Answer:
        if args.fd in process.netlink:
            await process.netlink[args.fd].said(bytes(args.data))
            return Answer(len(args.data))
        sock = process.descriptor(args.fd, errno.EPIPE)
        return Answer(await calls.sendmsg(sock, bytes(args.data), bytes(args.control), args.flags))

    def _recvmsg(self, process: Process, args: wire.RecvmsgArgs) -> Answer:
        sock = process.descriptor(args.fd)
        return Answer(
            wire.RecvmsgResult(*calls.recvmsg(sock, args.length, args.controllen, args.flags))
        )

    def _shutdown(self, process: Process, args: wire.ShutdownArgs) -> Answer:
        process.descriptor(args.fd, errno.ENOTCONN).shutdown(args.how)
        return DONE

    def _utrace(self, process: Process, args: wire.UtraceArgs) -> Answer:
        """utrace(2): the daemon's own event goes into the trace of the connection it names."""
        event, fd, fields = utrace.decode_untrusted(bytes(args.data))
        sock = process.descriptors.get(fd) if fd is not None else None
        utrace.take_note(self._host, sock, event, fields)
        return DONE


async def done_alone(sock: KernelSocket, work: Callable[[], Answer]) -> Answer:
    """What comes of `work` where nobody else seals meanwhile."""
    async with sock.sealing():
        return work()
