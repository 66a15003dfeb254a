"""From what a file handle says to an open file: two ways, by one interface.

Theory of operation. A handle must name the same file after a rename, after a restart of the server,
and must not name the next file that gets the inode number.

`KernelLocator` lets the host's kernel do it: name_to_handle_at(2) and open_by_handle_at(2), the
calls made for user-mode servers. They need CAP_DAC_READ_SEARCH and a file system that can be
exported (ext4, xfs, btrfs, tmpfs; not overlayfs as containers have it). `index.IndexLocator` is for
all other cases: a server that does not run as root, above all.

Neither leaves the mount of the export's root: what is mounted below is not served. A server that
looked into a file system that in turn waits for this server would wait for ever.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol

from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.descriptor import Descriptor

__all__ = [
    "DIRECTORY_FLAGS",
    "IDENT_LIMIT",
    "PATH_FLAGS",
    "KernelLocator",
    "Locator",
    "device_and_inode",
]

# Linux has ENOMEM to say not only where memory is short: also while the inode number in a handle is
# given to a new file (iget_locked() of fs/inode.c, which ext4 uses). That is over at once, and then
# the file of the handle is gone.
REUSE_TRIES = 100
IDENT_LIMIT = 39  # bytes: what the rest of a handle leaves of its 64
PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Locator(Protocol):
    """Names open files by identities (bytes), and opens what an identity names.

    Files are given as descriptors, which may be O_PATH. OSError: EACCES for a file on another
    mount, ESTALE for an identity whose file is gone.
    """

    @property
    def root(self) -> bytes:
        """The identity of the export's root."""

    @property
    def root_file(self) -> tuple[int, int]:
        """Device and inode number of the root. It is kept open, so no other directory has them."""

    @property
    def needs_places(self) -> bool:
        """Whether `identify` should be told where a file is after a rename."""

    def identify(self, fd: int, parent: bytes, name: bytes) -> bytes:
        """The identity of what was just opened by this name in the directory `parent`."""

    def identify_ancestor(self, fd: int, inodes: Sequence[int]) -> bytes:
        """The identity of a directory reached from below; `inodes`: the inode numbers on the way
        from the root (without it) down to the directory (with it)."""

    def open(self, identity: bytes) -> int:
        """A new O_PATH descriptor of the file with that identity."""

    def forget(self, identity: bytes) -> None:
        """The file has been removed: do not look for it."""

    def close(self) -> None:
        """Close the root now, and not when the last reference to the locator goes."""


def not_served() -> OSError:
    return OSError(errno.EACCES, "another file system is mounted there, which is not exported")


def device_and_inode(fd: int) -> tuple[int, int]:
    """(st_dev, st_ino): what tells an open file from all others."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class KernelLocator:
    """Lets the host's kernel find files, by its own handles. OSError at once where that cannot
    work."""

    needs_places = False

    def __init__(self, path: str) -> None:
        self._directory = Descriptor(os.open(path, DIRECTORY_FLAGS | os.O_NOFOLLOW))
        try:
            self.root, self._mount = hostcalls.file_handle(self._directory.fd)
            self.root_file = device_and_inode(self._directory.fd)
            self._prove()
        except OSError:
            self.close()
            raise

    def _prove(self) -> None:
        if len(self.root) > IDENT_LIMIT:
            raise OSError(errno.EOVERFLOW, "handles of this file system are too long")
        os.close(self.open(self.root))

    def identify(self, fd: int, parent: bytes, name: bytes) -> bytes:
        identity, mount = hostcalls.file_handle(fd)
        if mount != self._mount:
            raise not_served()
        return identity

    def identify_ancestor(self, fd: int, inodes: Sequence[int]) -> bytes:
        return self.identify(fd, b"", b"")

    def open(self, identity: bytes) -> int:
        for _ in range(REUSE_TRIES):
            try:
                return hostcalls.open_file_handle(self._directory.fd, identity, PATH_FLAGS)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
            os.sched_yield()
        return hostcalls.open_file_handle(self._directory.fd, identity, PATH_FLAGS)

    def forget(self, identity: bytes) -> None:
        pass  # the kernel knows

    def close(self) -> None:
        self._directory.close()
