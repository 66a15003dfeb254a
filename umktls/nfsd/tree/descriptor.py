"""An open file that is closed when nobody holds it any more.

fsync(2) tells of lost data once for each open file, and here all calls for a file have one. Whose
fsync succeeds right behind one that failed may have lost data too: so each waits until those that
were under way with it have told what came of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

__all__ = ["PATH", "READ", "WRITE", "Descriptor"]

PATH, READ, WRITE = 0, 1, 2  # what a descriptor is good for; each includes those before it


class Descriptor:
    """An open file, closed when the last reference to it goes. `lost`: how often fsync(2) has told
    that data is lost."""

    __slots__ = ("_syncs", "access", "fd", "lost")

    def __init__(self, fd: int, access: int = PATH) -> None:
        self.fd = fd
        self.access = access
        self.lost = 0
        self._syncs: list[Lock] = []  # one for each that is under way, held until it is over

    def sync(self, how: Callable[[int], None], failed: Callable[[], None]) -> None:
        """fsync(2) or fdatasync(2). OSError, and `failed` has been called, if data is lost; if that
        was told to another call, `failed` has been called and `lost` is another number."""
        own = Lock()
        with own:
            self._syncs.append(own)
            try:
                how(self.fd)
            except OSError:
                self.lost += 1
                failed()
                raise
            finally:
                self._syncs.remove(own)
        for other in self._syncs[:]:
            with other:
                pass

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
