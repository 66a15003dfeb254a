"""A world that refuses: any call that Python's C code makes for a host can be made to fail.

`sys.setprofile` tells of each call of a C function, before it is made, and what is raised then is
what the caller sees. A place is such a function and the line of the kernel's row that led to it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["Place", "Refusing"]

# In the last, TCP is read.
ROW = ("/umktls/kernel/", "/umktls/nfsd/", "/umktls/ktls/socket/rx.py")
DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
FILES = (errno.EMFILE, errno.ENOSPC, errno.EIO)
MEMORY = (errno.ENOMEM, errno.ENOBUFS)
ERRORS = {
    "_socket.socket._accept": (*DESCRIPTORS, errno.ECONNABORTED, errno.ENOMEM),
    "_socket.socket.recv": MEMORY,
    "_socket.socket.recv_into": MEMORY,
    "_socket.socket.recvmsg": (*DESCRIPTORS, errno.ENOMEM),
    "_socket.socket.recvmsg_into": MEMORY,
    "_socket.socket.send": MEMORY,
    "_socket.socket.sendmsg": (*MEMORY, errno.ETOOMANYREFS),
    "_socket.socket.getpeername": (errno.ENOTCONN, errno.ENOBUFS),
    "_socket.socket.getsockname": (errno.ENOBUFS,),
    "_socket.socket.getsockopt": (errno.ENOMEM,),
    "_socket.socket.setsockopt": (errno.ENOMEM, errno.EINVAL),
    "_socket.socket.connect": (errno.EAGAIN, errno.ENOBUFS, errno.EADDRNOTAVAIL),
    "_socket.socket.bind": (errno.ENOMEM, errno.ENOSPC),
    "_socket.socket.shutdown": (errno.ENOTCONN,),
    "_socket.socketpair": DESCRIPTORS,
    "_socket.dup": DESCRIPTORS,
    "select.epoll.register": (errno.ENOSPC, errno.ENOMEM),
    "select.epoll.modify": (errno.ENOMEM,),
    "select.poll.poll": (errno.ENOMEM,),
    "posix.open": FILES,
    "posix.stat": (errno.ENOENT, errno.EIO),
    "posix.lstat": (errno.ENOENT, errno.EIO),
    "posix.fstat": (errno.EIO,),
    "posix.read": (errno.EIO,),
    "posix.write": (errno.ENOSPC, errno.EIO),
    "posix.mkdir": (errno.ENOSPC, errno.EROFS),
    "posix.chmod": (errno.EROFS,),
    "posix.unlink": (errno.EROFS,),
    "posix.replace": (errno.ENOSPC,),
    "posix.scandir": FILES,
    "posix.pipe2": DESCRIPTORS,
    "_io.open": FILES,
    "fcntl.ioctl": (errno.ENOMEM,),
    "_posixsubprocess.fork_exec": (errno.EAGAIN, errno.ENOMEM),
    "_thread.start_new_thread": (0,),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A call: which function, from where; and how it fails. errno 0: as a thread does."""

    function: str
    line: str
    errno: int

    def __str__(self) -> str:
        return f"{self.function} at {self.line}: {errno.errorcode.get(self.errno, 'no thread')}"

    def error(self) -> Exception:
        if not self.errno:
            return RuntimeError("can't start new thread")
        return OSError(self.errno, os.strerror(self.errno))


def name_of(function: Any) -> str:
    """`module.function` or `module.class.method` of a C function."""
    owner = getattr(function, "__objclass__", None)
    if owner is None:
        this = getattr(function, "__self__", None)
        owner = None if this is None or isinstance(this, type(sys)) else type(this)
    if owner is None:
        return f"{function.__module__}.{function.__name__}"
    for base in owner.__mro__:
        if base.__module__ in ("_socket", "select"):
            return f"{base.__module__}.{base.__name__}.{function.__name__}"
    return ""


def line_of(frame: FrameType | None) -> str:
    """The innermost line of the kernel's row that led to the call; empty if none did."""
    while frame is not None:
        path = frame.f_code.co_filename
        if any(row in path for row in ROW):
            return f"{path.rpartition('/umktls/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@dataclass
class Refusing:
    """What was called while it was recording, and what has been refused."""

    places: dict[Place, None] = field(default_factory=dict)
    refused: int = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note all places that calls come from inside the block."""

        def see(function: str, line: str) -> None:
            for number in ERRORS[function]:
                self.places.setdefault(Place(function, line, number))

        with self._seeing(see):
            yield

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """The next call at `place` inside the block fails."""

        def see(function: str, line: str) -> None:
            if (function, line) == (place.function, place.line):
                sys.setprofile(None)
                self.refused += 1
                raise place.error()

        with self._seeing(see):
            yield

    @contextmanager
    def _seeing(self, see: Callable[[str, str], None]) -> Iterator[None]:
        def profile(frame: FrameType, event: str, function: Any) -> None:
            if event == "c_call" and (name := name_of(function)) in ERRORS:
                line = line_of(frame)
                if line:
                    see(name, line)

        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(None)
