"""A capture file of one TCP connection that carries RPC messages, for a real protocol analyser."""

from __future__ import annotations

import struct
from pathlib import Path

from umktls.rpc.record import mark

CLIENT, SERVER = b"\x7f\0\0\1", b"\x7f\0\0\2"
PORTS = {CLIENT: 1001, SERVER: 2049}
LINKTYPE_RAW = 101  # packets begin with their IP header
PUSH_ACK = 0x18


class Capture:
    """Collects messages; each becomes one TCP segment (so at most 65,000 bytes)."""

    def __init__(self) -> None:
        self._sent = {CLIENT: 1, SERVER: 1}
        self._packets: list[bytes] = []

    def call(self, message: bytes) -> None:
        self._segment(CLIENT, SERVER, message)

    def reply(self, message: bytes) -> None:
        self._segment(SERVER, CLIENT, message)

    def _segment(self, source: bytes, target: bytes, message: bytes) -> None:
        payload = mark(len(message)) + message
        ports = (PORTS[source], PORTS[target])
        numbers = (self._sent[source], self._sent[target])
        tcp = struct.pack(">HHIIBBHHH", *ports, *numbers, 5 << 4, PUSH_ACK, 65535, 0, 0)
        length = 20 + len(tcp) + len(payload)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0, 64, 6, 0) + source + target
        self._packets.append(ip + tcp + payload)
        self._sent[source] += len(payload)

    def write(self, path: Path) -> None:
        """Save as a pcap file; packets are a millisecond apart."""
        header = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINKTYPE_RAW)
        records = [
            struct.pack(">IIII", 1_000_000_000, 1000 * n, len(p), len(p)) + p
            for n, p in enumerate(self._packets)
        ]
        path.write_bytes(header + b"".join(records))
