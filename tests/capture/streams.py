"""What the packets of a capture say of TCP: the bytes of both directions, put together again."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.capture.blocks import Block, packets
from umktls.capture.packets import Flags

TCP = 0
Ends = tuple[str, int, str, int]


@dataclass
class Segment:
    """One packet: where from and to, number, what it acknowledges, flags, payload, comments."""

    ends: Ends
    sequence: int
    acknowledged: int
    flags: Flags
    payload: bytes
    comments: list[str] = field(default_factory=list)


def segment(packet: Block) -> Segment:
    data = packet.data
    six = data[0] >> 4 == 6
    start, size = (40, 16) if six else (20, 4)
    at = 8 if six else 12
    source, target = data[at : at + size].hex(), data[at + size : at + 2 * size].hex()
    tcp = struct.unpack_from(">HHIIBBH", data, start)
    ends = (source, tcp[0], target, tcp[1])
    return Segment(ends, tcp[2], tcp[3], Flags(tcp[5]), data[start + 20 :], packet.comments)


def segments(source: Path | bytes) -> list[Segment]:
    return [segment(packet) for packet in packets(source, TCP)]


def streams(source: Path | bytes) -> dict[Ends, bytes]:
    """The bytes of each direction of each connection. Bytes that are not there are an error."""
    found: dict[Ends, bytearray] = defaultdict(bytearray)
    for one in segments(source):
        if one.payload:
            assert one.sequence == 1 + len(found[one.ends]), "a gap, or bytes twice"
            found[one.ends] += one.payload
    return {ends: bytes(data) for ends, data in found.items()}
