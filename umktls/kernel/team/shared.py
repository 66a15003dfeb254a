"""What the workers of one server share, in memory.

    verifier    of writes (RFC 1813 section 3.3.7): what one worker has lost is lost for all
    replies     to calls that may not be done twice: a repeated call may come to another worker
    places      where files were seen last, for servers that find them again by themselves
    mounts      who has mounted what, by MOUNT, which is an advice (RFC 1813 section 5.2.2)
    stripes     locks: what changes a directory is done by one worker at a time
    lives       which workers live

A worker's life is a number that no other life has. While it lives it has a lock on a byte of the
file, which goes with it.
"""

from __future__ import annotations

import fcntl
from threading import RLock
from typing import Final

from umktls.kernel.team.sharedtable import Region, SharedTable

__all__ = ["Shared"]

VERIFIER_SIZE: Final = 8
HEAD = 64
# Room for 8192 replies. The longest reply is to RENAME, with the attributes of two directories, or
# to CREATE, with a handle of 64 bytes.
REPLY_SETS, LONGEST_REPLY = 512, 512
# As many places as a server remembers that is alone (umktls.nfsd.tree.index), with a name of 255
# bytes.
PLACE_SETS, LONGEST_PLACE = 4096, 304
# A host's address and the path of a directory (MNTPATHLEN of RFC 1813).
MOUNT_SETS, LONGEST_MOUNT = 64, 1536
# Bytes of the file, behind its end, that are locks and nothing else.
STRIPES_AT, STRIPES = 1 << 40, 1024
OPENING_AT = STRIPES_AT + STRIPES
LIVES_AT = 1 << 41


class Shared:
    """See the module. `life`: this worker's; None for who makes it and is no worker."""

    def __init__(self, fd: int | None = None, life: int | None = None) -> None:
        replies = HEAD
        places = replies + SharedTable.size(REPLY_SETS, LONGEST_REPLY)
        mounts = places + SharedTable.size(PLACE_SETS, LONGEST_PLACE)
        end = mounts + SharedTable.size(MOUNT_SETS, LONGEST_MOUNT)
        self._region = Region(end, fd)
        self.replies = SharedTable(self._region, replies, REPLY_SETS, LONGEST_REPLY)
        self.places = SharedTable(self._region, places, PLACE_SETS, LONGEST_PLACE)
        self.mounts = SharedTable(self._region, mounts, MOUNT_SETS, LONGEST_MOUNT)
        self.life = life
        self._stripes = [Stripe(self._region.fd, STRIPES_AT + each) for each in range(STRIPES)]
        self._opening = Stripe(self._region.fd, OPENING_AT)
        if life is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, LIVES_AT + life)

    @property
    def opening(self) -> Stripe:
        """Held while a mode is changed to open a file, or by whoever sets a mode; with it nobody
        takes another lock."""
        return self._opening

    @property
    def fd(self) -> int:
        """The descriptor that is handed down to workers."""
        return self._region.fd

    def lives(self, life: int) -> bool:
        """Whether that worker lives."""
        if life == self.life:
            return True
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LIVES_AT + life)
        except OSError:
            return True
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, LIVES_AT + life)
        return False

    # ---- the verifier of writes

    @property
    def verifier(self) -> bytes:
        return self._region.memory[:VERIFIER_SIZE]

    @verifier.setter
    def verifier(self, value: bytes) -> None:
        self._region.memory[:VERIFIER_SIZE] = value

    # ---- locks

    def stripe(self, file: tuple[int, int]) -> Stripe:
        """The lock for a file's (device, inode); another file may have the same."""
        return self._stripes[hash(file) % STRIPES]


class Stripe:
    """A lock among all threads of all workers, to be taken more than once by one thread."""

    __slots__ = ("_at", "_depth", "_fd", "_threads")

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        self._at = at
        self._threads = RLock()
        self._depth = 0

    @property
    def order(self) -> int:
        """Whoever takes several stripes takes them in this order."""
        return self._at

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *failure: object) -> None:
        self.release()

    def acquire(self) -> None:
        self._threads.acquire()
        if not self._depth:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._at)
        self._depth += 1

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._at)
        self._threads.release()
