"""How this process gets memory for message buffers.

glibc gives each allocation of 128 KiB and more a mapping of its own and takes it away when it is
freed. For buffers of 1 MiB, made per message, that means 256 page faults a message, which cost
more than sealing it. With higher limits they come from the heap, and their pages stay.
"""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "keep_large_buffers"]

# malloc.h of glibc; mmap(2) from 32 MiB on is the highest limit it takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_FROM = 32 * 1024 * 1024
# What a mount holds of written data (fs/writeback.py) comes and goes in less than this.
TRIM_FROM = 24 * 1024 * 1024
KEEP_FREE = 16 * 1024 * 1024


def keep_large_buffers() -> bool:
    """Have the C library keep the memory of large buffers; whether it does. Once per process."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # not glibc: slower, and right all the same
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_FROM) and mallopt(M_TRIM_THRESHOLD, TRIM_FROM))


def give_back() -> bool:
    """Give the system back what is free of the heap, wherever it lies, but for `KEEP_FREE` bytes at
    its end; whether there was something."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(ctypes.c_size_t(KEEP_FREE)))
