"""Epoll descriptors of another process: what waits for a socket is made to wait for another one.

A registration belongs to an open socket and to the number that it had in epoll_ctl(2), so whoever
changes it needs the socket at that same number. The thread that does it has a table of descriptors
of its own, where all numbers are free.
"""

from __future__ import annotations

import ctypes
import os
import platform
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from umktls.dataclass import dataclass
from umktls.run.proc import Registration, pidfd_of
from umktls.run.system import pidfd_getfd, refused, unshare_descriptors

__all__ = ["EpollMover"]

EPOLL_CTL_ADD, EPOLL_CTL_DEL = 1, 2
ALL = 1 << 20


class _Event(ctypes.Structure):
    _pack_ = 1 if platform.machine() == "x86_64" else 8
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class Move:
    """`old` and `new` are descriptors of this process, the rest is of that thread's process."""

    thread: int
    registrations: Sequence[Registration]
    old: int
    new: int
    done: Future[int]


class EpollMover:
    """The thread with its own table."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Move | None] = queue.SimpleQueue()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._thread = threading.Thread(target=self._run, daemon=True, name="epolls")
        self._thread.start()

    def move(self, thread: int, registrations: Sequence[Registration], old: int, new: int) -> int:
        """Have `new` in the place of `old` in all of them; how many it was. `thread`: one that
        lives, which the process's first need not do. Raises OSError."""
        done: Future[int] = Future()
        self._work.put(Move(thread, registrations, old, new, done))
        return done.result()

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        unshare_descriptors()
        os.closerange(0, ALL)
        while (move := self._work.get()) is not None:
            try:
                move.done.set_result(sum(self._move(move, each) for each in move.registrations))
            except BaseException as error:
                move.done.set_exception(error)
            finally:
                os.closerange(0, ALL)

    def _move(self, move: Move, registration: Registration) -> bool:
        """False: it is there no more, and may have been moved already."""
        os.closerange(0, ALL)
        target, own = pidfd_of(move.thread), os.pidfd_open(os.getpid())
        epoll = pidfd_getfd(target, registration.epoll)
        old, new = pidfd_getfd(own, move.old), pidfd_getfd(own, move.new)
        number = registration.number
        # Whoever has that very number moves.
        epoll, old, new = (os.dup(each) if each == number else each for each in (epoll, old, new))
        os.dup2(old, number)
        event = _Event(registration.events, registration.data)
        try:
            self._ctl(epoll, EPOLL_CTL_DEL, number, event)
        except FileNotFoundError:  # by another number of the same epoll descriptor
            return False
        os.dup2(new, number)
        self._ctl(epoll, EPOLL_CTL_ADD, number, event)
        return True

    def _ctl(self, epoll: int, operation: int, number: int, event: _Event) -> None:
        if self._libc.epoll_ctl(epoll, operation, number, ctypes.byref(event)) < 0:
            raise refused(ctypes.get_errno(), "epoll_ctl")
