"""A table in memory that several processes share: small values by keys, the oldest ones forgotten.

Theory of operation. The memory is a file without a name (memfd_create(2)), which is handed down to
the processes. It has sets of WAYS slots. A key is a digest of 16 bytes, which chooses a set; of the
set, the slot that was written the longest ago makes room for a new key. A set is

    WAYS digests | WAYS stamps (u64) | WAYS lengths (u32) | WAYS values

Each set has a lock (mutexes.py), which the system gives back when its holder dies, whatever that
one was doing; of many sets some have one in common. (One for all would have workers wait for each
other, and for the processor when its holder has lost that.) A slot that is being written has no
digest until all of it is there, so half a value is never seen. The last stamp belongs to no set:
two that write at once may have the same.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct

from umktls.kernel.team.mutexes import MUTEX_SIZE, Mutex, mutexes

__all__ = ["Region", "SharedTable", "digest"]

WAYS = 16
KEY = 16
STAMPS = WAYS * KEY
LENGTHS = STAMPS + WAYS * 8
VALUES = LENGTHS + WAYS * 4
NOTHING = bytes(KEY)
STAMP = struct.Struct("<Q")
HEAD = 64  # for the last stamp
LOCKS_LIMIT = 512
LENGTH = struct.Struct("<I")
ALL_STAMPS = struct.Struct(f"<{WAYS}Q")


def digest(*parts: bytes) -> bytes:
    """A key for these bytes, together."""
    made = hashlib.blake2b(digest_size=KEY)
    for part in parts:
        made.update(len(part).to_bytes(4, "big"))
        made.update(part)
    return made.digest()


class Region:
    """A file in memory, mapped. It is not closed before the process ends: closing any descriptor
    of a file gives all the process's locks on it back. new: this process has made it."""

    def __init__(self, size: int, fd: int | None = None) -> None:
        """`fd`: one that another process has made, of the same size; None: a new one, of zeros."""
        self.new = fd is None
        if fd is None:
            fd = os.memfd_create("umktls")
            os.ftruncate(fd, size)
        self.fd = fd
        self.memory = mmap.mmap(fd, size)


def locks_of(sets: int) -> int:
    return min(sets, LOCKS_LIMIT)


class SharedTable:
    """`sets` times WAYS values of at most `longest` bytes, in a region from `offset` on."""

    def __init__(self, region: Region, offset: int, sets: int, longest: int) -> None:
        self._memory = region.memory
        self._offset = offset
        self._sets = sets
        self._longest = longest
        self._set_size = VALUES + WAYS * longest
        locks, at = locks_of(sets), offset + HEAD
        self._locks = mutexes(region.memory, at, locks, new=region.new)
        self._begin = at + locks * MUTEX_SIZE

    @staticmethod
    def size(sets: int, longest: int) -> int:
        """What a table takes of a region, in bytes."""
        return HEAD + locks_of(sets) * MUTEX_SIZE + sets * (VALUES + WAYS * longest)

    def locked(self, key: bytes) -> Mutex:
        """`with table.locked(key):` nobody else reads or changes what the key has. May be nested,
        for the same key."""
        return self._lock(self._set(key))

    def _lock(self, number: int) -> Mutex:
        return self._locks[number % len(self._locks)]

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
            with self._lock(number):
                for way in range(WAYS):
                    if self._memory[base + way * KEY : base + (way + 1) * KEY] != NOTHING:
                        (stamp,) = STAMP.unpack_from(self._memory, base + STAMPS + way * 8)
                        found.append((stamp, self._value(base, way)))
        return [value for _, value in sorted(found)]

    def _set(self, key: bytes) -> int:
        """Which one is the key's."""
        return int.from_bytes(key[:8], "little") % self._sets

    def _find(self, key: bytes) -> tuple[int, int | None]:
        """Where the key's set begins, and its slot."""
        at = base = self._begin + self._set(key) * self._set_size
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
