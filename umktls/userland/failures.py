"""How system calls end, and how they fail."""

from __future__ import annotations

import errno
import os
from typing import Any

from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, WorldError

__all__ = ["KernelGone", "Outcome", "SystemCallError", "close_all"]


class SystemCallError(UmktlsError):
    """A system call failed; `name` is the call's. `why`: more than the errno says."""

    def __init__(self, name: str, errno: int, why: str = "") -> None:
        text = f"{name}: {os.strerror(errno)}"
        super().__init__(f"{text}: {why}" if why else text, errno)
        self.name = name


class KernelGone(WorldError):
    """ECONNREFUSED: there is no kernel at the other end of the system-call socket any more."""

    default_errno = errno.ECONNREFUSED


@dataclass(slots=True)
class Outcome:
    """What became of a system call: its result and what descriptors came along, or its error."""

    result: Any
    descriptors: list[int]
    error: SystemCallError | None = None

    def get(self) -> Any:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result


def close_all(descriptors: list[int]) -> None:
    """Close what nobody is going to use; the list is empty then."""
    while descriptors:
        os.close(descriptors.pop())
