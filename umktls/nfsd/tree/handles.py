"""The files behind the handles: a table of open files.

A handle that this server did not make is BADHANDLE; one whose file is gone is STALE, and so is one
of a directory that was exported before and is not any more, or was replaced by another.

The table is of limited size, and drops what was used least recently. A descriptor is closed when
nobody holds it any more, neither the table nor a call that runs in another thread. An open file
keeps its space on the disk even when it is removed: so files that a call removes are dropped at
once, and those that are removed behind the server's back by `expire`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Lock

from umktls.nfs.basic import nfsstat3
from umktls.nfsd.tree.descriptor import READ, WRITE, Descriptor
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.volume import HEAD_LENGTH, Seal, Volume

__all__ = ["OPEN_FLAGS", "TYPE_BITS", "Handles", "Node", "living"]

FORMER_LIMIT = 16  # directories that an export was before and is not any more
OPEN_FLAGS = {
    READ: os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC,
    WRITE: os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC,
}


def living(status: os.stat_result) -> os.stat_result:
    """The same; OSError ESTALE if it is of a file that has been removed."""
    if not status.st_nlink:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return status


TYPE_BITS = 0o170000  # what stat.S_IFMT leaves of a mode


def has_names(fd: int) -> bool:
    """Whether an open file has a name left. The call that asks has done its work: a file system
    that cannot tell has not said no."""
    try:
        return os.fstat(fd).st_nlink > 0
    except OSError:
        return True


class Node:
    """A file that somebody has a handle of."""

    __slots__ = ("_anchor", "_data", "fd", "file", "handle", "type", "used", "volume")

    def __init__(
        self, volume: Volume, handle: bytes, descriptor: Descriptor, status: os.stat_result
    ) -> None:
        self.volume = volume
        self.handle = handle
        self._anchor = descriptor
        self._data = descriptor
        self.fd = descriptor.fd  # for fstat and *at() calls; good while the node is held
        self.file = status.st_dev, status.st_ino
        self.type = status.st_mode & TYPE_BITS
        self.used = time.monotonic()

    @property
    def identity(self) -> bytes:
        return self.volume.identity(self.handle)

    @property
    def is_root(self) -> bool:
        return self.handle == self.volume.root_handle

    @property
    def path(self) -> str:
        """A path to this very file, whatever its names are now (proc_pid_fd(5))."""
        return f"/proc/self/fd/{self.fd}"

    def stat(self) -> os.stat_result:
        """fstat; OSError ESTALE when the file has been removed."""
        status = os.fstat(self.fd)
        return status if status.st_nlink else living(status)

    def open(self, access: int) -> Descriptor:
        """A descriptor to READ or WRITE a regular file by, with the rights of the server itself."""
        descriptor = self._data
        if descriptor.access < access:
            descriptor = Descriptor(self._open(access), access)
            self.offer(descriptor)
        return descriptor

    def offer(self, descriptor: Descriptor) -> None:
        """Keep a descriptor of this file if it is good for more than the present one."""
        if descriptor.access > self._data.access:
            self._data = descriptor

    def _open(self, access: int) -> int:
        try:
            return os.open(self.path, OPEN_FLAGS[access])
        except PermissionError:
            with self.volume.opening(self.file):
                status = self.stat()
                if status.st_uid != os.geteuid():
                    raise
                return self._open_as_owner(access, stat.S_IMODE(status.st_mode))

    def _open_as_owner(self, access: int, mode: int) -> int:
        """Open a file of one's own whose mode does not allow it, for a server that is not root.

        Whoever has a file open may use it whatever its mode becomes; a server is not told of
        opening, so it lets the owner read and write at any time.
        """
        os.chmod(self.path, mode | stat.S_IRUSR | stat.S_IWUSR)
        try:
            return os.open(self.path, OPEN_FLAGS[access])
        finally:
            os.chmod(self.path, mode)


class Handles:
    """The table. `capacity`: how many files are kept open at most. `current`: where others give
    handles too, what is at a volume's path by now; OSError if nothing is."""

    def __init__(
        self,
        volumes: Iterable[Volume],
        capacity: int,
        current: Callable[[Volume], Volume] | None = None,
    ) -> None:
        self._capacity = capacity
        self._current = current
        self._lock = Lock()
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()
        self._by_file: dict[tuple[int, int], list[Node]] = {}
        self._volumes = {volume.head: volume for volume in volumes}
        self.may_search = self._may_search()
        self._former: dict[bytes, deque[Seal]] = {}

    def set_volumes(self, volumes: Sequence[Volume]) -> None:
        """Files of other volumes than these are stale from now on."""
        with self._lock:
            served = set(volumes)
            for volume in set(self._volumes.values()) - served:
                seals = self._former.setdefault(volume.head, deque(maxlen=FORMER_LIMIT))
                seals.append(volume.sealing)
            self._volumes = {volume.head: volume for volume in served}
            self.may_search = self._may_search()
            for node in [node for node in self._nodes.values() if node.volume not in served]:
                self._drop(node)

    def _may_search(self) -> bool:
        """Whether there is a volume in which files may have to be searched for."""
        return any(volume.locator.needs_places for volume in self._volumes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def volume(self, handle: bytes) -> Volume | None:
        """The volume that a handle from a client says it is of; None if that is not exported."""
        return self._volumes.get(handle[:HEAD_LENGTH])

    def in_memory(self, handle: bytes) -> bool:
        """Whether the file of a handle is on no disk."""
        volume = self._volumes.get(handle[:HEAD_LENGTH])
        return volume is not None and volume.in_memory

    def searches(self, handle: bytes) -> bool:
        """Whether to find the file of a handle may take a search of the whole export."""
        volume = self._volumes.get(handle[:HEAD_LENGTH])
        return (
            volume is not None
            and volume.locator.needs_places
            and handle not in self._nodes
            and handle != volume.root_handle
        )

    def node(self, handle: bytes) -> Node:
        """The file of a handle from a client; NfsError BADHANDLE, OSError ESTALE."""
        with self._lock:
            node = self._nodes.get(handle)
            if node is not None:
                self._nodes.move_to_end(handle)
                node.used = time.monotonic()
                return node
        return self._open_untrusted(handle)

    def _open_untrusted(self, handle: bytes) -> Node:
        head = handle[:HEAD_LENGTH]
        volume = self._volumes.get(head)
        if volume is None or not volume.sealing.fits(handle):
            if any(seal.fits(handle) for seal in self._former.get(head, ())):
                raise OSError(errno.ESTALE, "not exported any more")
            volume = self._looked_again(volume, handle)
        identity = volume.identity(handle)
        descriptor = Descriptor(volume.locator.open(identity))
        return self._enter(volume, handle, descriptor, os.fstat(descriptor.fd))

    def _looked_again(self, volume: Volume | None, handle: bytes) -> Volume:
        """The volume of a handle that was made by another worker, for a directory that has come in
        the place of the one that is known here. NfsError BADHANDLE for any other."""
        if volume is not None and self._current is not None:
            with suppress(OSError):
                volume = self._current(volume)
                if volume.sealing.fits(handle):
                    return volume
        raise NfsError(nfsstat3.NFS3ERR_BADHANDLE)

    def adopt(
        self, directory: Node, name: bytes, descriptor: Descriptor
    ) -> tuple[Node, os.stat_result]:
        """The node of a file just opened by `name` in `directory`, and what stat(2) says of it,
        which may be that it has been removed since."""
        handle = self.issue(directory, name, descriptor.fd)  # before a file system is asked
        status = os.fstat(descriptor.fd)
        return self._enter(directory.volume, handle, descriptor, status), status

    def issue(self, directory: Node, name: bytes, fd: int) -> bytes:
        """The handle of a file just opened by `name` in `directory`, without keeping it open."""
        volume = directory.volume
        return volume.seal(volume.locator.identify(fd, directory.identity, name))

    def adopt_above(self, volume: Volume, descriptor: Descriptor) -> Node:
        """The node of a directory just opened by ".."; OSError ESTALE if that led outside."""
        inodes = volume.inodes_down_to(descriptor.fd)
        identity = volume.locator.identify_ancestor(descriptor.fd, inodes)
        status = os.fstat(descriptor.fd)
        return self._enter(volume, volume.seal(identity), descriptor, status)

    def _enter(
        self, volume: Volume, handle: bytes, descriptor: Descriptor, status: os.stat_result
    ) -> Node:
        nodes = self._nodes
        with self._lock:
            if self._volumes.get(volume.head) is not volume:
                raise OSError(errno.ESTALE, "not exported any more")
            node = nodes.get(handle)
            if node is not None:
                node.offer(descriptor)
                return node
            node = nodes[handle] = Node(volume, handle, descriptor, status)
            same = self._by_file.get(node.file)
            if same is None:
                self._by_file[node.file] = [node]
            else:
                same.append(node)
            if len(nodes) > self._capacity:
                self._drop(next(iter(nodes.values())))
        return node

    def _drop(self, node: Node) -> None:
        del self._nodes[node.handle]
        same = self._by_file[node.file]
        same.remove(node)
        if not same:
            del self._by_file[node.file]

    def removed(self, file: tuple[int, int]) -> None:
        """A name of this (device, inode) was removed: let it go if it was the last."""
        if file not in self._by_file:
            return
        with self._lock:
            for node in self._by_file.get(file, [])[:]:
                if not has_names(node.fd):
                    self._drop(node)
                    node.volume.locator.forget(node.identity)

    def expire(self, idle: float) -> None:
        """Close the files that no call has used for `idle` seconds."""
        oldest = time.monotonic() - idle
        with self._lock:
            while self._nodes:
                node = next(iter(self._nodes.values()))
                if node.used > oldest:
                    break
                self._drop(node)

    def clear(self) -> None:
        with self._lock:
            self._nodes.clear()
            self._by_file.clear()
