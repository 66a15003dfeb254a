"""What the workers of one server share, in memory.

    verifier    of writes (RFC 1813 section 3.3.7): what one worker has lost is lost for all
    replies     to calls that may not be done twice: a repeated call may come to another worker
    places      where files were seen last, for servers that find them again by themselves
    mounts      who has mounted what, by MOUNT, which is an advice (RFC 1813 section 5.2.2)
    stripes     locks: what changes a directory is done by one worker at a time
    openings    locks: while a mode is changed to open a file nobody sets it
    lives       which workers live

A worker's life is a number that no other life has. While it lives it has a lock on a byte of the
file, which goes with it.
"""

from __future__ import annotations

import fcntl
from typing import Final

from umktls.kernel.team.mutexes import MUTEX_SIZE, Mutex, mutexes
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
STRIPES = OPENINGS = 1024
# Bytes of the file, behind its end, that are locks and nothing else.
LIVES_AT = 1 << 41


class Shared:
    """See the module. `life`: this worker's; None for who makes it and is no worker."""

    def __init__(self, fd: int | None = None, life: int | None = None) -> None:
        replies = HEAD
        places = replies + SharedTable.size(REPLY_SETS, LONGEST_REPLY)
        mounts = places + SharedTable.size(PLACE_SETS, LONGEST_PLACE)
        stripes = mounts + SharedTable.size(MOUNT_SETS, LONGEST_MOUNT)
        openings = stripes + STRIPES * MUTEX_SIZE
        self._region = Region(openings + OPENINGS * MUTEX_SIZE, fd)
        self.replies = SharedTable(self._region, replies, REPLY_SETS, LONGEST_REPLY)
        self.places = SharedTable(self._region, places, PLACE_SETS, LONGEST_PLACE)
        self.mounts = SharedTable(self._region, mounts, MOUNT_SETS, LONGEST_MOUNT)
        self.life = life
        memory, new = self._region.memory, self._region.new
        self._stripes = mutexes(memory, stripes, STRIPES, new=new)
        self._openings = mutexes(memory, openings, OPENINGS, new=new)
        if life is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, LIVES_AT + life)

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

    def stripe(self, file: tuple[int, int]) -> Mutex:
        """The lock for a file's (device, inode); another file may have the same."""
        return self._stripes[hash(file) % STRIPES]

    def opening(self, file: tuple[int, int]) -> Mutex:
        """The same, held while its mode is changed to open it, or by whoever sets its mode; with it
        nobody takes another lock."""
        return self._openings[hash(file) % OPENINGS]
