"""Who has mounted what, as MOUNT's DUMP lists it: an advice, which clients need not keep true.

A server that is alone remembers it for itself; the workers of one server remember it together,
since a client may be answered by any of them.
"""

from __future__ import annotations

from threading import Lock
from typing import Protocol

from umktls.kernel.team.sharedtable import SharedTable, digest

__all__ = ["LocalMounts", "Mounts", "SharedMounts"]

KEPT_MOUNTS = 256


class Mounts(Protocol):
    """Pairs of a host and a directory."""

    def add(self, host: bytes, directory: bytes) -> None: ...

    def drop(self, host: bytes, directory: bytes) -> None: ...

    def drop_all(self, host: bytes) -> None: ...

    def all(self) -> list[tuple[bytes, bytes]]: ...


class LocalMounts:
    """Of a server that is alone: the latest KEPT_MOUNTS."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._mounts: dict[tuple[bytes, bytes], None] = {}

    def add(self, host: bytes, directory: bytes) -> None:
        with self._lock:
            self._mounts[host, directory] = None
            if len(self._mounts) > KEPT_MOUNTS:
                del self._mounts[next(iter(self._mounts))]

    def drop(self, host: bytes, directory: bytes) -> None:
        with self._lock:
            self._mounts.pop((host, directory), None)

    def drop_all(self, host: bytes) -> None:
        with self._lock:
            self._mounts = {mount: None for mount in self._mounts if mount[0] != host}

    def all(self) -> list[tuple[bytes, bytes]]:
        with self._lock:
            return list(self._mounts)


class SharedMounts:
    """Of the workers of one server. A host is an address, which has no byte of zero."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table

    def add(self, host: bytes, directory: bytes) -> None:
        self._table.put(digest(host, directory), host + b"\0" + directory)

    def drop(self, host: bytes, directory: bytes) -> None:
        self._table.delete(digest(host, directory))

    def drop_all(self, host: bytes) -> None:
        for mount in self.all():
            if mount[0] == host:
                self.drop(*mount)

    def all(self) -> list[tuple[bytes, bytes]]:
        found = []
        for value in self._table.values():
            host, _, directory = value.partition(b"\0")
            found.append((host, directory))
        return found
