"""The daemon's system calls: what there is, and their arguments and results in XDR.

Names and argument order are those of the man pages in section 2 of FreeBSD's manual, numbers those
of its syscalls.master. How a call and its answer travel is in datagrams.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from umktls.abi.rpctls import (
    SOL_UMKTLS,
    UMKTLS_RX_BOUNCE,
    UMKTLS_TX_BOUNCE,
    SYS_close,
    SYS_getsockopt,
    SYS_recvmsg,
    SYS_rpctls_syscall,
    SYS_rpctls_syscall_15,
    SYS_sendmsg,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_socket,
    SYS_umktls_adopt,
    SYS_umktls_together,
    SYS_utrace,
)
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.xdr import Codec, Int, Struct, Uhyper, Uint

__all__ = [
    "MAX_CONTROL",
    "MAX_DATA",
    "MAX_MESSAGE",
    "MAX_OPTION",
    "MAX_PART",
    "MAX_PATH",
    "MAX_ROOM",
    "MAX_TOGETHER",
    "MAX_UTRACE",
    "SYSCALLS",
    "TAKEN",
    "AdoptArgs",
    "AdoptResult",
    "CloseArgs",
    "GetsockoptArgs",
    "RecvmsgArgs",
    "RecvmsgResult",
    "RpctlsSyscallArgs",
    "Segment",
    "SendmsgArgs",
    "SetsockoptArgs",
    "ShutdownArgs",
    "SocketArgs",
    "SocketCookieArgs",
    "Syscall",
    "TogetherArgs",
    "UtraceArgs",
    "goes_alone",
    "leads",
    "number_of",
]

MAX_PATH = 1024
MAX_DATA = 65536
MAX_CONTROL = 1024
MAX_OPTION = 65536
MAX_UTRACE = 4096
MAX_SEGMENTS = 8
MAX_SEGMENT = 1024  # TLS_MAX_PARAM_SIZE
# No request and no reply is longer: the receive buffer of both ends.
MAX_MESSAGE = 128 * 1024
# Of calls that go together: how many there are at most, how long each request and reply may be,
# and for how many bytes of data one may ask.
MAX_TOGETHER = 8
MAX_PART = 8192
MAX_ROOM = 4096
# A descriptor, in calls that go together: the one that the first of them has brought.
TAKEN = -1

PARTS = xdr.array(xdr.opaque(MAX_PART), MAX_TOGETHER)


@xdr.struct
class RpctlsSyscallArgs(Struct):
    """rpctls_syscall(op, path): the operations of `umktls.abi.rpctls.RpctlsSysc`."""

    op: Uint
    path: Annotated[bytes, xdr.opaque(MAX_PATH)]


@xdr.struct
class SocketCookieArgs(Struct):
    """rpctls_syscall(socookie) of FreeBSD 15."""

    socookie: Uhyper


@xdr.struct
class SocketArgs(Struct):
    """socket(2); the numbers are FreeBSD's (umktls.abi.netlink)."""

    domain: Int
    type: Int
    protocol: Int


@xdr.struct
class CloseArgs(Struct):
    """close(2)."""

    fd: Int


@xdr.struct
class Segment(Struct):
    """A piece of the caller's memory that a pointer in an option's value points to."""

    address: Uhyper
    data: Annotated[bytes, xdr.opaque(MAX_SEGMENT)]

    def __repr__(self) -> str:
        # Keys travel here.
        return f"Segment(address={self.address:#x}, data=<{len(self.data)} bytes>)"


@xdr.struct
class SetsockoptArgs(Struct):
    """setsockopt(2), and the memory that its value points to: the kernel's copyin looks there."""

    fd: Int
    level: Int
    name: Int
    value: Annotated[bytes, xdr.opaque(MAX_OPTION)]
    memory: Annotated[tuple[Segment, ...], xdr.array(Segment, MAX_SEGMENTS)]

    def __repr__(self) -> str:
        # So do the secrets of UMKTLS_SESSION.
        return f"SetsockoptArgs(fd={self.fd}, level={self.level}, name={self.name}, ...)"


@xdr.struct
class GetsockoptArgs(Struct):
    """getsockopt(2); `length` is the room for the value, in bytes."""

    fd: Int
    level: Int
    name: Int
    length: Uint


@xdr.struct
class SendmsgArgs(Struct):
    """sendmsg(2); `control` holds cmsghdr structures, and `flags` are numbers, of the personality's
    kernel."""

    fd: Int
    data: Annotated[bytes, xdr.opaque(MAX_DATA)]
    control: Annotated[bytes, xdr.opaque(MAX_CONTROL)]
    flags: Uint


@xdr.struct
class RecvmsgArgs(Struct):
    """recvmsg(2); `length` and `controllen` are the room for data and control, in bytes."""

    fd: Int
    length: Uint
    controllen: Uint
    flags: Uint


@xdr.struct
class RecvmsgResult(Struct):
    """What recvmsg(2) brings; `flags` are msg_flags (MSG_EOR, MSG_CTRUNC...)."""

    data: Annotated[bytes, xdr.opaque(MAX_DATA)]
    control: Annotated[bytes, xdr.opaque(MAX_CONTROL)]
    flags: Uint


@xdr.struct
class ShutdownArgs(Struct):
    """shutdown(2); `how` is SHUT_RD 0, SHUT_WR 1 or SHUT_RDWR 2."""

    fd: Int
    how: Int


