"""Where the files were seen last that a server finds again by itself (index.py).

A server that is alone remembers it for itself. The workers of one server remember it together: a
handle has to be the same whoever makes it, wherever its file was moved meanwhile, and a file that
one worker has shown the others have to find.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol

from umktls.kernel.team.sharedtable import SharedTable, digest

__all__ = ["KEY_LENGTH", "LocalPlaces", "MakePlaces", "Place", "Places", "shared_places"]

KEY_LENGTH = 16
PLACES_LIMIT = 65536
GONE_LIMIT = 65536


class Place(NamedTuple):
    """Where a file was seen last, and the trail that is in its handle."""

    parent: bytes  # the directory's key
    name: bytes
    trail: bytes


class Places(Protocol):
    """Places by keys, which are KEY_LENGTH bytes long."""

    def get(self, key: bytes) -> Place | None: ...

    def gone(self, key: bytes) -> bool:
        """Whether it was looked for in vain, or removed, and has not been seen since."""

    def remember(self, key: bytes, place: Place) -> bytes:
        """Note the place; the trail that goes into the handle, which is the one that was known."""

    def forget(self, key: bytes) -> None:
        """Note that the file is gone."""


# For the identity of an export's root.
MakePlaces = Callable[[bytes], Places]


class LocalPlaces:
    """The places of a server that is alone: the latest PLACES_LIMIT."""

    def __init__(self, root: bytes) -> None:
        self._lock = Lock()
        self._places: dict[bytes, Place] = {}
        self._gone: dict[bytes, None] = {}

    def get(self, key: bytes) -> Place | None:
        return self._places.get(key)

    def gone(self, key: bytes) -> bool:
        return key in self._gone

    def remember(self, key: bytes, place: Place) -> bytes:
        with self._lock:
            known = self._places.pop(key, None)
            if known:
                place = place._replace(trail=known.trail)
            self._places[key] = place
            self._gone.pop(key, None)
            if len(self._places) > PLACES_LIMIT:
                del self._places[next(iter(self._places))]
        return place.trail

    def forget(self, key: bytes) -> None:
        with self._lock:
            self._places.pop(key, None)
            self._gone[key] = None
            if len(self._gone) > GONE_LIMIT:
                del self._gone[next(iter(self._gone))]


GONE = b""


class SharedPlaces:
    """The places of a server of several workers, for all its exports: in a table that these
    share."""

    def __init__(self, table: SharedTable, root: bytes) -> None:
        self._table = table
        self._root = root

    def get(self, key: bytes) -> Place | None:
        value = self._table.get(digest(self._root, key))
        return decoded(value) if value else None

    def gone(self, key: bytes) -> bool:
        return self._table.get(digest(self._root, key)) == GONE

    def remember(self, key: bytes, place: Place) -> bytes:
        name = digest(self._root, key)
        with self._table.locked(name):
            value = self._table.get(name)
            if value:
                place = place._replace(trail=decoded(value).trail)
            encoded = place.parent + bytes([len(place.trail)]) + place.trail + place.name
            if encoded != value:
                self._table.put(name, encoded)
        return place.trail

    def forget(self, key: bytes) -> None:
        self._table.put(digest(self._root, key), GONE)


def shared_places(table: SharedTable) -> MakePlaces:
    return partial(SharedPlaces, table)


def decoded(value: bytes) -> Place:
    parent, length = value[:KEY_LENGTH], value[KEY_LENGTH]
    behind = KEY_LENGTH + 1 + length
    return Place(parent, value[behind:], value[KEY_LENGTH + 1 : behind])
