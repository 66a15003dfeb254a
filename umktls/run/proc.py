"""Another process's descriptors: which sockets they are, copies of them, who waits for them.

A thread is named by its id; /proc has it whether or not it leads its process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from contextlib import suppress

from umktls.dataclass import dataclass
from umktls.run.system import pidfd_getfd

__all__ = [
    "Registration",
    "copy_of",
    "descriptors_of",
    "flags_of",
    "inode_of",
    "is_socket",
    "nonblocking",
    "parse_epoll",
    "pidfd_of",
    "process_of",
    "registrations_of",
    "waiting_in",
]

PIDFD_THREAD = os.O_EXCL
_EPOLL_LINE = re.compile(
    r"tfd:\s*(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+).* ino:([0-9a-f]+)"
)


@dataclass(frozen=True, slots=True)
class Registration:
    """What an epoll descriptor waits for, epoll_ctl(2)."""

    epoll: int
    number: int
    events: int
    data: int


def process_of(thread: int) -> int:
    """The process that a thread belongs to. Raises OSError."""
    with open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    raise ProcessLookupError(f"no thread {thread}")


def inode_of(thread: int, number: int) -> int:
    """What tells the open socket behind a descriptor from all others; 0 where there is none."""
    try:
        return os.stat(f"/proc/{thread}/fd/{number}").st_ino
    except OSError:
        return 0


def is_socket(thread: int, number: int) -> bool:
    """Whether there is one."""
    try:
        return stat.S_ISSOCK(os.stat(f"/proc/{thread}/fd/{number}").st_mode)
    except OSError:
        return False


def flags_of(thread: int, number: int) -> int:
    """The flags of a descriptor and of what it is of: O_NONBLOCK, O_CLOEXEC and so on. Raises
    OSError."""
    with open(f"/proc/{thread}/fdinfo/{number}", "rb") as info:
        for line in info:
            if line.startswith(b"flags:"):
                return int(line[6:], 8)
    return 0


def waiting_in(thread: int) -> tuple[int, str] | None:
    """The system call in which a thread waits, and where; None where it runs. Raises OSError."""
    with open(f"/proc/{thread}/syscall") as page:
        number, _, where = page.read().partition(" ")
    return (int(number), where) if number.isdecimal() else None


def pidfd_of(thread: int) -> int:
    """A pidfd of a thread, or, where the kernel (before 6.9) has none, of its process. Raises
    OSError."""
    try:
        return os.pidfd_open(thread, PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.pidfd_open(process_of(thread))


def copy_of(thread: int, number: int) -> int:
    """A copy of a descriptor, for whoever calls to close. Raises OSError: EBADF, ESRCH, EPERM."""
    pidfd = pidfd_of(thread)
    try:
        return pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)


def nonblocking(descriptor: int) -> bool:
    """O_NONBLOCK."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)


def descriptors_of(thread: int, inode: int) -> list[int]:
    """All descriptors of the process that are of that socket. Raises OSError."""
    numbers = []
    for name in os.listdir(f"/proc/{thread}/fd"):
        with suppress(OSError):
            if os.stat(f"/proc/{thread}/fd/{name}").st_ino == inode:
                numbers.append(int(name))
    return sorted(numbers)


def registrations_of(thread: int, inode: int) -> list[Registration]:
    """What the epoll descriptors of the process wait for of that socket. Raises OSError."""
    found: list[Registration] = []
    for name in os.listdir(f"/proc/{thread}/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/{thread}/fd/{name}") == "anon_inode:[eventpoll]":
                with open(f"/proc/{thread}/fdinfo/{name}") as info:
                    found += parse_epoll(int(name), info.read(), inode)
    return found


def parse_epoll(epoll: int, text: str, inode: int) -> list[Registration]:
    """What an epoll descriptor's page in /proc says of one socket, proc_pid_fdinfo(5)."""
    found = []
    for line in text.splitlines():
        match = _EPOLL_LINE.match(line)
        if match is not None and int(match[4], 16) == inode:
            found.append(Registration(epoll, int(match[1]), int(match[2], 16), int(match[3], 16)))
    return found
