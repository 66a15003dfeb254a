"""Which request of the file system a task works for: so calls can tell what they are made for."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["REQUEST"]

# The number of a request that was told to those who watch closely; 0 where there is none.
REQUEST: ContextVar[int] = ContextVar("REQUEST", default=0)
