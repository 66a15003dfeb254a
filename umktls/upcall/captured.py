"""UMKTLS_CAPTURE and UMKTLS_CAPTURED: what a daemon tells a kernel that captures.

Between the answer that brings it a socket and that to the upcall, a daemon reads and writes the
connection itself, so these bytes pass no kernel of ours. Whoever captures wants them, and, if
secrets were asked for, the lines of the key log: without the handshake nobody can decrypt what
follows. A daemon that does not tell costs the capture that, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import field
from enum import IntEnum

from umktls.dataclass import dataclass
from umktls.errors import CallerError

__all__ = ["CAPTURE_BYTES", "CAPTURE_SECRETS", "MAX_CAPTURED", "Captured", "Kind"]

# Bits of UMKTLS_CAPTURE, u32: what the kernel wants to be told about this socket.
CAPTURE_BYTES = 1
CAPTURE_SECRETS = 2

_HEAD = struct.Struct("<BQ")
# Of one UMKTLS_CAPTURED, in bytes: with its head, as much as setsockopt takes.
MAX_CAPTURED = 65536 - _HEAD.size


class Kind(IntEnum):
    """What was done."""

    SENT = 1
    RECEIVED = 2
    SECRETS = 3  # lines of a key log (SSLKEYLOGFILE), each with its end


@dataclass(frozen=True, slots=True)
class Captured:
    """``u8 kind; u64 time; u8 data[]``, little-endian: what was written to, or read from, the
    connection, and when, in seconds since 1970 (in microseconds on the way)."""

    kind: Kind
    data: bytes = field(repr=False)
    when: float

    def pack(self) -> bytes:
        return _HEAD.pack(self.kind, round(self.when * 1_000_000)) + self.data

    @classmethod
    def unpack_untrusted(cls, value: bytes) -> Captured:
        """Raises `CallerError` (EINVAL) for one that is too short, or a kind that there is not."""
        if len(value) < _HEAD.size or value[0] not in Kind.__members__.values():
            raise CallerError("UMKTLS_CAPTURED: neither bytes nor secrets")
        kind, micros = _HEAD.unpack_from(value)
        return cls(Kind(kind), bytes(value[_HEAD.size :]), micros / 1_000_000)
