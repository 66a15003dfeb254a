"""The memory of another process: process_vm_readv(2), process_vm_writev(2).

What is read is what another thread over there may be changing: each thing is read once, and the
call is looked at again (`Listener.valid`) before anything is made of it. An address that is none is
EFAULT, whole or in part: nothing is made of half a structure.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from typing import Protocol

from umktls.run.system import process_vm, refused

__all__ = ["DATA_MAX", "Memory", "MessageHeader", "ProcessMemory", "scatter"]

IOV_MAX = 1024
# One message's data and control messages at most; Linux has 2^31 and net.core.optmem_max.
DATA_MAX, CONTROL_MAX = 0x7FFFF000, 131072
PIECE = 1 << 20

_IOVEC = struct.Struct("<QQ")
_MSGHDR = struct.Struct("<QI4xQQQQI4x")


class Memory(Protocol):
    """Somebody's memory. Both raise OSError: EFAULT where it is not there."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class ProcessMemory:
    """The memory of a process that is there."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def read(self, address: int, length: int) -> bytes:
        found = []
        for start in range(0, length, PIECE):  # what is not there takes no memory here
            local = ctypes.create_string_buffer(min(PIECE, length - start))
            self._move("process_vm_readv", local, address + start)
            found.append(local.raw)
        return b"".join(found)

    def write(self, address: int, data: bytes) -> None:
        if data:
            local = ctypes.create_string_buffer(data, len(data))
            self._move("process_vm_writev", local, address)

    def _move(self, name: str, local: ctypes.Array[ctypes.c_char], address: int) -> None:
        try:
            moved = process_vm(name, self._pid, local, address)
        except OverflowError:
            moved = -1
        if moved != len(local):
            raise refused(errno.EFAULT)


@dataclass(frozen=True, slots=True)
class MessageHeader:
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
        if any(length >> 63 for _, length in pieces):
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
        scatter(memory, self.pieces, data)
        memory.write(self.control, control)
        if self.name:
            memory.write(self.address + 8, struct.pack("<I", 0))
        memory.write(self.address + 40, struct.pack("<QI", len(control), flags))


def scatter(memory: Memory, pieces: tuple[tuple[int, int], ...], data: bytes) -> None:
    """Fill the pieces, in their order, with `data`. Raises OSError."""
    start = 0
    for address, length in pieces:
        if start >= len(data):
            return
        memory.write(address, data[start : start + length])
        start += length
