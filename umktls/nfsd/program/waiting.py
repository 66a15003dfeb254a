"""Which calls do not go through the event loop, and where else they are executed.

What changes the disk for good waits for it, unless the export is on none (tmpfs). What looks at
many files, for a few bytes that a client has sent, computes for long: listings, the way down from
the root to what ".." leads to, and, where files are found again without the kernel's help, every
handle whose file is not open. Most directories are small: their listings are made on the
spot (`listing.briefly`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from umktls.nfs import types
from umktls.rpc.server import Lane

__all__ = ["HANDLE_FIELDS", "handles_in", "lane_of"]

# The arguments that are or have in them a file handle (RFC 1813 section 3.3).
HANDLE_FIELDS = (
    "object",
    "file",
    "dir",
    "what",
    "where",
    "from_",
    "to",
    "link",
    "symlink",
    "fsroot",
)


# Of most calls: to ask an enumeration for a member costs ten times as much.
HERE, DISK = Lane.HERE, Lane.DISK


def _always(lane: Lane) -> Callable[[Any], Lane]:
    return lambda args: lane


def _written(args: types.WRITE3args) -> Lane:
    return DISK if args.stable else HERE  # UNSTABLE is 0


def _looked_up(args: types.LOOKUP3args) -> Lane:
    return Lane.SCAN if args.what.name == b".." else HERE


LANES: dict[str, Callable[[Any], Lane]] = {
    "COMMIT": _always(DISK),
    "WRITE": _written,
    "LOOKUP": _looked_up,
    "READDIR": _always(Lane.SCAN),
    "READDIRPLUS": _always(Lane.SCAN),
}


class Places(Protocol):
    """Where files are found by their handles."""

    may_search: bool
    """Whether there is any file that may have to be searched for."""

    def in_memory(self, handle: bytes) -> bool:
        """Whether this one's is on no disk."""

    def searches(self, handle: bytes) -> bool:
        """Whether this one's may have to be."""


def lane_of(procedure: str, places: Places) -> Callable[[Any], Lane]:
    """What tells the lane of a procedure's calls from their arguments."""
    own = LANES.get(procedure)

    def look(args: Any) -> Lane:
        lane = HERE if own is None else own(args)
        if lane is DISK and places.in_memory(args.file):
            lane = HERE
        if not places.may_search or lane is not HERE:
            return lane
        return Lane.SCAN if any(map(places.searches, handles_in(args))) else lane

    return look


def handles_in(args: Any) -> list[bytes]:
    """The file handles in the arguments of a procedure."""
    handles = []
    kind: type = type(args)
    for name in _fields_of(kind):
        value = getattr(args, name)
        if isinstance(value, types.diropargs3):
            value = value.dir
        if isinstance(value, bytes):  # else it is what is to be made (SYMLINK, MKNOD)
            handles.append(value)
    return handles


@cache
def _fields_of(kind: type) -> list[str]:
    return [name for name in HANDLE_FIELDS if hasattr(kind, name)]
