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
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from umktls.abi.freebsd import (
    IPPROTO_TCP,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    TCP_RXTLS_ENABLE,
    TCP_RXTLS_MODE,
    TCP_TXTLS_ENABLE,
    TCP_TXTLS_MODE,
    TLS_GET_RECORD,
    TLS_SET_RECORD_TYPE,
    TlsEnable,
    TlsEnableRequest,
    TlsGetRecord,
    cmsg_space,
    from_freebsd,
    pack_control,
    parse_control_untrusted,
)
from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES
from umktls.abi.rpctls import (
    RPCTLS_SYSC_CLSOCKET,
    RPCTLS_SYSC_SRVSOCKET,
    SOL_UMKTLS,
    UMKTLS_CONNECTION,
    UMKTLS_DEADLINE,
    UMKTLS_PEERADDR,
    UMKTLS_PEERCERT,
    UMKTLS_PEERNAME,
    UMKTLS_RX_BOUNCE,
    UMKTLS_RX_FALLBACK,
    UMKTLS_TX_BOUNCE,
    UMKTLS_TX_FALLBACK,
    UMKTLS_XPRTSEC,
    UPCALL_TIMEOUT,
)
from umktls.errors import PeerError, UmktlsError, WorldError
from umktls.ktls.session import Direction, Session
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.xdr import Struct, XdrError
from umktls.upcall.syscalls import (
    MAX_MESSAGE,
    MAX_UTRACE,
    SYSCALLS,
    CloseArgs,
    GetsockoptArgs,
    RecvmsgArgs,
    RecvmsgResult,
    RpctlsSyscallArgs,
    Segment,
    SendmsgArgs,
    SetsockoptArgs,
    ShutdownArgs,
    UtraceArgs,
    decode_reply_untrusted,
    encode_request,
    number_of,
)
from umktls.userland.streams import Deadline, read_exact, read_record, write_all

__all__ = ["Kernel", "KernelGone", "Record", "Socket", "SystemCallError"]

# How long a system call may take before the kernel counts as gone: none of them ever waits.
CALL_SECONDS = 10.0
# A TLS record's payload, and the room a record of any type may need.
MAX_PAYLOAD = 16384
_UCRED = struct.Struct("3i")

# The operations of rpctls_syscall that give a socket.
TAKING = (RPCTLS_SYSC_CLSOCKET, RPCTLS_SYSC_SRVSOCKET)
_ENABLE: Mapping[Direction, int] = {"tx": TCP_TXTLS_ENABLE, "rx": TCP_RXTLS_ENABLE}
_MODE: Mapping[Direction, int] = {"tx": TCP_TXTLS_MODE, "rx": TCP_RXTLS_MODE}
_FALLBACK: Mapping[Direction, int] = {"tx": UMKTLS_TX_FALLBACK, "rx": UMKTLS_RX_FALLBACK}
_BOUNCE: Mapping[Direction, int] = {"tx": UMKTLS_TX_BOUNCE, "rx": UMKTLS_RX_BOUNCE}


class SystemCallError(UmktlsError):
    """A system call failed; `name` is the call's."""

    def __init__(self, name: str, errno: int) -> None:
        super().__init__(f"{name}: {os.strerror(errno)}", errno)
        self.name = name


class KernelGone(WorldError):
    """ECONNREFUSED: there is no kernel at the other end of the system-call socket any more."""

    default_errno = errno.ECONNREFUSED


class Record(NamedTuple):
    """A TLS record's content with its type: 21 alert, 22 handshake, 23 application data."""

    type: int
    data: bytes


