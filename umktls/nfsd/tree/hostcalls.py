"""Linux system calls that Python's os module lacks, or lacks in the form that nfsd needs.

Each raises OSError with the kernel's errno, like the functions of os. Structure layouts are those
of 64-bit machines. Sources: name_to_handle_at(2), statx(2), faccessat2(2), utimensat(2),
setfsuid(2), setgroups(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import threading
from collections.abc import Sequence
from typing import cast

from umktls.errors import UnsupportedError

__all__ = [
    "AT_HANDLE_FID",
    "NO_ID",
    "UTIME_NOW",
    "UTIME_OMIT",
    "GroupList",
    "access",
    "birth",
    "device_and_inode",
    "file_handle",
    "open_file_handle",
    "set_times",
    "setfsgid",
    "setfsuid",
    "setgroups",
]

_libc = ctypes.CDLL(None, use_errno=True)
# For calls that never wait: without giving the interpreter's lock away, which with busy threads
# may take milliseconds to come back.
_short = ctypes.PyDLL(None, use_errno=True)

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EACCESS = 0x200
AT_HANDLE_FID = 0x200
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000

UTIME_NOW = 0x3FFFFFFF
UTIME_OMIT = 0x3FFFFFFE

NO_ID = 0xFFFFFFFF  # (uid_t) -1: the number that no user and no group has

_SYS_FACCESSAT2 = 439  # the same on every architecture, as all numbers from 424 on
_SYS_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "loongarch64": 159,
    "ppc64le": 81,
    "s390x": 206,
}.get(platform.machine())


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


_HANDLE_LIMIT = 128  # MAX_HANDLE_SZ
_HANDLE_HEAD = 8  # struct file_handle: handle_bytes, handle_type
# That structure, as ints, and behind it the int for the mount.
_HandleAndMount = ctypes.c_int * ((_HANDLE_HEAD + _HANDLE_LIMIT) // 4 + 1)
_MOUNT = len(_HandleAndMount()) - 1


def file_handle(fd: int, flags: int = 0) -> tuple[bytes, int]:
    """The kernel's handle of an open file (type and bytes), and the id of the mount it lies on.

    Needs no privilege. EOPNOTSUPP where the file system cannot be exported; AT_HANDLE_FID (Linux
    6.5) asks for a handle that may only be compared, which more of them have. Nothing is asked from
    a remote or FUSE file system.
    """
    space, mount, content = _own.parts
    space[0] = _HANDLE_LIMIT
    if _name_to_handle_at(fd, b"", space, mount, flags | _AT_EMPTY_PATH) < 0:
        raise _fail()
    return content[4 : _HANDLE_HEAD + space[0]].tobytes(), space[_MOUNT]


class _Space(threading.local):
    """Where the kernel writes a handle: made once for each thread."""

    def __init__(self) -> None:
        space = _HandleAndMount()
        self.parts = space, ctypes.byref(space, 4 * _MOUNT), memoryview(space).cast("B")


_own = _Space()
_name_to_handle_at = _short["name_to_handle_at"]


def open_file_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """Open what `file_handle` named, on the file system of mount_fd (which must not be O_PATH).

    Needs CAP_DAC_READ_SEARCH. ESTALE when it is gone.
    """
    named = struct.pack("=I", len(handle) - 4) + handle
    fd: int = _libc.open_by_handle_at(mount_fd, named, flags)
    if fd < 0:
        raise _fail()
    return fd


_STATX_INO, _STATX_BTIME, _STATX_MNT_ID = 0x100, 0x800, 0x1000
_StatxSpace = ctypes.c_char * 256
_statx_call = _libc["statx"]


def _statx(fd: int, name: bytes, flags: int, mask: int) -> bytes:
    """struct statx as it is; a remote or FUSE file system is not asked."""
    space = _StatxSpace()
    if _statx_call(fd, name, flags | _AT_STATX_DONT_SYNC, mask, space) < 0:
        raise _fail()
    return space.raw


# Of struct statx: stx_ino, then stx_dev_major and stx_dev_minor.
_FILE = struct.Struct("=32xQ96xII")


def birth(fd: int) -> tuple[bytes, int]:
    """The time of an open file's birth (12 bytes; zeros where unknown) and its mount (or 0)."""
    raw = _statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME | _STATX_MNT_ID)
    mask = int.from_bytes(raw[:4], sys.byteorder)
    mount = int.from_bytes(raw[144:152], sys.byteorder)
    time = raw[80:92]
    return time if mask & _STATX_BTIME else bytes(12), mount if mask & _STATX_MNT_ID else 0


def device_and_inode(dir_fd: int, name: bytes) -> tuple[int, int]:
    """(st_dev, st_ino) of an entry, without following it and without asking a FUSE file system."""
    raw = _statx(dir_fd, name, _AT_SYMLINK_NOFOLLOW, _STATX_INO)
    inode, major, minor = _FILE.unpack_from(raw)
    return os.makedev(major, minor), inode


# What access(2) says where the answer is no.
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)


def access(fd: int, mode: int) -> bool:
    """Whether this thread as it is now (fsuid, fsgid, groups) has os.R_OK, W_OK, X_OK on a file.

    A file system that cannot tell has not said no: OSError.
    """
    flags = _AT_EACCESS | _AT_EMPTY_PATH
    if _short.syscall(_SYS_FACCESSAT2, fd, b"", mode, flags) == 0:
        return True
    error = _fail()
    if error.errno in _DENIED:
        return False
    raise error


_TIMES = struct.Struct("=qqqq")  # struct timespec[2]: access, modification


def set_times(path: str, access_time: tuple[int, int], modification_time: tuple[int, int]) -> None:
    """utimensat(2): (seconds, nanoseconds) each; UTIME_NOW and UTIME_OMIT as nanoseconds."""
    times = _TIMES.pack(*access_time, *modification_time)
    if _libc.utimensat(_AT_FDCWD, path.encode(), times, 0) < 0:
        raise _fail()


def setfsuid(uid: int) -> int:
    """Set this thread's file system uid; returns the one before. It cannot tell of a failure:
    ask with NO_ID, which changes nothing."""
    return cast(int, _setfsuid(uid))


def setfsgid(gid: int) -> int:
    """Set this thread's file system gid; returns the one before."""
    return cast(int, _setfsgid(gid))


_setfsuid, _setfsgid = _short["setfsuid"], _short["setfsgid"]
for _function in (_setfsuid, _setfsgid):
    _function.argtypes = [ctypes.c_uint32]
    _function.restype = ctypes.c_uint32


class GroupList:
    """Supplementary groups as the kernel takes them."""

    def __init__(self, groups: Sequence[int]) -> None:
        self.count = len(groups)
        self.array = (ctypes.c_uint32 * len(groups))(*groups)


def setgroups(groups: GroupList) -> None:
    """Set the supplementary groups of this thread alone (the C library's sets those of all)."""
    if _SYS_SETGROUPS is None:
        raise UnsupportedError(f"setgroups: no system call number for {platform.machine()}")
    if _short.syscall(_SYS_SETGROUPS, groups.count, groups.array) < 0:
        raise _fail()
