"""Limits of this process (getrlimit(2))."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_descriptor_limit"]


def raise_descriptor_limit() -> None:
    """Have as many descriptors as the system lets us: each connection is one.

    The soft limit is mostly 1024, for the sake of programs that use select(2); ours do not. What
    this process starts has the same limit.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Where it cannot be raised, connections wait until others end.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
