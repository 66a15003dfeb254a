"""A socket of the kernel that a daemon has taken."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from umktls.abi.leftover import Leftover
from umktls.abi.rpctls import (
    SOL_UMKTLS,
    UMKTLS_ADOPTED,
    UMKTLS_ALERT,
    UMKTLS_CONNECTION,
    UMKTLS_DEADLINE,
    UMKTLS_KEYS,
    UMKTLS_LEFTOVER,
    UMKTLS_PEERADDR,
    UMKTLS_PEERCERT,
    UMKTLS_PEERNAME,
    UMKTLS_RX_BOUNCE,
    UMKTLS_RX_FALLBACK,
    UMKTLS_SESSION,
    UMKTLS_TX_BOUNCE,
    UMKTLS_TX_FALLBACK,
    UMKTLS_XPRTSEC,
    UPCALL_TIMEOUT,
)
from umktls.errors import PeerError
from umktls.ktls.session import Direction, Session
from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.upcall.deposit import MAX_DEPOSIT, Deposit, KeyState
from umktls.upcall.rpctls import rpctls_session_arg
from umktls.upcall.syscalls import (
    CloseArgs,
    GetsockoptArgs,
    RecvmsgArgs,
    RecvmsgResult,
    SendmsgArgs,
    SetsockoptArgs,
    ShutdownArgs,
)
from umktls.userland.failures import Outcome, SystemCallError
from umktls.userland.kernelcalls import KernelCalls
from umktls.userland.ktls import Modes, Record, SetOption
from umktls.userland.questions import (
    OPTION_ROOM,
    WORD,
    About,
    captures,
    own_value,
    questions,
    text,
)
from umktls.userland.reports import Reports
from umktls.userland.streams import (
    Deadline,
    read_exact,
    read_record,
    records_ahead,
    skip,
    write_all,
)

__all__ = ["Socket"]

_session_name = xdr.codec(rpctls_session_arg)
_FALLBACK: Mapping[Direction, int] = {"tx": UMKTLS_TX_FALLBACK, "rx": UMKTLS_RX_FALLBACK}
_BOUNCE: Mapping[Direction, int] = {"tx": UMKTLS_TX_BOUNCE, "rx": UMKTLS_RX_BOUNCE}


class Socket:
    """A kernel socket that this process has taken.

    `number` is its descriptor in the kernel's table, the one in all system calls. `fd` is a real
    descriptor of the same connection, for reading and writing while the kernel leaves that alone,
    -1 once it was given up. `told` are the answers to `questions`, where they came along with it.
    """

    def __init__(
        self, kernel: KernelCalls, number: int, fd: int, told: Sequence[Outcome] | None = None
    ) -> None:
        self._kernel = kernel
        self.number = number
        self.fd = fd
        self._told = told
        self._plain: socket.socket | None = None
        self._peer_name: str | None = None
        wants = captures(told) if told else 0
        self.reports = Reports(wants, partial(_setsockopt, kernel, number))

    @property
    def rekeys(self) -> bool:
        """Whether the kernel takes a second key for a direction."""
        return self._kernel.ktls.rekeys

    # The connection itself, before kernel TLS.

    def read_exact(self, length: int, deadline: Deadline) -> bytes:
        """See `streams.read_exact`."""
        data = read_exact(self.fd, length, deadline)
        if self.reports.wants:
            self.reports.keep(data)
        return data

    def read_record(self, deadline: Deadline) -> bytes:
        """See `streams.read_record`."""
        record = read_record(self.fd, deadline)
        if self.reports.wants:
            self.reports.keep(record)
        return record

    def records_ahead(self, deadline: Deadline | None = None) -> bytes:
        """See `streams.records_ahead`."""
        return records_ahead(self._borrowed(), deadline) if self.fd >= 0 else b""

    def take_ahead(self, records: bytes) -> None:
        """Read these, with which `records_ahead` begins; see `streams.skip`."""
        skip(self._borrowed(), len(records))
        if self.reports.wants:
            self.reports.keep(records)

    def _borrowed(self) -> socket.socket:
        """The real descriptor as Python's socket, which does not own it."""
        if self._plain is None:
            # The family only keeps Python from looking for it; the address is what it is.
            self._plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=self.fd)
        return self._plain

    def write_all(self, data: bytes, deadline: Deadline) -> None:
        """See `streams.write_all`."""
        write_all(self.fd, data, deadline)
        if self.reports.wants:
            self.reports.sent(data)

    def peer_address(self) -> tuple[str, int] | None:
        """Address and port of the peer; None where the socket has none (not TCP, or not up).

        Where the descriptor is not the TCP socket itself, the kernel is asked (UMKTLS_PEERADDR).
        """
        if self.fd < 0:
            return None
        try:
            address = self._borrowed().getpeername()
        except OSError:
            return None
        if isinstance(address, tuple):
            return address[0], address[1]
        host, _, port = self._own_option(UMKTLS_PEERADDR).decode("ascii", "replace").partition(" ")
        return (host, int(port)) if port.isdecimal() else None

    def release(self) -> None:
        """Give up the real descriptor; the kernel's socket stays open."""
        self.reports.settle()
        if self._plain is not None:
            self._plain.detach()
            self._plain = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # System calls.

    def setsockopt(
        self, level: int, name: int, value: bytes, memory: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """setsockopt(2); `memory` is what pointers inside `value` point to: (address, bytes)."""
        _setsockopt(self._kernel, self.number, level, name, value, memory)

    def getsockopt(self, level: int, name: int, length: int = 256) -> bytes:
        """getsockopt(2)."""
        value, _ = self._kernel.call(GetsockoptArgs(self.number, level, name, length))
        return bytes(value)

    def sendmsg(self, data: bytes, control: bytes = b"", flags: int = 0) -> int:
        """sendmsg(2); `control` in the kernel's layout. Returns how many bytes went."""
        sent, _ = self._kernel.call(SendmsgArgs(self.number, data, control, flags))
        return int(sent)

    def recvmsg(self, length: int, controllen: int = 0, flags: int = 0) -> RecvmsgResult:
        """recvmsg(2)."""
        result, _ = self._kernel.call(RecvmsgArgs(self.number, length, controllen, flags))
        assert isinstance(result, RecvmsgResult)
        return result

    def shutdown(self, how: int = socket.SHUT_WR) -> None:
        """shutdown(2)."""
        self.reports.settle()
        self._kernel.call(ShutdownArgs(self.number, how))

    def shutdown_later(self, how: int = socket.SHUT_WR) -> None:
        """The same, along with the next system call, whatever comes of it; see `settle`."""
        self.reports.settle()
        self._kernel.later(ShutdownArgs(self.number, how), _forget)

    def settle(self, answer: Any = None) -> None:
        """Make the calls that this thread has put off; `answer` as in `Kernel.calls`. Raises
        `KernelGone`, and `SystemCallError` for those of which it is said."""
        self._kernel.settle(answer)

    def close(self) -> None:
        """close(2), of the kernel's descriptor and of the real one."""
        self.release()
        self._kernel.call(CloseArgs(self.number))

    def close_later(self) -> None:
        """The same, the kernel's descriptor along with the next system call."""
        self.release()
        self._kernel.later(CloseArgs(self.number), _forget)

    def together(
        self, calls: Sequence[SetsockoptArgs | GetsockoptArgs], answer: Any = None
    ) -> list[Outcome]:
        """Several calls in one go, whatever becomes of each; see `Kernel.calls`."""
        return self._kernel.calls(calls, answer)

    def may_answer(self) -> bool:
        """Whether this thread's upcall may be answered along with calls, and is not yet."""
        return self._kernel.may_answer()

    # What these calls are used for.

    def enable_tls(self, direction: Direction, session: Session) -> None:
        """Give the kernel the keys of one direction, by the options that it has for that.

        Raises `SystemCallError` where it does not take them.
        """
        self.reports.settle()
        self._kernel.ktls.enable(self, direction, session)

    def enable_all(self, sessions: Mapping[Direction, Session], answer: Any = None) -> Modes:
        """The same for several directions in one go, and what came of each: its `tls_mode`, or
        the error. All of them are tried. With `answer` the upcall is answered along with them where
        that can be, if all of them work, and then nothing is told of them; see `Kernel.calls`."""
        self.reports.settle()
        return self._kernel.ktls.enable_all(self, sessions, answer)

    def tls_mode(self, direction: Direction) -> int:
        """Who makes the records of one direction: a TCP_TLS_MODE_*, NONE (0) for nobody."""
        return self._kernel.ktls.mode(self, direction)

    def send_record(self, record_type: int, data: bytes) -> None:
        """Send one record of any type through the kernel, which must have the TX keys."""
        self._kernel.ktls.send_record(self, record_type, data)

    def send_record_later(self, record_type: int, data: bytes) -> None:
        """The same, along with the next system call, whatever comes of it: last words."""
        args = self._kernel.ktls.record_args(self.number, record_type, data)
        self._kernel.later(args, _forget)

    def post_record(self, record_type: int, data: bytes) -> None:
        """As `send_record`, along with the next system call; `settle` raises what it raises."""
        self._kernel.needed_later(self._kernel.ktls.record_args(self.number, record_type, data))

    def post_key(self, direction: Direction, session: Session) -> None:
        """As `enable_tls`, along with the next system call; `settle` raises what it raises."""
        for option in self._kernel.ktls.key_options(direction, session):
            self._kernel.needed_later(option.args(self.number), option.harmless)

    def receive_record(self) -> Record | None:
        """The record at the head of the receive queue; None if there is none to be had.

        Where the upcall has brought it, it is taken along with the next system call.

        Raises `PeerError` for a record without a type, `SystemCallError`.
        """
        record = self._kernel.record_told_of()
        if record is None:
            return self._kernel.ktls.receive_record(self)
        self._kernel.needed_later(self._kernel.ktls.taking(self.number), errno.EAGAIN)
        return record

    def give_back(self, sequence: int, records: bytes, data: bytes = b"") -> None:
        """UMKTLS_LEFTOVER: what a TLS library that reads ahead has, and the kernel should have.

        `records` are bytes that it has not opened, from the beginning of a record on, the first of
        which has that sequence number; `data` is what it has opened in front of them and nobody has
        read. Between `enable_tls` and the answer to the upcall.

        Raises `SystemCallError` EINVAL where the pieces do not fit together.
        """
        value = Leftover(sequence, data, records).pack()
        self.setsockopt(SOL_UMKTLS, UMKTLS_LEFTOVER, value)

    def peer_name(self) -> str:
        """UMKTLS_PEERNAME: the server's name as the user typed it, "" if the kernel has none."""
        if self._peer_name is None:
            self._peer_name = text(self._own_option(UMKTLS_PEERNAME))
        return self._peer_name

    def transport_security(self) -> str:
        """UMKTLS_XPRTSEC: "tls" or "mtls", "" if the kernel does not say."""
        return self._own_option(UMKTLS_XPRTSEC).decode("ascii", "replace")

    def connection_name(self) -> str:
        """UMKTLS_CONNECTION: what the trace calls the connection, "" if the kernel does not say."""
        return self._own_option(UMKTLS_CONNECTION).decode("ascii", "replace")

    def fallback(self, direction: Direction) -> str:
        """UMKTLS_TX_FALLBACK, UMKTLS_RX_FALLBACK: what to do with a direction that kernel TLS does
        not take: "refuse", "bounce" or "clear"; "refuse" if the kernel does not say."""
        return self._own_option(_FALLBACK[direction]).decode("ascii", "replace") or "refuse"

    def bounce(self, direction: Direction) -> socket.socket:
        """UMKTLS_TX_BOUNCE, UMKTLS_RX_BOUNCE: this process's end of the pair, non-blocking."""
        args = GetsockoptArgs(self.number, SOL_UMKTLS, _BOUNCE[direction], 0)
        _, descriptors = self._kernel.call(args)
        ends = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for extra in ends[1:]:
            extra.close()
        if not ends:
            raise PeerError("the kernel gave no socket to bounce over")
        ends[0].setblocking(False)
        return ends[0]

    def tell_certificate(self, certificate: PeerCertificate) -> None:
        """UMKTLS_PEERCERT: what the peer's verified certificate says, for rules about it."""
        self.setsockopt(SOL_UMKTLS, UMKTLS_PEERCERT, certificate.to_bytes())

    def tell_certificate_later(
        self, certificate: bytes, failed: Callable[[SystemCallError], None]
    ) -> None:
        """The same, as bytes, along with the next system call; see `KernelCalls.later`."""
        option = (SOL_UMKTLS, UMKTLS_PEERCERT, certificate, ())
        self._kernel.later(SetsockoptArgs(self.number, *option), failed)

    def deposit(self, session: Deposit) -> None:
        """UMKTLS_SESSION: leave with the kernel what a successor of this process needs.

        Raises `CallerError` for one that is too large, `SystemCallError`.
        """
        self.setsockopt(SOL_UMKTLS, UMKTLS_SESSION, session.to_bytes())

    def deposit_later(self, session: Deposit, failed: Callable[[SystemCallError], None]) -> None:
        """The same, along with the next system call; see `KernelCalls.later`."""
        value = session.to_bytes()
        self._kernel.later(
            SetsockoptArgs(self.number, SOL_UMKTLS, UMKTLS_SESSION, value, ()), failed
        )

    def take_back(self) -> None:
        """UMKTLS_SESSION: leave nothing with the kernel."""
        self.setsockopt(SOL_UMKTLS, UMKTLS_SESSION, b"")

    def deposited(self) -> Deposit:
        """What was left for an adopted session. Raises `XdrError`, `SystemCallError`."""
        value = self.getsockopt(SOL_UMKTLS, UMKTLS_SESSION, MAX_DEPOSIT)
        return Deposit.from_bytes_untrusted(value)

    def key_state(self) -> KeyState:
        """UMKTLS_KEYS: how far the session's keys are. Raises `XdrError`, `SystemCallError`."""
        return KeyState.from_bytes_untrusted(self.getsockopt(SOL_UMKTLS, UMKTLS_KEYS, 64))

    def adopted(self, name: rpctls_session_arg) -> None:
        """UMKTLS_ADOPTED: from now on upcalls about the session come here, by this name."""
        self.setsockopt(SOL_UMKTLS, UMKTLS_ADOPTED, b"".join(_session_name.encode(name)))

    def deadline(self, otherwise: float = UPCALL_TIMEOUT) -> Deadline:
        """UMKTLS_DEADLINE: until when the upcall must be answered."""
        return self._deadline(self._own_option(UMKTLS_DEADLINE), otherwise)

    def owed_alert(self) -> int:
        """UMKTLS_ALERT: the fatal alert to be said at DISCONNECT, 0 for none. Only where sending is
        bounced: otherwise the kernel has said it."""
        return int.from_bytes(self._own_option(UMKTLS_ALERT), "little")

    def about(self) -> About:
        """What a handshake begins with, in one go. To be asked at once: the first answer has come
        along with the socket."""
        answers, self._told = self._told or self.together(questions(self.number)), None
        security, connection, deadline, *name = map(own_value, answers)
        if name:
            self._peer_name = text(name[0])
        return About(
            security.decode("ascii", "replace"),
            connection.decode("ascii", "replace"),
            self._deadline(deadline, UPCALL_TIMEOUT),
        )

    def _deadline(self, value: bytes, otherwise: float) -> Deadline:
        known = len(value) >= WORD
        seconds = int.from_bytes(value[:WORD], "little") / 1000 if known else otherwise
        return Deadline.after(seconds, self._kernel.clock.now)

    def _own_option(self, name: int) -> bytes:
        args = GetsockoptArgs(self.number, SOL_UMKTLS, name, OPTION_ROOM)
        (outcome,) = self.together([args])
        return own_value(outcome)


def _setsockopt(
    kernel: KernelCalls,
    number: int,
    level: int,
    name: int,
    value: bytes,
    memory: Sequence[tuple[int, bytes]] = (),
) -> None:
    kernel.call(SetOption(level, name, value, memory).args(number))


def _forget(error: SystemCallError) -> None:
    """Of a call whose failure changes nothing any more."""
