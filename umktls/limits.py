"""Limits of this process (getrlimit(2)), and who may look into its memory (prctl(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

__all__ = ["keep_memory_private", "raise_descriptor_limit"]

PR_SET_DUMPABLE = 4  # linux/prctl.h
# Set by somebody who wants to look: gdb, py-spy, a core file.
DUMPABLE = "UMKTLS_DUMPABLE"


def raise_descriptor_limit() -> None:
    """Have as many descriptors as the system lets us: each connection is one.

    The soft limit is mostly 1024, for the sake of programs that use select(2); ours do not. What
    this process starts has the same limit.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Where it cannot be raised, connections wait until others end.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_memory_private() -> None:
    """No core file, and no look into the memory for other processes of this user: there are keys.

    Both, because a core file that goes to a program (core(5), core_pattern) heeds no limit. What
    this process starts inherits the limit only. With UMKTLS_DUMPABLE=1 in the environment nothing
    is done, for those who debug.
    """
    if os.environ.get(DUMPABLE) == "1":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
