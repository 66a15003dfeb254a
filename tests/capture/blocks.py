"""The blocks of a capture, read by a few lines: quicker than tshark, which other tests ask."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTION, INTERFACE, STATISTICS, PACKET, SECRETS = 0x0A0D0D0A, 1, 5, 6, 10
OPTIONS_AT = {SECTION: 16, INTERFACE: 8, STATISTICS: 12}
COMMENT = 1


@dataclass
class Block:
    """A block: what is in it, its options, and of packets the interface, time and length."""

    kind: int
    data: bytes
    options: list[tuple[int, bytes]] = field(default_factory=list)
    interface: int = -1
    micros: int = 0
    length: int = 0

    @property
    def comments(self) -> list[str]:
        return [value.decode() for code, value in self.options if code == COMMENT]

    def option(self, code: int) -> bytes | None:
        return dict(self.options).get(code)

    @property
    def text(self) -> dict[str, str]:
        """Of what a host does: its fields."""
        lines = self.data[self.data.index(b"kind: ") :].decode().splitlines()
        return dict(line.split(": ", 1) for line in lines)


def blocks(source: Path | bytes) -> list[Block]:
    """All blocks, each of which must be whole and begin and end with its length."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    found, position = [], 0
    while position < len(data):
        kind, length = struct.unpack_from("<II", data, position)
        body = data[position + 8 : position + length - 4]
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, position + length - 4) == (length,)
        found.append(block(kind, body))
        position += length
    assert [one.kind for one in found[:4]] == [SECTION, INTERFACE, INTERFACE, INTERFACE]
    return found


def block(kind: int, body: bytes) -> Block:
    if kind == SECRETS:
        _, length = struct.unpack_from("<II", body)
        return Block(kind, body[8 : 8 + length])
    if kind != PACKET:
        return Block(kind, body, list(options(body[OPTIONS_AT[kind] :])))
    interface, high, low, captured, length = struct.unpack_from("<5I", body)
    end = 20 + captured
    rest = list(options(body[end + -captured % 4 :]))
    return Block(kind, body[20:end], rest, interface, high << 32 | low, length)


def options(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        code, length = struct.unpack_from("<HH", data, position)
        if code == 0:
            assert position + 4 == len(data)
            return
        yield code, data[position + 4 : position + 4 + length]
        position += 4 + length + -length % 4
    assert not data, "options without their end"


def packets(source: Path | bytes, interface: int) -> list[Block]:
    """The packets of an interface."""
    return [one for one in blocks(source) if one.kind == PACKET and one.interface == interface]
