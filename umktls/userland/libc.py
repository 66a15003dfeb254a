"""The daemon's system calls as Python calls.

    kernel = Kernel(Path("/run/umktls/client-123"))
    kernel.rpctls_syscall(RPCTLS_SYSC_CLSETPATH, b"/run/umktls/client-123/rpctlscd.sock")
    ...
    sock = kernel.rpctls_syscall(RPCTLS_SYSC_CLSOCKET)  # in the CONNECT upcall
    record = sock.read_record(sock.deadline())          # the real socket, until the keys are set
    sock.enable_tls("tx", session)                      # from here on the kernel makes the records
    sock.release()

Every failed call raises `SystemCallError` with this machine's errno, whatever kernel is emulated.
All objects may be used by any number of threads.

A call is a datagram there and one back, and the kernel wakes up for it. Several that do not depend
on each other's results cost little more than one when they are made together (`Kernel.calls`), and
one of which only the failure would matter goes along with whatever comes next (`Kernel.later`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from umktls.abi import netlink
from umktls.abi.freebsd import from_freebsd
from umktls.abi.rpctls import (
    RPCTLS_SYSC_CLSOCKET,
    RPCTLS_SYSC_SRVSOCKET,
    SYS_rpctls_syscall_15,
    SYS_umktls_together,
)
from umktls.errors import UmktlsError, WorldError
from umktls.rpc.xdr import Struct, XdrError
from umktls.standstill import KernelClock
from umktls.upcall.datagrams import decode_result_untrusted
from umktls.upcall.syscalls import (
    MAX_TOGETHER,
    SYSCALLS,
    AdoptArgs,
    CloseArgs,
    RpctlsSyscallArgs,
    SocketArgs,
    SocketCookieArgs,
    number_of,
)
from umktls.userland.exchange import Answer, Exchange
from umktls.userland.failures import KernelGone, Outcome, SystemCallError, close_all
from umktls.userland.grouping import Group, in_groups
from umktls.userland.hostfacts import personality_of, versions_of
from umktls.userland.ktls import Record, interface_of
from umktls.userland.posted import Posted, Say
from umktls.userland.questions import questions_of_taken
from umktls.userland.sockets import Socket
from umktls.userland.utrace import utrace_args

__all__ = [
    "Kernel",
    "KernelGone",
    "Record",
    "Socket",
    "SystemCallError",
]

# How long a system call may take before the kernel counts as gone: none of them ever waits.
CALL_SECONDS = 10.0
_UCRED = struct.Struct("3i")

# The operations of rpctls_syscall that give a socket.
TAKING = (RPCTLS_SYSC_CLSOCKET, RPCTLS_SYSC_SRVSOCKET)


class Kernel:
    """A process's connection to the kernel of the host with run directory `rundir`.

    `ktls` is that kernel's interface to kernel TLS, `rpctls_versions` which versions of the upcall
    it has, the best first; its host.json tells both. `clock` is its clock, which can stand still.

    Raises `KernelGone` when no kernel is there, also later and from every call.
    """

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self._sequence = count(1)
        self._posted = Posted()
        personality = personality_of(rundir)
        self.rpctls_versions = versions_of(rundir)
        self.ktls = interface_of(personality)
        self._freebsd_errnos = personality.errno_map == "freebsd"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(CALL_SECONDS)
        path = rundir / "syscall.sock"
        try:
            sock.connect(str(path))
            _check_owner(sock, path)
        except OSError as error:
            sock.close()
            raise KernelGone(
                f"no host at {rundir}: {error.strerror}; `umktls stat` lists those that run"
            ) from error
        except WorldError:
            sock.close()
            raise
        self.clock = KernelClock(rundir)
        self._exchange = Exchange(sock, CALL_SECONDS, self.clock.now)

    def fileno(self) -> int:
        """The system-call socket, for poll(2): POLLHUP says that the kernel is gone.

        Poll for no events: what arrives belongs to the calls.
        """
        return self._exchange.fileno()

    def close(self) -> None:
        """The process's end, as the kernel sees it: all its descriptors are closed."""
        self._exchange.close()

    def rpctls_syscall(self, op: int, path: bytes = b"") -> Socket | None:
        """rpctls_syscall(2): the socket for the operations CLSOCKET and SRVSOCKET, else None.

        `SystemCallError` EMFILE where this process may have no more descriptors: the socket is
        closed then, and the kernel has been told why there will be no session.
        """
        args = RpctlsSyscallArgs(op, path)
        if op in TAKING:
            return self._taken(args, named=op == RPCTLS_SYSC_CLSOCKET)
        self.call(args)
        return None

    def take(self, socookie: int, *, named: bool = False) -> Socket:
        """rpctls_syscall(2) of FreeBSD 15: the socket with that cookie, which a CONNECT named.
        `named`: it is a client's, and the server's name is asked for along with it.

        `SystemCallError` EMFILE as above, EPERM when no upcall is out for it (any more).
        """
        return self._taken(SocketCookieArgs(socookie), named=named)

    def _taken(self, args: Struct, *, named: bool) -> Socket:
        """Take a socket, and ask in the same go what a handshake begins with."""
        calls = [args, *questions_of_taken(named=named)]
        brought, self._posted.brought = self._posted.brought, None
        taken, *told = self._outcomes(calls, *brought) if brought else self.calls(calls)
        number, descriptor = self._of_descriptor(args, taken, self._tell_of_no_descriptor)
        os.set_blocking(descriptor, False)
        return Socket(self, number, descriptor, told)

    def _tell_of_no_descriptor(self, number: int) -> str:
        """The trace and the mount's error get the reason, whatever the daemon does about it.
        Returns what the error is to have for the log: which connection it is."""
        reason = f"process {os.getpid()} may open no more descriptors, so it cannot have the socket"
        advice = "raise the daemon's limit on open files, or find out what keeps so many open"
        self.utrace(
            {
                "event": "handshake-failed",
                "fd": number,
                "phase": "setup",
                "reason": reason,
                "advice": advice,
            }
        )
        return f"{reason}; {advice} [connection {Socket(self, number, -1).connection_name()}]"

    def netlink_socket(self) -> tuple[int, socket.socket]:
        """socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC): its descriptor in the kernel's table,
        for setsockopt and close, and the socket itself, for messages.
        """
        args = SocketArgs(netlink.AF_NETLINK, netlink.SOCK_RAW, netlink.NETLINK_GENERIC)
        number, descriptor = self._with_descriptor(args)
        return number, socket.socket(fileno=descriptor)

    def _with_descriptor(self, args: Struct) -> tuple[int, int]:
        """A call that gives a descriptor: the kernel's number of it, and the real one."""
        (outcome,) = self.calls([args])
        return self._of_descriptor(args, outcome)

    def _of_descriptor(
        self, args: Struct, outcome: Outcome, missing: Callable[[int], str] = lambda number: ""
    ) -> tuple[int, int]:
        """What has come of such a call.

        `missing`: called where it came without one, before it is closed; what the error is to say.
        """
        number, descriptors = outcome.get(), outcome.descriptors
        if not descriptors:
            why = missing(number)
            self.call(CloseArgs(number))
            raise SystemCallError(SYSCALLS[number_of(args)].name, errno.EMFILE, why)
        for extra in descriptors[1:]:
            os.close(extra)
        return number, descriptors[0]

    def adopt(self, program: int) -> tuple[Socket, int] | None:
        """umktls_adopt: a session that its daemon has left behind, with the socket's cookie; None
        when there is none.

        `program` is RPCTLSCD or RPCTLSSD: whose daemon this process has registered as. The socket
        has no real descriptor; what the other daemon has deposited is `Socket.deposited`.
        """
        try:
            result, _ = self.call(AdoptArgs(program))
        except SystemCallError as error:
            if error.errno in (errno.EAGAIN, errno.ENOSYS):
                return None
            raise
        return Socket(self, result.fd, -1), result.socookie

    def utrace(self, event: Mapping[str, Any]) -> None:
        """utrace(2): put `event` into the host's trace. Long texts are cut to fit."""
        self.call(utrace_args(event))

    def utrace_later(
        self, event: Mapping[str, Any], failed: Callable[[SystemCallError], None]
    ) -> None:
        """The same, along with the next system call; see `later`."""
        self.later(utrace_args(event), failed)

    def call(self, args: Struct) -> tuple[Any, list[int]]:
        """Make the system call with these arguments; its result, and descriptors that came along.

        Raises `SystemCallError` with what the kernel answered.
        """
        (outcome,) = self.calls([args])
        return outcome.get(), outcome.descriptors

    def calls(self, batch: Sequence[Struct], answer: Any = None) -> list[Outcome]:
        """Make several system calls, in this order, with one trip to the kernel for all.

        None of them is left out because another one failed. With `answer` the upcall that this
        thread works on is answered along with them, as by a handler that returns this, where that
        can be, and unless keys among them do not work (see `has_answered`).

        Raises `KernelGone`, `XdrError`.
        """
        posted, self._posted.calls = self._posted.calls, []
        wanted = [args for args, _ in posted] + list(batch)
        outcomes = []
        if group := self._posted.with_answer(wanted, answer):
            *outcomes, said = self._trip([group])
            self._posted.answered = said.error is None
        else:
            for start in range(0, len(wanted), MAX_TOGETHER):
                outcomes += self._trip(in_groups(wanted[start : start + MAX_TOGETHER]))
        for (_, failed), outcome in zip(posted, outcomes, strict=False):
            if outcome.error is not None:
                failed(outcome.error)
        return outcomes[len(posted) :]

    def later(self, args: Struct, failed: Callable[[SystemCallError], None]) -> None:
        """Make this call, without a result, along with this thread's next one, in front of it.
        `failed` is told if the kernel did not do it."""
        self._posted.calls.append((args, failed))

    def needed_later(self, args: Struct, harmless: int | None = None) -> None:
        """The same, and `settle` raises what it failed with, unless that is the errno `harmless`.

        A key for sending is not set (ECANCELED) where a sendmsg of the same trip has failed: so a
        KeyUpdate and the key that follows it can be one.
        """

        def failed(error: SystemCallError) -> None:
            if error.errno != harmless:
                self._posted.fail(error)

        self.later(args, failed)

    def has_calls_to_make(self) -> bool:
        """Whether this thread has put off calls."""
        return bool(self._posted.calls)

    def settle(self, answer: Any = None) -> None:
        """Make the calls that this thread has put off; `answer` as in `calls`. Raises `KernelGone`,
        and the first failure of those that are `needed_later` since the last time."""
        if self._posted.calls:
            self.calls([], answer)
        error, self._posted.error = self._posted.error, None
        if error is not None:
            raise error

    def answers_by(self, say: Say) -> None:
        """This thread works on an upcall that may be answered by the call that `say` makes."""
        self._posted.say, self._posted.answered = say, False

    def may_answer(self) -> bool:
        """Whether it can be, and is not answered yet."""
        return self._posted.say is not None and not self._posted.answered

    def has_answered(self) -> bool:
        """Whether that upcall is answered already. It is over, as far as `calls` goes."""
        answered, self._posted.answered = self._posted.answered, False
        self._posted.say = None
        return answered

    @contextlib.contextmanager
    def told_of(self, record: memoryview | None) -> Iterator[None]:
        """Inside the block this thread works on an upcall that has brought a record, its type in
        front, which `Socket.receive_record` does not have to ask for. Behind it the record was
        taken, if somebody wanted it."""
        if not record:
            yield
            return
        self._posted.record = Record(record[0], bytes(record[1:]))
        try:
            yield
        finally:
            self._posted.record = None
            with contextlib.suppress(UmktlsError):
                self.settle()

    @contextlib.contextmanager
    def brought(self, replies: memoryview | None, descriptors: list[int]) -> Iterator[None]:
        """Inside the block this thread works on an upcall that has brought its socket: the reply to
        what `take` calls first, and the descriptor, which is taken out of the list."""
        if not replies:
            yield
            return
        self._posted.brought = bytes(replies), list(descriptors)
        descriptors.clear()
        try:
            yield
        finally:
            left, self._posted.brought = self._posted.brought, None
            if left is not None:
                self._give_up(left)

    def _give_up(self, brought: Answer) -> None:
        """Nobody wants the socket that has come."""
        data, descriptors = brought
        close_all(descriptors)
        with contextlib.suppress(UmktlsError):
            _, replies = decode_result_untrusted(data, SYS_umktls_together)
            _, number = decode_result_untrusted(replies[0], SYS_rpctls_syscall_15)
            self.call(CloseArgs(number))

    def record_told_of(self) -> Record | None:
        """That record, once."""
        record, self._posted.record = self._posted.record, None
        return record

    def _trip(self, made: Iterable[Group]) -> list[Outcome]:
        """What becomes of calls with one datagram for each group."""
        groups = {next(self._sequence) & 0xFFFFFFFF: group for group in made}
        requests = {sequence: group.datagram(sequence) for sequence, group in groups.items()}
        answers = self._exchange.trip(requests)
        outcomes: list[Outcome] = []
        try:
            for sequence, group in groups.items():
                outcomes += self._outcomes(group.calls, *answers[sequence])
        except XdrError:
            for _, descriptors in answers.values():
                close_all(descriptors)
            raise
        return outcomes

    def _outcomes(
        self, group: Sequence[Struct], data: bytes, descriptors: list[int]
    ) -> list[Outcome]:
        """What became of the calls that one datagram made."""
        if len(group) == 1:
            return [self._outcome(group[0], data, descriptors)]
        error, replies = decode_result_untrusted(data, SYS_umktls_together)
        if error or len(replies) != len(group):
            close_all(descriptors)
            raise KernelGone("the kernel does not take system calls that are made together")
        # A descriptor is the first call's.
        return [
            self._outcome(args, reply, [] if place else descriptors)
            for place, (args, reply) in enumerate(zip(group, replies, strict=True))
        ]

    def _outcome(self, args: Struct, data: bytes, descriptors: list[int]) -> Outcome:
        number = number_of(args)
        error, result = decode_result_untrusted(data, number)
        if not error:
            return Outcome(result, descriptors)
        close_all(descriptors)
        return Outcome(None, [], SystemCallError(SYSCALLS[number].name, self._host_errno(error)))

    def _host_errno(self, number: int) -> int:
        return from_freebsd(number) if self._freebsd_errnos else number


def _check_owner(sock: socket.socket, path: Path) -> None:
    """The kernel must be ours or root's: it is going to be given keys."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid = _UCRED.unpack(credentials)[1]
    if uid not in (0, os.geteuid()):
        raise KernelGone(f"{path} belongs to user {uid}, not to this one")
