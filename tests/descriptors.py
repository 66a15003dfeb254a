"""What this process has open, to see that something leaves nothing behind."""

from __future__ import annotations

import os

__all__ = ["descriptors"]


def descriptors() -> set[str]:
    """The numbers that are in use. Those of later have to be among those of before (<=), not the
    same: what other tests left to the garbage collection may go meanwhile."""
    return set(os.listdir("/proc/self/fd"))
