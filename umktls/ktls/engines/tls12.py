"""TLS 1.2 records around any AEAD (RFC 5246 section 6.2.3.3, RFC 5288, RFC 6655, RFC 7905).

    | type | 3 3 | length | nonce (8, not ChaCha20) | payload (N) | tag (16) |
                                                    '-- encrypted --'

What is authenticated besides stands nowhere in the record: sequence number, type, version and N.
GCM and CCM have four bytes of the nonce from the handshake and send the other eight with each
record; here they count up, from a start that the session names or chance. ChaCha20-Poly1305 has no
explicit part: its nonce is made as in TLS 1.3, the IV with the sequence number XORed into it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag

from umktls.ktls.engines import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Buffer
from umktls.ktls.engines.aeads import NONCE_LENGTH, TAG_LENGTH, Aead
from umktls.ktls.engines.cutting import SEQUENCE_END, cut, record_lengths, take_sequence
from umktls.ktls.errors import BadRecord, RecordSize
from umktls.ktls.framing import framing_of
from umktls.ktls.session import NONCES, Session

VERSION = b"\x03\x03"
SEQUENCE_LENGTH = 8


def associated_data(sequence: int, record_type: int, version: bytes, length: int) -> bytes:
    """RFC 5246 section 6.2.3.3: what is authenticated beside the payload. CBC's MAC has it too."""
    return b"%b%c%b%b" % (
        sequence.to_bytes(SEQUENCE_LENGTH, "big"),
        record_type,
        version,
        length.to_bytes(2, "big"),
    )


class Tls12Sealer:
    """See Sealer."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._explicit = session.suite.explicit_length
        self._salt = session.iv
        self._iv = int.from_bytes(session.iv, "big")
        self._nonce = session.nonce
        if self._nonce is None:
            self._nonce = int.from_bytes(os.urandom(SEQUENCE_LENGTH), "big")
        self._aead = aead

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        lengths = record_lengths(sum(map(len, parts)), payload_limit)
        sequence = self.sequence
        self.sequence = take_sequence(sequence, len(lengths))
        overhead = RECORD_HEADER_LENGTH + self._explicit + TAG_LENGTH
        wire = bytearray(sum(lengths) + overhead * len(lengths))
        view = memoryview(wire)
        for payload in cut(parts, lengths):
            size = overhead + len(payload)
            self._seal_one(record_type, payload, sequence, view[:size])
            view = view[size:]
            sequence += 1
        return wire

    def _seal_one(
        self, record_type: int, payload: memoryview, sequence: int, record: memoryview
    ) -> None:
        explicit, nonce = self._nonces(sequence)
        start = RECORD_HEADER_LENGTH + len(explicit)
        length = len(record) - RECORD_HEADER_LENGTH
        record[:start] = b"%c%b%b%b" % (record_type, VERSION, length.to_bytes(2, "big"), explicit)
        associated = associated_data(sequence, record_type, VERSION, len(payload))
        self._aead.encrypt_into(nonce, payload, associated, record[start:])

    def _nonces(self, sequence: int) -> tuple[bytes, bytes]:
        """The explicit part, which may be empty, and the whole nonce of the next record."""
        if not self._explicit:
            return b"", (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big")
        assert self._nonce is not None
        explicit = self._nonce.to_bytes(self._explicit, "big")
        self._nonce = (self._nonce + 1) % NONCES
        return explicit, self._salt + explicit


class Tls12Opener:
    """See Opener."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._explicit = session.suite.explicit_length
        self._salt = session.iv
        self._iv = int.from_bytes(session.iv, "big")
        self._aead = aead
        self._framing = framing_of(session)
        self.overhead = RECORD_HEADER_LENGTH + self._explicit + TAG_LENGTH

    def check_header(self, header: Buffer) -> int:
        return self._framing.check(header)

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        size = self._framing.check(record[:RECORD_HEADER_LENGTH])
        if size != len(record):
            raise RecordSize(f"a record of {size} bytes in {len(record)}")
        sequence = self.sequence
        if sequence == SEQUENCE_END:
            raise BadRecord("the sequence numbers are used up")
        self.sequence = sequence + 1
        self._framing.check_body(size - RECORD_HEADER_LENGTH)
        start = RECORD_HEADER_LENGTH + self._explicit
        nonce = self._nonce(record[RECORD_HEADER_LENGTH:start], sequence)
        length = size - start - TAG_LENGTH
        associated = associated_data(sequence, record[0], VERSION, length)
        try:
            self._aead.decrypt_into(nonce, record[start:], associated, dest[:length])
        except InvalidTag:
            raise BadRecord(f"record {sequence} of {size} bytes does not verify") from None
        return record[0], length

    def _nonce(self, explicit: memoryview, sequence: int) -> bytes:
        if not self._explicit:
            return (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big")
        return self._salt + explicit
