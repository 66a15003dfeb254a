"""How system calls fail."""

from __future__ import annotations

import errno
import os

from umktls.errors import UmktlsError, WorldError

__all__ = ["KernelGone", "SystemCallError"]


class SystemCallError(UmktlsError):
    """A system call failed; `name` is the call's."""

    def __init__(self, name: str, errno: int) -> None:
        super().__init__(f"{name}: {os.strerror(errno)}", errno)
        self.name = name


class KernelGone(WorldError):
    """ECONNREFUSED: there is no kernel at the other end of the system-call socket any more."""

    default_errno = errno.ECONNREFUSED
