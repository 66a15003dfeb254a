"""What many threads are about to do, as a mount learns it from proc(5)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from pyfuse3 import RequestContext
from umktls_fs.intent import Intent

from tests.fs.world import Somebody

__all__ = ["Thought", "Thoughts"]


class Thought(NamedTuple):
    """What a system call is going to do; nothing: that cannot be seen."""

    makes: bytes = b""
    removes: bytes = b""
    looks: bool = False
    lists: bool = False
    reads: bool = False


NOTHING = Thought()


class Thoughts(Intent):
    """Each task is a thread of its own."""

    def __init__(self) -> None:
        self._of: dict[int, Thought] = {}
        self._pid: ContextVar[int] = ContextVar("pid", default=1)

    def begin(self, pid: int) -> None:
        """The present task is this thread."""
        self._pid.set(pid)

    @property
    def ctx(self) -> RequestContext:
        return Somebody(pid=self._pid.get()).ctx

    @contextmanager
    def of(self, thought: Thought) -> Iterator[None]:
        """Inside the block this thread is in such a call."""
        pid = self._pid.get()
        self._of[pid] = thought
        try:
            yield
        finally:
            del self._of[pid]

    def _now(self, pid: int) -> Thought:
        return self._of.get(pid, NOTHING)

    def will_make(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        return self._now(pid).makes == name

    def will_remove(self, pid: int, name: bytes, parents: Collection[bytes]) -> bool:
        return self._now(pid).removes == name

    def only_looks(self, pid: int) -> bool:
        return self._now(pid).looks

    def lists(self, pid: int, read_before: bool = True) -> bool:
        return self._now(pid).lists

    def reads(self, pid: int) -> bool:
        return self._now(pid).reads
