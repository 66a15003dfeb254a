"""The memory of another process: process_vm_readv(2), process_vm_writev(2).

What is read is what another thread over there may be changing: each thing is read once, and the
call is looked at again (`Listener.valid`) before anything is made of it. An address that is none is
EFAULT, whole or in part: nothing is made of half a structure.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from umktls.run.system import process_vm, refused

__all__ = ["DATA_MAX", "Memory", "MessageHeader", "ProcessMemory", "scattered"]

IOV_MAX = 1024
# One message's data and control messages at most; Linux has 2^31 and net.core.optmem_max.
DATA_MAX, CONTROL_MAX = 0x7FFFF000, 131072
PIECE = 1 << 20

_IOVEC = struct.Struct("<QQ")
_MSGHDR = struct.Struct("<QI4xQQQQI4x")
_TOLD = struct.Struct("<QI")  # its msg_controllen and msg_flags


class Memory(Protocol):
    """Somebody's memory. All raise OSError: EFAULT where it is not there."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...

    def write_all(self, parts: Sequence[tuple[int, bytes]]) -> None:
        """Each (address, data), in their order, up to the first that is not there."""


class ProcessMemory:
    """The memory of a process that is there."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def read(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        if length > PIECE:  # what is not there takes no memory here
            starts = range(0, length, PIECE)
            return b"".join([self.read(address + at, min(PIECE, length - at)) for at in starts])
        local = (ctypes.c_char * length)()
        self._move("process_vm_readv", local, [(address, length)])
        return local.raw

    def write(self, address: int, data: bytes) -> None:
        self.write_all([(address, data)])

    def write_all(self, parts: Sequence[tuple[int, bytes]]) -> None:
        for start in range(0, len(parts), IOV_MAX):
            some = parts[start : start + IOV_MAX]
            data = b"".join([data for _, data in some])
            if data:
                local = (ctypes.c_char * len(data)).from_buffer_copy(data)
                pieces = [(address, len(data)) for address, data in some]
                self._move("process_vm_writev", local, pieces)

    def _move(
        self, name: str, local: ctypes.Array[ctypes.c_char], pieces: list[tuple[int, int]]
    ) -> None:
        try:
            moved = process_vm(name, self._pid, local, pieces)
        except struct.error:  # no 64 bits hold such an address
            moved = -1
        if moved != len(local):
            raise refused(errno.EFAULT)


class MessageHeader(NamedTuple):
    """A `struct msghdr` (LP64) at `address`, with its `struct iovec`s."""

    address: int
    name: int
    name_length: int
    pieces: tuple[tuple[int, int], ...]
    control: int
    control_length: int
    flags: int

    @classmethod
    def read(cls, memory: Memory, address: int) -> MessageHeader:
        """Raises OSError: EFAULT; EMSGSIZE for too many iovecs, EINVAL for too much in them."""
        fields = _MSGHDR.unpack(memory.read(address, _MSGHDR.size))
        name, name_length, vectors, count, control, control_length, flags = fields
        if count > IOV_MAX:
            raise refused(errno.EMSGSIZE)
        raw = memory.read(vectors, count * _IOVEC.size)
        pieces = tuple(_IOVEC.iter_unpack(raw))
        for _, length in pieces:
            if length >> 63:
                raise refused(errno.EINVAL)
        return cls(address, name, name_length, pieces, control, control_length, flags)

    @property
    def length(self) -> int:
        """How many bytes there are, or there is room for."""
        return min(sum(length for _, length in self.pieces), DATA_MAX)

    def gather(self, memory: Memory) -> bytes:
        """The data to send. Raises OSError."""
        found, left = [], DATA_MAX
        for address, length in self.pieces:
            found.append(memory.read(address, min(length, left)))
            left -= len(found[-1])
        return b"".join(found)

    def control_messages(self, memory: Memory) -> bytes:
        """The control messages to send. Raises OSError, ENOBUFS where there are too many."""
        if self.control_length > CONTROL_MAX:
            raise refused(errno.ENOBUFS)
        return memory.read(self.control, self.control_length)

    def received(self, memory: Memory, data: bytes, control: bytes, flags: int) -> None:
        """Put there what a recvmsg has received. Raises OSError."""
        parts = scattered(self.pieces, data)
        parts.append((self.control, control))
        if self.name:
            parts.append((self.address + 8, struct.pack("<I", 0)))
        parts.append((self.address + 40, _TOLD.pack(len(control), flags)))
        memory.write_all(parts)


def scattered(pieces: tuple[tuple[int, int], ...], data: bytes) -> list[tuple[int, bytes]]:
    """What comes to which address when the pieces are filled, in their order, with `data`."""
    found, start = [], 0
    for address, length in pieces:
        if start >= len(data):
            break
        found.append((address, data[start : start + length]))
        start += length
    return found
