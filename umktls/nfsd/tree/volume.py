"""An export as it is served: its root, its locator, and its part of the file handles.

Theory of operation. A handle (at most 64 bytes) is

    format (1 byte) | fsid of the export (8) | authenticator (16) | identity (up to 39)

The identity is the locator's and names the file on this host. The authenticator is a keyed BLAKE2s
of all the rest; its key comes from the server's secret, the export's path and the identity of its
root. So nobody can make a handle that this server did not give, a handle that was given for one
root is worth nothing for another that came in its place, and handles are good for as long as the
secret is kept. (As with the servers of kernels, a file that somebody on this host moves out of the
export stays within reach of those who have its handle.)
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from umktls.kernel.host.mountinfo import file_system
from umktls.nfs.basic import NFS3_FHSIZE
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.locate import (
    IDENT_LIMIT,
    PATH_FLAGS,
    KernelLocator,
    Locator,
    device_and_inode,
)
from umktls.nfsd.tree.places import LocalPlaces, MakePlaces

__all__ = ["HEAD_LENGTH", "Seal", "Volume", "best_locator"]

FORMAT = 1
HEAD_LENGTH = 9
AUTHENTICATOR_LENGTH = 16
IDENTITY_START = HEAD_LENGTH + AUTHENTICATOR_LENGTH
assert IDENTITY_START + IDENT_LIMIT == NFS3_FHSIZE

DEPTH_LIMIT = 4096
# File systems that have nothing but memory: there fsync(2) has nothing to do.
IN_MEMORY = ("tmpfs", "ramfs")
# Errors that say nothing of what a file system can do.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def best_locator(path: str, places: MakePlaces = LocalPlaces) -> Locator:
    """The better of the two locators that work for this directory.

    OSError if it could not be found out: with another locator all handles would be others.
    """
    try:
        return KernelLocator(path)
    except OSError as error:
        if error.errno in PASSING:
            raise
        return IndexLocator(path, places)


def in_memory(device: int) -> bool:
    """Whether files with this st_dev are on no disk, as far as that can be found out."""
    with suppress(OSError):
        return file_system(device) in IN_MEMORY
    return False


class Seal:
    """Makes the handles of one export, and knows them again."""

    __slots__ = ("_authenticator", "head")

    def __init__(self, head: bytes, secret: bytes, place: bytes) -> None:
        self.head = head
        key = hashlib.blake2s(place, key=secret, person=b"handles").digest()
        self._authenticator = hashlib.blake2s(head, key=key, digest_size=AUTHENTICATOR_LENGTH)

    def _authenticate(self, identity: bytes) -> bytes:
        authenticator = self._authenticator.copy()
        authenticator.update(identity)
        return authenticator.digest()

    def handle(self, identity: bytes) -> bytes:
        return self.head + self._authenticate(identity) + identity

    def fits(self, handle: bytes) -> bool:
        """Whether a handle from a client that has this head was made with this seal."""
        given = handle[HEAD_LENGTH:IDENTITY_START]
        return hmac.compare_digest(given, self._authenticate(handle[IDENTITY_START:]))


# From a file's (device, inode) to a lock.
Opening = Callable[[tuple[int, int]], AbstractContextManager[object]]


class Volume:
    """See the head of this file. `secret`: at least 16 bytes, the same for handles to stay good.
    `opening` gives a file's lock, held while its mode is changed to open it, or by SETATTR.
    `in_memory`: it is on no disk, and with the root, which is kept open, neither are its files:
    others are not served."""

    def __init__(
        self,
        export: Export,
        secret: bytes,
        locator: Locator,
        opening: Opening,
    ) -> None:
        self.export = export
        self.opening = opening
        self.locator = locator
        self.head = bytes([FORMAT]) + export.fsid.to_bytes(8, "big")
        place = os.fsencode(export.path) + b"\0" + locator.root
        self.sealing = Seal(self.head, secret, place)
        self.root_handle = self.seal(locator.root)
        self.root_file = locator.root_file
        self.in_memory = in_memory(self.root_file[0])
        # From st_dev to the fsid, modulo 2**64: a mount may have several devices (subvolumes), each
        # with its own inodes.
        self.fsid_shift = export.fsid - self.root_file[0]

    def is_of(self, export: Export) -> bool:
        """Whether an export is this directory, and not another that is at its path by now."""
        if (export.path, export.fsid) != (self.export.path, self.export.fsid):
            return False
        # The path had no symbolic links when the export was made: one that is there now is not it.
        root = os.lstat(export.path)
        return self.root_file == (root.st_dev, root.st_ino)

    def seal(self, identity: bytes) -> bytes:
        """The handle for a file."""
        return self.sealing.handle(identity)

    def identity(self, handle: bytes) -> bytes:
        """The identity in a handle that this volume has sealed."""
        return handle[IDENTITY_START:]

    def inodes_down_to(self, fd: int) -> list[int]:
        """The inode numbers from below the root down to a directory, and with it.

        OSError ESTALE for a directory outside the export: somebody has moved it, or the directory
        from which it was reached by "..", away.
        """
        inodes: list[int] = []
        fd = os.dup(fd)
        try:
            while (file := device_and_inode(fd)) != self.root_file:
                above = os.open("..", PATH_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = above
                if len(inodes) >= DEPTH_LIMIT or device_and_inode(fd) == file:
                    raise OSError(errno.ESTALE, "outside the export")
                inodes.append(file[1])
        finally:
            os.close(fd)
        return inodes[::-1]
