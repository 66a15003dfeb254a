"""An open file that is closed when nobody holds it any more."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["PATH", "READ", "WRITE", "Descriptor"]

PATH, READ, WRITE = 0, 1, 2  # what a descriptor is good for; each includes those before it


class Descriptor:
    """An open file, closed when the last reference to it goes."""

    __slots__ = ("access", "fd")

    def __init__(self, fd: int, access: int = PATH) -> None:
        self.fd = fd
        self.access = access

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it now."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        try:
            close(fd)
        except OSError:
            # It is closed whatever close(2) says; what was written is asked for by COMMIT's fsync.
            return

    __del__ = close
