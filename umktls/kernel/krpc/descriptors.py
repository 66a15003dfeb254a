"""What becomes of the descriptors that a server's process may have."""

from __future__ import annotations

import resource
from typing import NamedTuple

__all__ = ["MOST_CONNECTIONS", "Shares", "shares"]

MOST_CONNECTIONS = 4096
# Descriptors for the host's own work; a fourth of them all where there are few.
OWN = 64
# Those of open files: more are of no use to the table of handles (umktls.nfsd.program.server).
MOST_FILES = 8192


class Shares(NamedTuple):
    """What becomes of the descriptors of this process."""

    own: int
    files: int
    connections: int


def shares(limit: int | None = None) -> Shares:
    """Divide `limit` descriptors; None: as many as this process may have now (RLIMIT_NOFILE)."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = OWN + MOST_FILES + MOST_CONNECTIONS
    own = min(OWN, limit // 4)
    files = min(MOST_FILES, (limit - own) // 2)
    return Shares(own, files, min(MOST_CONNECTIONS, limit - own - files))
