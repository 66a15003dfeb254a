"""UMKTLS_LEFTOVER: what a TLS library had read too far, on its way back into the kernel.

The value of this socket option of ours, level SOL_UMKTLS. No kernel has such a thing; the FreeBSD
work on NFS over TLS wished for it.
"""

from __future__ import annotations

import struct
from dataclasses import field

from umktls.dataclass import dataclass
from umktls.errors import CallerError

_HEADER = struct.Struct("<8sII")


@dataclass(frozen=True, slots=True)
class Leftover:
    """``struct umktls_leftover``: u8 rec_seq[8] (big-endian), u32 data_len, u32 wire_len, both.

    Attributes:
        rec_seq: the sequence number of the first record in `wire`.
        data: application data that was opened and not read.
        wire: bytes behind it that were not opened; from the beginning of a record on.
    """

    rec_seq: int
    data: bytes = field(default=b"", repr=False)
    wire: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        lengths = (len(self.data), len(self.wire))
        return _HEADER.pack(self.rec_seq.to_bytes(8, "big"), *lengths) + self.data + self.wire

    @classmethod
    def unpack_untrusted(cls, value: bytes) -> Leftover:
        """Raises CallerError (EINVAL) where the lengths are not those of the value."""
        if len(value) < _HEADER.size:
            raise CallerError(f"struct umktls_leftover of {len(value)} bytes")
        rec_seq, data_length, wire_length = _HEADER.unpack_from(value)
        start, end = _HEADER.size, _HEADER.size + data_length
        if len(value) != end + wire_length:
            raise CallerError(
                f"struct umktls_leftover of {len(value)} bytes says {data_length} of data and "
                f"{wire_length} of records"
            )
        return cls(int.from_bytes(rec_seq, "big"), bytes(value[start:end]), bytes(value[end:]))
