"""Memory for what comes in, without clearing it first; and how often Python looks for cycles.

``bytearray(size)`` writes zeros, for a message of 1 MiB as long as a fifth of what opening its
records takes. CPython's C API makes one whose bytes are whatever was there before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["seldom_collected", "uncleared"]

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


# So many new objects until the youngest are looked through (CPython: 700). A page of a directory
# brings some thousand at once, none of which is in a cycle.
NEW_OBJECTS = 20_000


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Inside the block, what is there already is not looked through for cycles: modules, classes
    and functions stay as long as the process. And new objects are looked through less often."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