class Kernel:
    """A process's connection to the kernel of the host with run directory `rundir`.

    Raises `KernelGone` when no kernel is there, also later and from every call.
    """

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self._lock = threading.Lock()
        self._sequence = count(1)
        self._freebsd_errnos = _errno_map(rundir) == "freebsd"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(CALL_SECONDS)
        path = rundir / "syscall.sock"
        try:
            self._sock.connect(str(path))
            _check_owner(self._sock, path)
        except OSError as error:
            self._sock.close()
            raise KernelGone(
                f"no host at {rundir}: {error.strerror}; `umktls stat` lists those that run"
            ) from error
        except WorldError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """The system-call socket, for poll(2): POLLHUP says that the kernel is gone.

        Poll for no events: what arrives belongs to the calls.
        """
        return self._sock.fileno()

    def close(self) -> None:
        """The process's end, as the kernel sees it: all its descriptors are closed."""
        with self._lock:
            self._sock.close()

    def rpctls_syscall(self, op: int, path: bytes = b"") -> Socket | None:
        """rpctls_syscall(2): the socket for the operations CLSOCKET and SRVSOCKET, else None.

        `SystemCallError` EMFILE, and the socket is closed, where this process may have no more
        descriptors.
        """
        number, descriptors = self.call(RpctlsSyscallArgs(op, path))
        if op not in TAKING:
            return None
        if not descriptors:
            self.call(CloseArgs(number))
            raise SystemCallError("rpctls_syscall", errno.EMFILE)
        for extra in descriptors[1:]:
            os.close(extra)
        os.set_blocking(descriptors[0], False)
        return Socket(self, number, descriptors[0])

    def utrace(self, event: Mapping[str, Any]) -> None:
        """utrace(2): put `event` into the host's trace. Long texts are cut to fit."""
        data = json.dumps(event).encode()
        limit = MAX_UTRACE // 4
        while len(data) > MAX_UTRACE:
            data = json.dumps({key: _cut(value, limit) for key, value in event.items()}).encode()
            limit //= 2
        self.call(UtraceArgs(data))

    def call(self, args: Struct) -> tuple[Any, list[int]]:
        """Make the system call with these arguments; its result, and descriptors that came along.

        Raises `SystemCallError` with what the kernel answered.
        """
        sequence = next(self._sequence) & 0xFFFFFFFF
        number, request = number_of(args), encode_request(sequence, args)
        with self._lock:
            try:
                self._sock.send(request)
                data, descriptors = self._receive(sequence)
            except OSError as error:
                raise KernelGone(f"the kernel does not answer: {error}") from error
        try:
            reply = decode_reply_untrusted(data, number)
        except XdrError:
            _close_all(descriptors)
            raise
        if reply.errno:
            _close_all(descriptors)
            raise SystemCallError(SYSCALLS[number].name, self._host_errno(reply.errno))
        return reply.result, descriptors

    def _receive(self, sequence: int) -> tuple[bytes, list[int]]:
        """The reply to `sequence`. Answers to calls that were given up are dropped."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, 4)
            if not data:
                raise KernelGone("the kernel has closed the system-call socket")
            if int.from_bytes(data[:4], "big") == sequence:
                return data, list(descriptors)
            _close_all(descriptors)

    def _host_errno(self, number: int) -> int:
        return from_freebsd(number) if self._freebsd_errnos else number


class Socket:
    """A kernel socket that this process has taken.

    `number` is its descriptor in the kernel's table, the one in all system calls. `fd` is a real
    descriptor of the same connection, for reading and writing while the kernel leaves that alone,
    -1 once it was given up.
    """

    def __init__(self, kernel: Kernel, number: int, fd: int) -> None:
        self._kernel = kernel
        self.number = number
        self.fd = fd

    # The connection itself, before kernel TLS.

    def read_exact(self, length: int, deadline: Deadline) -> bytes:
        """See `streams.read_exact`."""
        return read_exact(self.fd, length, deadline)

    def read_record(self, deadline: Deadline) -> bytes:
        """See `streams.read_record`."""
        return read_record(self.fd, deadline)

    def write_all(self, data: bytes, deadline: Deadline) -> None:
        """See `streams.write_all`."""
        write_all(self.fd, data, deadline)

    def peer_address(self) -> tuple[str, int] | None:
        """Address and port of the peer; None where the socket has none (not TCP, or not up).

        Where the descriptor is not the TCP socket itself, the kernel is asked (UMKTLS_PEERADDR).
        """
        try:
            with socket.socket(fileno=os.dup(self.fd)) as duplicate:
                address = duplicate.getpeername()
        except OSError:
            return None
        if isinstance(address, tuple):
            return address[0], address[1]
        host, _, port = self._own_option(UMKTLS_PEERADDR).decode("ascii", "replace").partition(" ")
        return (host, int(port)) if port.isdecimal() else None

    def release(self) -> None:
        """Give up the real descriptor; the kernel's socket stays open."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # System calls.

    def setsockopt(
        self, level: int, name: int, value: bytes, memory: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """setsockopt(2); `memory` is what pointers inside `value` point to: (address, bytes)."""
        segments = tuple(Segment(address, data) for address, data in memory)
        self._kernel.call(SetsockoptArgs(self.number, level, name, value, segments))

    def getsockopt(self, level: int, name: int, length: int = 256) -> bytes:
        """getsockopt(2)."""
        value, _ = self._kernel.call(GetsockoptArgs(self.number, level, name, length))
        return bytes(value)

    def sendmsg(self, data: bytes, control: bytes = b"", flags: int = 0) -> int:
        """sendmsg(2); `control` in FreeBSD's layout. Returns how many bytes went."""
        sent, _ = self._kernel.call(SendmsgArgs(self.number, data, control, flags))
        return int(sent)

    def recvmsg(self, length: int, controllen: int = 0, flags: int = 0) -> RecvmsgResult:
        """recvmsg(2)."""
        result, _ = self._kernel.call(RecvmsgArgs(self.number, length, controllen, flags))
        assert isinstance(result, RecvmsgResult)
        return result

    def shutdown(self, how: int = socket.SHUT_WR) -> None:
        """shutdown(2)."""
        self._kernel.call(ShutdownArgs(self.number, how))

    def close(self) -> None:
        """close(2), of the kernel's descriptor and of the real one."""
        self.release()
        self._kernel.call(CloseArgs(self.number))

    # What these calls are used for.

    def enable_tls(self, direction: Direction, session: Session) -> None:
        """Give the kernel the keys of one direction (TCP_TXTLS_ENABLE, TCP_RXTLS_ENABLE)."""
        template = TlsEnable(
            cipher_key=0,
            iv=0,
            auth_key=0,
            cipher_algorithm=session.suite.algorithm,
            cipher_key_len=0,
            iv_len=0,
            auth_algorithm=0,
            auth_key_len=0,
            flags=0,
            tls_vmajor=session.version >> 8,
            tls_vminor=session.version & 0xFF,
            rec_seq=session.sequence,
        )
        request = TlsEnableRequest.build(template, session.key, session.iv)
        self.setsockopt(IPPROTO_TCP, _ENABLE[direction], request.value, request.memory)

    def tls_mode(self, direction: Direction) -> int:
        """Who makes the records of one direction: a TCP_TLS_MODE_*, NONE (0) for nobody."""
        return int.from_bytes(self.getsockopt(IPPROTO_TCP, _MODE[direction], 4), "little")

    def send_record(self, record_type: int, data: bytes) -> None:
        """Send one record of any type through the kernel, which must have the TX keys."""
        control = pack_control(IPPROTO_TCP, TLS_SET_RECORD_TYPE, bytes((record_type,)))
        self.sendmsg(data, control, MSG_DONTWAIT)

    def receive_record(self) -> Record | None:
        """The record at the head of the receive queue; None if there is none to be had.

        Raises `PeerError` for a record without a type, `SystemCallError`.
        """
        room = cmsg_space(TlsGetRecord.SIZE)
        try:
            result = self.recvmsg(MAX_PAYLOAD, room, MSG_DONTWAIT)
        except SystemCallError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        if not result.control and not result.data:
            return None
        for message in parse_control_untrusted(result.control):
            if (message.level, message.type) == (IPPROTO_TCP, TLS_GET_RECORD):
                return Record(TlsGetRecord.unpack_untrusted(message.data).tls_type, result.data)
        cut = " (MSG_CTRUNC)" if result.flags & MSG_CTRUNC else ""
        raise PeerError(f"recvmsg gave {len(result.data)} bytes without a TLS_GET_RECORD{cut}")

    def peer_name(self) -> str:
        """UMKTLS_PEERNAME: the server's name as the user typed it, "" if the kernel has none."""
        return self._own_option(UMKTLS_PEERNAME).decode("utf-8", "surrogateescape")

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

    def deadline(self, otherwise: float = UPCALL_TIMEOUT) -> Deadline:
        """UMKTLS_DEADLINE: until when the upcall must be answered."""
        value = self._own_option(UMKTLS_DEADLINE)
        if len(value) != 4:
            return Deadline.after(otherwise)
        return Deadline.after(int.from_bytes(value, "little") / 1000)

    def _own_option(self, name: int) -> bytes:
        try:
            return self.getsockopt(SOL_UMKTLS, name, 1024)
        except SystemCallError as error:
            if error.errno in (errno.ENOPROTOOPT, errno.EINVAL):
                return b""
            raise


def _errno_map(rundir: Path) -> str:
    """Whose errno numbers the host's kernel returns, as host.json tells by its personality."""
    try:
        name = json.loads((rundir / "host.json").read_text())["personality"]
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_PERSONALITY.errno_map
    return PERSONALITIES.get(name, DEFAULT_PERSONALITY).errno_map


def _check_owner(sock: socket.socket, path: Path) -> None:
    """The kernel must be ours or root's: it is going to be given keys."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid = _UCRED.unpack(credentials)[1]
    if uid not in (0, os.geteuid()):
        raise KernelGone(f"{path} belongs to user {uid}, not to this one")


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _cut(value: Any, limit: int) -> Any:
    return value[:limit] + "..." if isinstance(value, str) and len(value) > limit else value
