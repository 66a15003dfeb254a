"""System calls that Python has no function for, by ctypes. Each raises OSError."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

__all__ = [
    "NUMBERS",
    "become_subreaper",
    "no_new_privileges",
    "pidfd_getfd",
    "process_vm",
    "refused",
    "seccomp_listener",
    "socket_name",
    "tgkill",
    "unshare_descriptors",
]

PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_SET_MODE_FILTER = 1
# The second: the filter is no sandbox, so nothing has to be slower for it.
SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW = 8, 4
CLONE_FILES = 0x400
SOCKADDR_MAX = 128

# The numbers of system calls, by machine.
BOTH = {"pidfd_getfd": 438, "io_uring_setup": 425}
NUMBERS_OF: dict[str, dict[str, int]] = {
    "x86_64": {
        "ioctl": 16,
        "socket": 41,
        "connect": 42,
        "sendto": 44,
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "bind": 49,
        "getsockname": 51,
        "getpeername": 52,
        "setsockopt": 54,
        "getsockopt": 55,
        "tgkill": 234,
        "recvmmsg": 299,
        "sendmmsg": 307,
        "seccomp": 317,
        **BOTH,
    },
    "aarch64": {
        "ioctl": 29,
        "tgkill": 131,
        "socket": 198,
        "bind": 200,
        "connect": 203,
        "getsockname": 204,
        "getpeername": 205,
        "sendto": 206,
        "recvfrom": 207,
        "setsockopt": 208,
        "getsockopt": 209,
        "sendmsg": 211,
        "recvmsg": 212,
        "recvmmsg": 243,
        "sendmmsg": 269,
        "seccomp": 277,
        **BOTH,
    },
}
NUMBERS = NUMBERS_OF.get(platform.machine(), {})

_libc = ctypes.CDLL(None, use_errno=True)
# Vectors are bytes that have been packed: objects of ctypes for them cost more than the call does.
_MOVED_BY = {name: _libc[name] for name in ("process_vm_readv", "process_vm_writev")}
for _function in _MOVED_BY.values():
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = (
        ctypes.c_int,
        *(ctypes.c_char_p, ctypes.c_ulong) * 2,
        ctypes.c_ulong,
    )
_IOVEC = struct.Struct("@QQ")


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refused(number: int, what: str | None = None) -> OSError:
    """The error with that errno. `what`: the call that had it."""
    return OSError(number, os.strerror(number), what)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise refused(ctypes.get_errno(), what)
    return result


def _call(name: str, *arguments: object) -> int:
    """All numbers are ints of 32 bits."""
    return _checked(_libc.syscall(NUMBERS[name], *arguments), name)


def no_new_privileges() -> None:
    """Have set-user-ID bits count no more: whoever is not root may filter only then."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def become_subreaper() -> None:
    """Have orphans below this process become its children."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def seccomp_listener(program: bytes) -> int:
    """Have this thread's system calls pass the filter `program` from now on; its listener."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = _SockFprog(len(program) // 8, ctypes.addressof(code))
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW
    return _call("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """A copy of another process's descriptor."""
    return _call("pidfd_getfd", pidfd, descriptor, 0)


def process_vm(
    name: str, pid: int, local: ctypes.Array[ctypes.c_char], pieces: Sequence[tuple[int, int]]
) -> int:
    """process_vm_readv(2) or process_vm_writev(2), `name`, of `local` and what is (address, length)
    over there, 1,024 of them at most: how many bytes it has moved."""
    here = _IOVEC.pack(ctypes.addressof(local), len(local))
    there = b"".join([_IOVEC.pack(*piece) for piece in pieces])
    return _checked(_MOVED_BY[name](pid, here, 1, there, len(pieces), 0), name)


def tgkill(process: int, thread: int, signal: int) -> None:
    """A signal for one thread."""
    _call("tgkill", process, thread, signal)


def socket_name(name: str, descriptor: int) -> bytes:
    """getsockname(2) or getpeername(2), `name`: a sockaddr as it is."""
    address = ctypes.create_string_buffer(SOCKADDR_MAX)
    length = ctypes.c_uint32(SOCKADDR_MAX)
    _call(name, descriptor, address, ctypes.byref(length))
    return address.raw[: length.value]


def unshare_descriptors() -> None:
    """Give this thread a table of descriptors of its own, a copy of the process's."""
    _checked(_libc.unshare(CLONE_FILES), "unshare")
