"""Finding files again without the kernel's help.

Theory of operation. An identity is the inode number and eight bytes that change when the number is
used again: a digest of the kernel's handle, which anybody may ask for, or else (overlayfs before
Linux 6.6) of the time of birth, which is as good as the file system's clock is fine. To find the
file again the locator looks, in this order,

  1. at the place where it was last seen (directory and name, remembered for the latest 65,536);
  2. along a trail that is part of the handle: one byte for each directory on the way from the
     export's root at the time when the handle was made, a hash of its inode number. Only
     directories with that hash are descended into, so a restarted server finds a file by reading
     the directories on the way to it. Names do not matter: renaming a directory in place breaks no
     trail;
  3. everywhere in the export: needed only for what was moved to another directory behind the
     server's back or before a restart, and to be sure that a file is gone.

A handle once given for a file stays the same while the file is remembered, wherever it is moved.
What was looked for in vain is remembered too, until something of that identity is seen again.

The last of these costs as much as the export has files, and anybody can have it done for the handle
of a file that is gone. So one thread does it at a time, for its own file and for WANTED_LIMIT more
that were asked for until then; whoever comes meanwhile is told to come again (EAGAIN, which is
NFS3ERR_JUKEBOX). And when it took long, it is not done again before REST times as long have passed:
a fifth of one thread at most, whatever there is to be looked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple, TypeVar

from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.descriptor import Descriptor
from umktls.nfsd.tree.locate import (
    DIRECTORY_FLAGS,
    IDENT_LIMIT,
    PATH_FLAGS,
    device_and_inode,
    not_served,
)
from umktls.nfsd.tree.places import KEY_LENGTH, LocalPlaces, MakePlaces, Place

__all__ = ["IndexLocator"]

TRAIL_LIMIT = IDENT_LIMIT - KEY_LENGTH
# So many files wait to be looked for in the next search through everything.
WANTED_LIMIT = 4096
# A search through everything that took longer than QUICK seconds is followed by a rest, REST times
# as long.
QUICK, REST = 0.2, 4
# Places are followed so far up: they may lead round, when directories have changed places.
DEPTH_LIMIT = 4096
ABSENT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ESTALE,
        errno.EACCES,
        errno.EPERM,
        errno.EXDEV,
    }
)

Path = tuple[bytes, ...]  # names from the root down


class _Branch(NamedTuple):
    """A directory still to be searched, and how to go on from there."""

    path: Path
    trail: bytes | None  # None: look everywhere below


class _Entry(NamedTuple):
    name: bytes
    inode: int
    is_directory: bool


class IndexLocator:
    """Finds files by remembered places, by trails, and by search."""

    needs_places = True

    def __init__(self, path: str, places: MakePlaces = LocalPlaces) -> None:
        """places: makes what remembers where files are, for the identity of the root."""
        self._directory = Descriptor(os.open(path, PATH_FLAGS | os.O_DIRECTORY))
        self.root_file = device_and_inode(self._directory.fd)
        self._lock = Lock()
        self._wanted: dict[bytes, bytes] = {}  # keys to be looked for everywhere, with their trails
        self._searching = Lock()
        self._rested = 0.0  # from then on (monotonic clock) it may be searched again
        self._distinguish = _distinguisher(self._directory.fd)
        _, self._mount = self._distinguish(self._directory.fd)
        self.root = self._key(self._directory.fd)
        self._places = places(self.root)

    def close(self) -> None:
        self._directory.close()

    def _key(self, fd: int) -> bytes:
        distinction, mount = self._distinguish(fd)
        if mount != self._mount:
            raise not_served()
        digest = hashlib.blake2s(distinction, digest_size=8).digest()
        return os.fstat(fd).st_ino.to_bytes(8, "big") + digest

    def identify(self, fd: int, parent: bytes, name: bytes) -> bytes:
        key = self._key(fd)
        if key == self.root:
            return key
        return key + self._remember(key, parent[:KEY_LENGTH], name, self._trail_below(parent))

    def identify_ancestor(self, fd: int, inodes: Sequence[int]) -> bytes:
        key = self._key(fd)
        if key == self.root:
            return key
        place = self._places.get(key)
        return key + (place.trail if place else bytes(map(_mark, inodes[:-1]))[:TRAIL_LIMIT])

    def _trail_below(self, identity: bytes) -> bytes:
        """The trail of what is in this directory."""
        if identity == self.root:
            return b""
        mark = _mark(int.from_bytes(identity[:8], "big"))
        return (identity[KEY_LENGTH:] + bytes([mark]))[:TRAIL_LIMIT]

    def _remember(self, key: bytes, parent: bytes, name: bytes, trail: bytes) -> bytes:
        """Note the place; returns the trail that goes into the handle."""
        return self._places.remember(key, Place(parent, name, trail))

    def forget(self, identity: bytes) -> None:
        self._places.forget(identity[:KEY_LENGTH])

    def open(self, identity: bytes) -> int:
        key, trail = identity[:KEY_LENGTH], identity[KEY_LENGTH:]
        if key == self.root:
            return os.open(".", PATH_FLAGS, dir_fd=self._directory.fd)
        if self._places.gone(key):
            raise _stale()
        remembered = self._remembered(key)
        fd = self._open_if(key, remembered) if remembered else None
        return self._find(key, trail) if fd is None else fd

    def _remembered(self, key: bytes) -> Path | None:
        names: list[bytes] = []
        while key != self.root:
            place = self._places.get(key)
            if place is None or len(names) >= DEPTH_LIMIT:
                return None
            names.append(place.name)
            key = place.parent
        return tuple(reversed(names))

    def _find(self, key: bytes, trail: bytes) -> int:
        for path, _ in self._search({_inode(key)}, trail):
            fd = self._open_if(key, path)
            if fd is not None:
                self._note(path, trail)
                return fd
        found = self._search_everywhere(key, trail)
        fd = self._open_if(key, found) if found else None
        if fd is None:
            raise _stale()
        return fd

    def _search_everywhere(self, key: bytes, trail: bytes) -> Path | None:
        """Look for this, and for all that is wanted: each is remembered afterwards, or gone. Where
        this one is; OSError EAGAIN if it has to wait."""
        began = time.monotonic()
        if began < self._rested or not self._searching.acquire(blocking=False):
            with self._lock:
                if len(self._wanted) < WANTED_LIMIT:
                    self._wanted[key] = trail
            raise OSError(errno.EAGAIN, "too much is looked for at present")
        try:
            with self._lock:
                wanted, self._wanted = self._wanted, {}
            return self._find_all({**wanted, key: trail}).get(key)
        finally:
            took = time.monotonic() - began
            self._rested = began + (1 + REST) * took if took > QUICK else 0.0
            self._searching.release()

    def _find_all(self, wanted: dict[bytes, bytes]) -> dict[bytes, Path]:
        """One walk for these keys (with the trails of their handles); where they are."""
        found: dict[bytes, Path] = {}
        numbers: dict[int, list[bytes]] = {}
        for key in wanted:
            numbers.setdefault(_inode(key), []).append(key)
        for path, inode in self._search(set(numbers), None):
            for key in numbers[inode]:
                fd = self._open_if(key, path)
                if fd is not None:
                    os.close(fd)
                    self._note(path, wanted[key])
                    found[key] = path  # again, if it has another name
                    break
            if len(found) == len(wanted):
                return found
        for key in wanted.keys() - found.keys():
            self.forget(key)
        return found

    def _search(self, inodes: set[int], trail: bytes | None) -> Iterator[tuple[Path, int]]:
        """(path, inode number) of the entries that have one of these numbers, along a trail or
        everywhere."""
        branches = [_Branch((), trail)]
        problem: OSError | None = None
        while branches:
            branch = branches.pop()
            try:
                entries = self._entries(branch.path)
            except OSError as error:
                problem = problem or error
                continue
            for entry in entries:
                path = (*branch.path, entry.name)
                if not branch.trail and entry.inode in inodes:
                    yield path, entry.inode
                if entry.is_directory and _leads_to(branch.trail, entry.inode):
                    branches.append(_Branch(path, _rest(branch.trail, len(path))))
        if problem is not None:
            raise problem

    def _entries(self, path: Path) -> list[_Entry]:
        """What is in a directory; nothing if it is away, closed to us, or on another mount."""
        fd = self._reach(path)
        if fd is None:
            return []
        try:
            self._key(fd)
            return _read_directory(fd)
        except OSError as error:
            return absent(error, [])
        finally:
            os.close(fd)

    def _reach(self, path: Path) -> int | None:
        """Open a path below the root, one name at a time so that no symbolic link is followed."""
        fd = os.open(".", PATH_FLAGS, dir_fd=self._directory.fd)
        for name in path:
            try:
                below = os.open(name, PATH_FLAGS, dir_fd=fd)
            except OSError as error:
                return absent(error, None)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _open_if(self, key: bytes, path: Path) -> int | None:
        """Open a path if it is the file with this key."""
        fd = self._reach(path)
        if fd is not None:
            found = False
            try:
                found = self._key(fd) == key
            except OSError as error:
                absent(error, None)  # another mount is there now
            finally:
                if not found:
                    os.close(fd)
            return fd if found else None
        return None

    def _note(self, path: Path, trail: bytes) -> None:
        """Remember the way to what was found: the directories on it, then the file itself."""
        parent = self.root
        for depth, name in enumerate(path, 1):
            fd = self._reach(path[:depth])
            if fd is None:
                return
            try:
                key = self._key(fd)
            finally:
                os.close(fd)
            way = trail if depth == len(path) else self._trail_below(parent)
            parent = key + self._remember(key, parent[:KEY_LENGTH], name, way)


Nothing = TypeVar("Nothing")


def absent(error: OSError, nothing: Nothing) -> Nothing:
    """`nothing`, if the error says that what was looked for is not there, or closed to us.

    Raises it otherwise: a file that could not be looked for is not gone.
    """
    if error.errno in ABSENT:
        return nothing
    raise error


def _distinguisher(fd: int) -> Callable[[int], tuple[bytes, int]]:
    """A function that tells, of an open file, bytes that change when its inode number is used
    again, and its mount."""
    for flags in (0, hostcalls.AT_HANDLE_FID):
        distinguish = partial(hostcalls.file_handle, flags=flags)
        try:
            distinguish(fd)
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOMEM):  # says nothing of the file system
                raise
        else:
            return distinguish
    return hostcalls.birth


def _inode(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _read_directory(fd: int) -> list[_Entry]:
    readable = os.open(".", DIRECTORY_FLAGS, dir_fd=fd)
    try:
        with os.scandir(readable) as entries:
            return [
                _Entry(os.fsencode(entry.name), entry.inode(), entry.is_dir(follow_symlinks=False))
                for entry in entries
            ]
    finally:
        os.close(readable)


def _mark(inode: int) -> int:
    """One byte that stands for a directory in a trail."""
    return (inode * 0x9E3779B97F4A7C15 >> 56) & 0xFF


def _leads_to(trail: bytes | None, inode: int) -> bool:
    return trail is None or (trail != b"" and trail[0] == _mark(inode))


def _rest(trail: bytes | None, depth: int) -> bytes | None:
    """The trail behind its first mark. One of full length may have been cut: search behind it."""
    if trail is None or (len(trail) == 1 and depth == TRAIL_LIMIT):
        return None
    return trail[1:]
