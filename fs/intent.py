"""What the thread that FUSE looks a name up for means to do with it: proc(5) tells.

Theory of operation. FUSE looks a name up before it makes it, and does not say what for. Linux' own
NFS client is told (LOOKUP_CREATE, LOOKUP_EXCL, LOOKUP_RENAME_TARGET), and then asks no server.
Meanwhile the thread sleeps in its system call: /proc/PID/syscall has the call's number and
arguments, /proc/PID/mem the path. If the call makes the last name of that path, the making itself
will tell the thread whether the name is there, and our answer does not matter. So it is with one
that removes it.

A file of proc(5) that is open shows what the thread is in when it is read, and costs a third of one
that is opened: those of the last threads are kept. It is bound to the thread and not to its number.
That of a process's memory would stay with a memory that it has left by execve(2).

The other names of the path do matter: they have to be there. So a name counts only if it stands in
the path once, and if its directory is called as the path says. Where nothing can be seen (a thread
of another PID namespace or user, a 32-bit program, io_uring) the server is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

__all__ = ["Call", "Intent", "call_of", "makes"]

PATH_MAX = 4096
LONGEST = 256  # of what /proc/PID/syscall says
KEPT = 16
_SEPARATORS = re.compile(b"/+")


class Maker(NamedTuple):
    """A system call: which arguments are paths that are walked, what is made (or removed) being the
    last one; which are flags, and what these must be."""

    paths: tuple[int, ...]
    flags: int | None = None
    mask: int = 0
    value: int = 0


def _open(path: int) -> Maker:
    return Maker((path,), path + 1, os.O_CREAT, os.O_CREAT)


_RENAMEAT2 = Maker((1, 3), 4, -1, 0)  # with flags it matters what is there
# arch/x86/entry/syscalls/syscall_64.tbl; scripts/syscall.tbl
_GENERIC = {
    33: Maker((1,)),  # mknodat
    34: Maker((1,)),  # mkdirat
    36: Maker((2,)),  # symlinkat
    37: Maker((1, 3)),  # linkat
    38: Maker((1, 3)),  # renameat
    56: _open(1),  # openat
    276: _RENAMEAT2,
}
_MAKERS = {
    "x86_64": {
        2: _open(0),
        82: Maker((0, 1)),  # rename
        83: Maker((0,)),  # mkdir
        85: Maker((0,)),  # creat
        86: Maker((0, 1)),  # link
        88: Maker((1,)),  # symlink
        133: Maker((0,)),  # mknod
        257: _open(1),  # openat
        258: Maker((1,)),  # mkdirat
        259: Maker((1,)),  # mknodat
        264: Maker((1, 3)),  # renameat
        265: Maker((1, 3)),  # linkat
        266: Maker((2,)),  # symlinkat
        316: _RENAMEAT2,
    },
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}
MAKERS = _MAKERS.get(os.uname().machine, {})


# Calls that remove what the last name of their path leads to.
REMOVERS: Mapping[int, Maker] = {
    "x86_64": {84: Maker((0,)), 87: Maker((0,)), 263: Maker((1,))},  # rmdir, unlink, unlinkat
    "aarch64": {35: Maker((1,))},
    "riscv64": {35: Maker((1,))},
}.get(os.uname().machine, {})
OPENERS = frozenset(number for number, maker in MAKERS.items() if maker.value == os.O_CREAT)
# Calls that find what is there. A 32-bit program's numbers are others, and none of those that make
# a name is among these.
LOOKERS = {
    "x86_64": frozenset(
        {
            *(4, 6, 262, 332),  # stat, lstat, newfstatat, statx
            *(21, 269, 439),  # access, faccessat, faccessat2
            *(
                59,
                80,
                84,
                87,
                89,
                263,
                267,
            ),  # execve, chdir, rmdir, unlink, readlink, unlinkat, ...
            *(76, 90, 92, 94, 260, 268, 280),  # truncate, chmod, chown, ..., utimensat
            *(188, 189, 191, 192, 194, 195),  # xattrs
        }
    ),
    "aarch64": frozenset({35, 45, 48, 49, 53, 54, 78, 79, 88, 221, 291, 439}),
    "riscv64": frozenset({35, 45, 48, 49, 53, 54, 78, 79, 88, 221, 291, 439}),
}.get(os.uname().machine, frozenset())

# Calls that take data out of a file, or ask where it ends. A 32-bit program's numbers are others,
# and none of those that tell of a file is among these.
READERS: Collection[int] = {
    # read, lseek, pread64, readv, sendfile, splice, preadv, copy_file_range, preadv2
    "x86_64": frozenset({0, 8, 17, 19, 40, 275, 295, 326, 327}),
    "aarch64": frozenset({62, 63, 65, 67, 69, 71, 76, 285, 286}),
    "riscv64": frozenset({62, 63, 65, 67, 69, 71, 76, 285, 286}),
}.get(os.uname().machine, frozenset())


class Call(NamedTuple):
    """A system call that makes, or removes, what its last path names."""

    paths: tuple[bytes, ...]


class Seen(NamedTuple):
    """A system call as /proc/PID/syscall shows it: its number, and that with its arguments."""

    number: int
    words: list[bytes]

    def argument(self, place: int) -> int:
        return int(self.words[place + 1], 16)


def call_of(pid: int, calls: Mapping[int, Maker] = MAKERS) -> Call | None:
    """The call that a thread is in, if it is one of these (makes a name); None also where that is
    not to be seen."""
    seen = _seen(pid)
    maker = calls.get(seen.number) if seen is not None else None
    if seen is None or maker is None:
        return None
    if maker.flags is not None and seen.argument(maker.flags) & maker.mask != maker.value:
        return None
    try:
        return Call(tuple(_path(pid, seen.argument(place)) for place in maker.paths))
    except (OSError, ValueError, OverflowError):
        return None


def _seen(pid: int) -> Seen | None:
    """The system call that a thread is in; None where that is not to be seen."""
    try:
        words = _syscalls.read(pid).split() if pid else []
        return Seen(int(words[0]), words) if len(words) >= 7 else None
    except (OSError, ValueError):
        return None


class Syscalls:
    """What /proc/PID/syscall says. `limit`: of so many threads it is kept open."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._open: dict[int, int] = {}

    def read(self, pid: int) -> bytes:
        """Raises OSError where that is not to be seen."""
        descriptor = self._open.get(pid)
        if descriptor is not None:
            try:
                return os.pread(descriptor, LONGEST, 0)
            except OSError:  # the thread has ended, and another one may have its number
                os.close(self._open.pop(pid))
        descriptor = os.open(f"/proc/{pid}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        self._open[pid] = descriptor
        if len(self._open) > self._limit:
            os.close(self._open.pop(next(iter(self._open))))
        return os.pread(descriptor, LONGEST, 0)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


_syscalls = Syscalls()


def _read(path: str, size: int, offset: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _path(pid: int, address: int) -> bytes:
    """The string at an address; ValueError if it does not end where a path has to."""
    page = PATH_MAX - address % PATH_MAX  # the next page may not be there
    text = _read(f"/proc/{pid}/mem", page, address)
    if b"\0" not in text:
        text += _read(f"/proc/{pid}/mem", PATH_MAX, address + page)
    return text[: text.index(b"\0")]


def makes(call: Call, name: bytes, parents: Collection[bytes]) -> bool:
    """Whether a call makes (or removes) a name, and has no other use for it. parents: what its
    directory is called."""
    walked = [_SEPARATORS.split(path) for path in call.paths]
    names = walked[-1]
    if names[-1] != name or sum(path.count(name) for path in walked) != 1:
        return False
    return len(names) == 1 or names[-2] in parents


class Intent:
    """What threads look names up for, by what proc(5) shows of them."""

    def will_make(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        """Whether a thread is about to make a name, and will do so whatever the look-up says."""
        call = call_of(pid)
        return call is not None and makes(call, name, parents)

    def will_remove(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        """Whether a thread is about to remove a name: REMOVE says what is so."""
        call = call_of(pid, REMOVERS)
        return call is not None and makes(call, name, parents)

    def lists(self, pid: int, read_before: bool = True) -> bool:
        """Whether a thread is known to open a directory in order to list it: opendir(3), find and
        rm say so by O_DIRECTORY, and who opens it for fsync(2) does not. These open ".." in the
        same way, where they come up from far below and have read it before (`read_before`: that may
        be)."""
        seen = _seen(pid)
        if seen is None or seen.number not in OPENERS:
            return False
        maker = MAKERS[seen.number]
        if not seen.argument(maker.flags or 0) & os.O_DIRECTORY:
            return False
        if not read_before:
            return True
        try:
            return _read(f"/proc/{pid}/mem", 3, seen.argument(maker.paths[0])) != b"..\0"
        except (OSError, OverflowError):
            return True

    def reads(self, pid: int) -> bool:
        """Whether a thread is known to read data: nobody is told what time it is of."""
        seen = _seen(pid)
        return seen is not None and seen.number in READERS

    def only_looks(self, pid: int) -> bool:
        """Whether a thread is known to make no name: then what was there a moment ago will do as an
        answer."""
        seen = _seen(pid)
        if seen is None:
            return False
        if seen.number in OPENERS:
            return not seen.argument(MAKERS[seen.number].flags or 0) & os.O_CREAT
        return seen.number in LOOKERS
