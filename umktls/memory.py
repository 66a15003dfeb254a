"""How a process gets memory for messages, and gives it back.

``bytearray(size)`` writes zeros, for a message of 1 MiB as long as a fifth of what opening its
records takes. CPython's C API makes one whose bytes are whatever was there before.

glibc gives each allocation of 128 KiB and more a mapping of its own and takes it away when it is
freed. For buffers of 1 MiB, made per message, that means 256 page faults a message, which cost
more than sealing it. With higher limits they come from the heap, and their pages stay. So do those
of much that is small, wherever something lies behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

__all__ = ["Ended", "give_back", "keep_large_buffers", "uncleared"]

# Below this the call costs as much as the zeros.
LARGE = 16 * 1024
# malloc.h of glibc; mmap(2) from 32 MiB on is the highest limit it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_FROM = 32 * 1024 * 1024
# What a mount holds of written data (fs/writeback.py) comes and goes in less than this.
TRIM_FROM = 24 * 1024 * 1024
KEEP_FREE = 16 * 1024 * 1024
# Of what has ended, so much goes together.
TOGETHER = 256


def uncleared(size: int) -> bytearray:
    """A bytearray of that size. Nobody may be shown what was not written. Raises MemoryError."""
    return bytearray(size) if size < LARGE else _maker()(size)


@cache
def _maker() -> Callable[[int], bytearray]:
    import ctypes  # programs without large messages need none

    try:
        make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    except AttributeError:  # another Python
        return bytearray
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
    return lambda size: make(None, size)


def keep_large_buffers() -> bool:
    """Have the C library keep the memory of large buffers; whether it does. Once per process."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # not glibc: slower, and right all the same
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_FROM) and mallopt(M_TRIM_THRESHOLD, TRIM_FROM))


def give_back(keep: int = KEEP_FREE) -> bool:
    """Give the system back what is free of the heap, wherever it lies, but for `keep` bytes at its
    end; whether there was something."""
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(ctypes.c_size_t(keep)))


class Ended:
    """Counts what has ended, and has the memory that it has left behind let go: for `TOGETHER` of
    them, or for as many as there are still, since to look for it takes as long as there are."""

    def __init__(self, let_go: Callable[[], object]) -> None:
        self._let_go = let_go
        self._count = 0

    def one_more(self, left: int) -> None:
        """One has ended, and so many are left."""
        self._count += 1
        if self._count >= max(TOGETHER, left):
            self._count = 0
            self._let_go()
