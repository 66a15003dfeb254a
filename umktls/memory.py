"""Memory for what comes in, without clearing it first.

``bytearray(size)`` writes zeros, for a message of 1 MiB as long as a fifth of what opening its
records takes. CPython's C API makes one whose bytes are whatever was there before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

__all__ = ["uncleared"]

# Below this the call costs as much as the zeros.
LARGE = 16 * 1024


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
