"""UMKTLS_CAPTURE and UMKTLS_CAPTURED: what a daemon tells a kernel that captures.

Between the answer that brings it a socket and that to the upcall, a daemon reads and writes the
connection itself, so these bytes pass no kernel of ours. Whoever captures wants them, and, if
secrets were asked for, the lines of the key log: without the handshake nobody can decrypt what
follows. A daemon that does not tell costs the capture that, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from umktls.errors import CallerError

__all__ = ["CAPTURE_BYTES", "CAPTURE_SECRETS", "MAX_CAPTURED", "Captured", "Kind"]

# Bits of UMKTLS_CAPTURE, u32: what the kernel wants to be told about this socket.
CAPTURE_BYTES = 1
CAPTURE_SECRETS = 2

# Of one UMKTLS_CAPTURED, in bytes.
MAX_CAPTURED = 16384


class Kind(IntEnum):
    """What was done."""

    SENT = 1
    RECEIVED = 2
    SECRETS = 3  # lines of a key log (SSLKEYLOGFILE), each with its end


@dataclass(frozen=True, slots=True)
class Captured:
    """``u8 kind; u8 data[]``: what was written to, or read from, the connection just now."""

    kind: Kind
    data: bytes = field(repr=False)

    def pack(self) -> bytes:
        return bytes((self.kind,)) + self.data

    @classmethod
    def unpack_untrusted(cls, value: bytes) -> Captured:
        """Raises `CallerError` (EINVAL) for a kind that there is not."""
        if not value or value[0] not in Kind.__members__.values():
            raise CallerError("UMKTLS_CAPTURED: neither bytes nor secrets")
        return cls(Kind(value[0]), bytes(value[1:]))
