"""Locks in memory that processes share.

Theory of operation. They are the C library's: mutexes that several processes share, and robust
ones (pthread_mutexattr_setrobust(3)). To take one that nobody has, or to give it back, is no system
call. When its holder dies, whatever that one was doing, the system gives it back to the next, who
learns of it and goes on: what such a lock guards has to be good at any moment. A thread may take
one again that it has.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence

__all__ = ["MUTEX_SIZE", "Mutex", "mutexes"]

# Bytes for each; pthread_mutex_t has 40 or 48, and the attributes fewer.
MUTEX_SIZE = 64
Space = ctypes.c_char * MUTEX_SIZE
PROCESS_SHARED, RECURSIVE, ROBUST = 1, 1, 1  # as Linux's C libraries have them

_libc = ctypes.CDLL(None)
# Without giving the interpreter's lock away, for what does not wait.
_short = ctypes.PyDLL(None)
_wait_for = _libc["pthread_mutex_lock"]
_try, _give = _short["pthread_mutex_trylock"], _short["pthread_mutex_unlock"]


class Mutex:
    """One of them. Whoever takes several takes them in their `order`."""

    __slots__ = ("_space", "order")

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._space = Space.from_buffer(memory, offset)
        self.order = offset

    def acquire(self) -> None:
        """Wait for it. OSError where it cannot be had, which is a mistake."""
        failure = _try(self._space)
        if failure == errno.EBUSY:
            failure = _wait_for(self._space)
        if failure == errno.EOWNERDEAD:
            failure = _short.pthread_mutex_consistent(self._space)
        _check(failure)

    def release(self) -> None:
        """Give it back."""
        _check(_give(self._space))

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *failure: object) -> None:
        self.release()


def mutexes(memory: mmap.mmap, offset: int, count: int, *, new: bool) -> Sequence[Mutex]:
    """So many, from an offset on. new: they are made, which only the first process does."""
    if new:
        _make(memory, offset, count)
    return [Mutex(memory, offset + number * MUTEX_SIZE) for number in range(count)]


def _make(memory: mmap.mmap, offset: int, count: int) -> None:
    attributes = Space()
    _check(_short.pthread_mutexattr_init(attributes))
    _check(_short.pthread_mutexattr_setpshared(attributes, PROCESS_SHARED))
    _check(_short.pthread_mutexattr_settype(attributes, RECURSIVE))
    _check(_short.pthread_mutexattr_setrobust(attributes, ROBUST))
    for number in range(count):
        space = Space.from_buffer(memory, offset + number * MUTEX_SIZE)
        _check(_short.pthread_mutex_init(space, attributes))


def _check(failure: int) -> None:
    if failure:
        raise OSError(failure, os.strerror(failure))