@xdr.struct
class AdoptArgs(Struct):
    """umktls_adopt(program), ours: RPCTLSCD or RPCTLSSD, as whose daemon the caller asks."""

    program: Uint


@xdr.struct
class AdoptResult(Struct):
    """A descriptor of the session's socket, and the socket's cookie (version 2 of the upcall)."""

    fd: Int
    socookie: Uhyper


@xdr.struct
class UtraceArgs(Struct):
    """utrace(2); `data` is one JSON object with "event" and, where one is concerned, "fd"."""

    data: Annotated[bytes, xdr.opaque(MAX_UTRACE)]


@xdr.struct
class TogetherArgs(Struct):
    """umktls_together(): requests, each as a datagram of its own would have it. They are done in
    this order, whether one before them has failed or not. Behind one that takes a socket, which
    can only be the first, the descriptor `TAKEN` is that socket's."""

    requests: Annotated[tuple[bytes, ...], PARTS]


@dataclass(frozen=True, slots=True)
class Syscall:
    """One system call. `note` says how far it goes; one that is `alone` cannot go together with
    others, because a descriptor may come beside its reply; where it `leads`, it can if it comes
    first."""

    number: int
    name: str
    arguments: type[Struct]
    result: Codec[Any]
    note: str
    alone: bool = False
    leads: bool = False


OPAQUE = xdr.opaque(MAX_OPTION)
BOUNCE = (UMKTLS_TX_BOUNCE, UMKTLS_RX_BOUNCE)

SYSCALLS: Mapping[int, Syscall] = {
    call.number: call
    for call in (
        Syscall(SYS_close, "close", CloseArgs, xdr.VOID, "whole"),
        Syscall(
            SYS_recvmsg,
            "recvmsg",
            RecvmsgArgs,
            xdr.codec(RecvmsgResult),
            "one record; never blocks: EAGAIN when none waits, MSG_DONTWAIT set or not",
        ),
        Syscall(
            SYS_sendmsg,
            "sendmsg",
            SendmsgArgs,
            xdr.UINT,
            "with TLS_SET_RECORD_TYPE; never blocks; no address, no MSG_EOR",
        ),
        Syscall(
            SYS_socket,
            "socket",
            SocketArgs,
            xdr.INT,
            "AF_NETLINK, SOCK_RAW, NETLINK_GENERIC; a descriptor comes beside the reply",
            alone=True,
        ),
        Syscall(
            SYS_setsockopt,
            "setsockopt",
            SetsockoptArgs,
            xdr.VOID,
            "the options of kernel TLS and our own; memberships of a netlink socket",
        ),
        Syscall(
            SYS_getsockopt,
            "getsockopt",
            GetsockoptArgs,
            OPAQUE,
            "the options of kernel TLS and our own; UMKTLS_TX_BOUNCE and UMKTLS_RX_BOUNCE bring a "
            "descriptor beside the reply",
        ),
        Syscall(SYS_shutdown, "shutdown", ShutdownArgs, xdr.VOID, "whole"),
        Syscall(
            SYS_utrace,
            "utrace",
            UtraceArgs,
            xdr.VOID,
            "the data is one JSON object and goes into the host's trace",
        ),
        Syscall(
            SYS_rpctls_syscall,
            "rpctls_syscall",
            RpctlsSyscallArgs,
            xdr.INT,
            "operations 1 to 7; a descriptor comes beside the reply",
            leads=True,
        ),
        Syscall(
            SYS_rpctls_syscall_15,
            "rpctls_syscall_15",
            SocketCookieArgs,
            xdr.INT,
            "rpctls_syscall of FreeBSD 15; the number is ours (there it is 576); a descriptor "
            "comes beside the reply",
            leads=True,
        ),
        Syscall(
            SYS_umktls_adopt,
            "umktls_adopt",
            AdoptArgs,
            xdr.codec(AdoptResult),
            "ours: a session whose daemon has gone; EAGAIN when there is none (any more)",
            alone=True,
        ),
        Syscall(
            SYS_umktls_together,
            "umktls_together",
            TogetherArgs,
            PARTS,
            "ours: several calls with one datagram each way; the result are their replies",
            alone=True,
        ),
    )
}
_NUMBERS = {call.arguments: call.number for call in SYSCALLS.values()}


_LEADING = frozenset(call.arguments for call in SYSCALLS.values() if call.leads)
_LONELY = frozenset(call.arguments for call in SYSCALLS.values() if call.alone)


def leads(args: Struct) -> bool:
    """Whether this call can only be the first that umktls_together makes."""
    return type(args) in _LEADING


def goes_alone(args: Struct) -> bool:
    """Whether this call cannot be made by umktls_together: a descriptor may come beside its reply,
    or more data than there is room for."""
    if isinstance(args, GetsockoptArgs):
        gives_descriptor = args.level == SOL_UMKTLS and args.name in BOUNCE
        return gives_descriptor or args.length > MAX_ROOM
    if isinstance(args, RecvmsgArgs):
        return args.length > MAX_ROOM
    return type(args) in _LONELY


def number_of(args: Struct) -> int:
    """The number of the system call with these arguments."""
    number = _NUMBERS.get(type(args))
    if number is None:
        raise CallerError(f"{type(args).__name__} are not the arguments of a system call")
    return number
