"""A table in memory that several processes share: small values by keys, the oldest ones forgotten.

Theory of operation. The memory is a file without a name (memfd_create(2)), which is handed down to
the processes. It has sets of WAYS slots. A key is a digest of 16 bytes, which chooses a set; of the
set, the slot that was written the longest ago makes room for a new key. A set is

    WAYS digests | WAYS stamps (u64) | WAYS lengths (u32) | WAYS values

Each set has a lock: an advisory one on a byte of the file (fcntl_locking(2)), since the system
gives it back when its holder dies, whatever that one was doing. (One lock for all would have
workers wait for each other, and for the processor when its holder has lost that.) A slot that is
being written has no digest until all of it is there, so half a value is never seen. Within a
process such a lock excludes nobody; for its threads there is one of Python's beside it. The last
stamp belongs to no set: two that write at once may have the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

__all__ = ["Region", "SharedTable", "byte_lock", "digest"]

WAYS = 16
KEY = 16
STAMPS = WAYS * KEY
LENGTHS = STAMPS + WAYS * 8
VALUES = LENGTHS + WAYS * 4
NOTHING = bytes(KEY)
STAMP = struct.Struct("<Q")
LENGTH = struct.Struct("<I")
ALL_STAMPS = struct.Struct(f"<{WAYS}Q")


def digest(*parts: bytes) -> bytes:
    """A key for these bytes, together."""
    made = hashlib.blake2b(digest_size=KEY)
    for part in parts:
        made.update(len(part).to_bytes(4, "big"))
        made.update(part)
    return made.digest()


@contextmanager
def byte_lock(fd: int, offset: int) -> Iterator[None]:
    """Inside the block no other process has that byte of the file."""
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, offset)
    try:
        yield
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, offset)


class Region:
    """A file in memory, mapped. It is not closed before the process ends: closing any descriptor
    of a file gives all the process's locks on it back."""

    def __init__(self, size: int, fd: int | None = None) -> None:
        """`fd`: one that another process has made, of the same size; None: a new one, of zeros."""
        if fd is None:
            fd = os.memfd_create("umktls")
            os.ftruncate(fd, size)
        self.fd = fd
        self.memory = mmap.mmap(fd, size)


class SharedTable:
    """`sets` times WAYS values of at most `longest` bytes, in a region from `offset` on."""

    def __init__(self, region: Region, offset: int, sets: int, longest: int) -> None:
        self._region = region
        self._memory = region.memory
        self._begin = offset + STAMP.size  # behind the last stamp that was given
        self._offset = offset
        self._sets = sets
        self._longest = longest
        self._set_size = VALUES + WAYS * longest
        self._threads = RLock()
        self._depth = 0

    @staticmethod
    def size(sets: int, longest: int) -> int:
        """What a table takes of a region, in bytes."""
        return STAMP.size + sets * (VALUES + WAYS * longest)

    @contextmanager
    def locked(self, key: bytes) -> Iterator[None]:
        """Inside the block nobody else reads or changes what the key has. May be nested, for the
        same key."""
        with self._locked_at(self._base(key)):
            yield

    @contextmanager
    def _locked_at(self, base: int) -> Iterator[None]:
        with self._threads:
            if self._depth:
                yield
                return
            self._depth = 1
            try:
                with byte_lock(self._region.fd, base):
                    yield
            finally:
                self._depth = 0

    def get(self, key: bytes) -> bytes | None:
        """The value; None if there is none (any more)."""
        with self.locked(key):
            base, way = self._find(key)
            return None if way is None else self._value(base, way)

    def put(self, key: bytes, value: bytes) -> bool:
        """Have this value for the key; whether it is short enough."""
        if len(value) > self._longest:
            self.delete(key)
            return False
        with self.locked(key):
            base, way = self._find(key)
            if way is None:
                stamps = ALL_STAMPS.unpack_from(self._memory, base + STAMPS)
                way = stamps.index(min(stamps))
            self._write(base, way, key, value)
        return True

    def delete(self, key: bytes) -> None:
        """Have no value for the key."""
        with self.locked(key):
            base, way = self._find(key)
            if way is not None:
                self._empty(base, way)
                STAMP.pack_into(self._memory, base + STAMPS + way * 8, 0)

    def values(self) -> list[bytes]:
        """All values, the oldest first."""
        found = []
        for number in range(self._sets):
            base = self._begin + number * self._set_size
            with self._locked_at(base):
                for way in range(WAYS):
                    if self._memory[base + way * KEY : base + (way + 1) * KEY] != NOTHING:
                        (stamp,) = STAMP.unpack_from(self._memory, base + STAMPS + way * 8)
                        found.append((stamp, self._value(base, way)))
        return [value for _, value in sorted(found)]

    def _base(self, key: bytes) -> int:
        """Where the key's set begins."""
        return self._begin + int.from_bytes(key[:8], "little") % self._sets * self._set_size

    def _find(self, key: bytes) -> tuple[int, int | None]:
        """Where the key's set begins, and its slot."""
        at = base = self._base(key)
        while (at := self._memory.find(key, at, base + STAMPS)) >= 0:
            if not (at - base) % KEY:
                return base, (at - base) // KEY
            at += 1
        return base, None

    def _value(self, base: int, way: int) -> bytes:
        (length,) = LENGTH.unpack_from(self._memory, base + LENGTHS + way * 4)
        begin = base + VALUES + way * self._longest
        return self._memory[begin : begin + length]

    def _empty(self, base: int, way: int) -> None:
        self._memory[base + way * KEY : base + (way + 1) * KEY] = NOTHING

    def _write(self, base: int, way: int, key: bytes, value: bytes) -> None:
        self._empty(base, way)
        begin = base + VALUES + way * self._longest
        self._memory[begin : begin + len(value)] = value
        LENGTH.pack_into(self._memory, base + LENGTHS + way * 4, len(value))
        stamp = STAMP.unpack_from(self._memory, self._offset)[0] + 1
        STAMP.pack_into(self._memory, self._offset, stamp)
        STAMP.pack_into(self._memory, base + STAMPS + way * 8, stamp)
        self._memory[base + way * KEY : base + (way + 1) * KEY] = key
