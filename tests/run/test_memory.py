"""A message's header in somebody's memory, which may be anything."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

import pytest

from umktls.run.memory import PIECE, MessageHeader, ProcessMemory, scattered


class FakeMemory:
    """So many bytes at BASE, and nothing else."""

    BASE = 0x1000

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def read(self, address: int, length: int) -> bytes:
        start = address - self.BASE
        if length and not 0 <= start <= len(self.content) - length:
            raise OSError(errno.EFAULT, "no memory")
        return bytes(self.content[start : start + length]) if length else b""

    def write(self, address: int, data: bytes) -> None:
        self.read(address, len(data))
        self.content[address - self.BASE : address - self.BASE + len(data)] = data

    def write_all(self, parts: Sequence[tuple[int, bytes]]) -> None:
        for address, data in parts:
            if data:
                self.write(address, data)


def message(pieces: list[tuple[int, int]], control: int = 0, control_length: int = 0) -> FakeMemory:
    """A msghdr at BASE, its iovecs behind it, then 256 bytes."""
    base = FakeMemory.BASE
    header = struct.pack("<QI4xQQQQI4x", 0, 0, base + 56, len(pieces), control, control_length, 0)
    vectors = b"".join(struct.pack("<QQ", *piece) for piece in pieces)
    return FakeMemory(header + vectors + bytes(256))


def test_a_message_is_gathered_and_scattered() -> None:
    data = FakeMemory.BASE + 56 + 32
    memory = message([(data, 3), (data + 10, 4)], control=data + 100, control_length=24)
    memory.write(data, b"abc")
    memory.write(data + 10, b"defg")
    header = MessageHeader.read(memory, FakeMemory.BASE)
    assert header.length == 7
    assert header.gather(memory) == b"abcdefg"
    assert header.control_messages(memory) == bytes(24)
    header.received(memory, b"12345", b"control", 0x80)
    assert memory.read(data, 3) + memory.read(data + 10, 4) == b"12345fg"
    after = MessageHeader.read(memory, FakeMemory.BASE)
    assert (after.control_length, after.flags, after.name_length) == (7, 0x80, 0)


@pytest.mark.parametrize(
    ("memory", "number"),
    [
        (FakeMemory(bytes(40)), errno.EFAULT),
        (message([(FakeMemory.BASE, 1)] * 1025), errno.EMSGSIZE),
        (message([(FakeMemory.BASE, 1 << 63)]), errno.EINVAL),
    ],
)
def test_what_is_no_message(memory: FakeMemory, number: int) -> None:
    with pytest.raises(OSError, match=r"Errno") as caught:
        MessageHeader.read(memory, FakeMemory.BASE)
    assert caught.value.errno == number


def test_more_control_messages_than_there_may_be() -> None:
    header = MessageHeader.read(message([], FakeMemory.BASE, 1 << 20), FakeMemory.BASE)
    with pytest.raises(OSError, match=r"Errno") as caught:
        header.control_messages(FakeMemory(b""))
    assert caught.value.errno == errno.ENOBUFS


def test_a_piece_that_is_not_there() -> None:
    with pytest.raises(OSError, match="no memory"):
        FakeMemory(bytes(8)).write_all(scattered(((FakeMemory.BASE, 8), (0, 8)), bytes(9)))


def test_a_process_that_is_there() -> None:
    block = ctypes.create_string_buffer(b"hello", 16)
    memory = ProcessMemory(os.getpid())
    assert memory.read(ctypes.addressof(block), 5) == b"hello"
    memory.write(ctypes.addressof(block), b"J")
    assert block.value == b"Jello"


def test_many_pieces_are_written_up_to_the_first_that_is_not_there() -> None:
    many = 3000  # more than go with one call
    block = ctypes.create_string_buffer(many)
    memory, start = ProcessMemory(os.getpid()), ctypes.addressof(block)
    memory.write_all([(start + i, bytes([65 + i % 26])) for i in range(many)])
    assert block.raw == bytes(65 + i % 26 for i in range(many))
    with pytest.raises(OSError, match=r"Errno") as caught:
        memory.write_all([(start, b"yes"), (0, b""), (8, b"no"), (start, b"not")])
    assert caught.value.errno == errno.EFAULT
    assert block.raw[:4] == b"yesD"


def test_much_is_read_whole() -> None:
    much = os.urandom(2 * PIECE + 5)
    block = ctypes.create_string_buffer(much, len(much))
    assert ProcessMemory(os.getpid()).read(ctypes.addressof(block), len(much)) == much


@pytest.mark.parametrize("address", [0, 1 << 63, 2**64 - 1])
def test_addresses_that_are_none(address: int) -> None:
    memory = ProcessMemory(os.getpid())
    for attempt in (lambda: memory.read(address, 8), lambda: memory.write(address, b"x")):
        with pytest.raises(OSError, match=r"Errno") as caught:
            attempt()
        assert caught.value.errno == errno.EFAULT
