"""TLS 1.2 records around any AEAD (RFC 5246 section 6.2.3.3, RFC 5288, RFC 6655, RFC 7905).

    | type | 3 3 | length | nonce (8, not ChaCha20) | payload (N) | tag (16) |
                                                    '-- encrypted --'

What is authenticated besides stands nowhere in the record: sequence number, type, version and N.
GCM and CCM have four bytes of the nonce from the handshake and send the other eight with each
record; here they count up, from a start that the session names or chance. ChaCha20-Poly1305 has no
explicit part: its nonce is made as in TLS 1.3, the IV with the sequence number XORed into it.

Short messages and records are sealed and opened as bytes, as those of TLS 1.3 are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import Struct

from cryptography.exceptions import InvalidTag

from umktls.ktls.engines.aeads import NONCE_LENGTH, TAG_LENGTH, Aead
from umktls.ktls.engines.cutting import (
    LAST_NUMBER,
    SEQUENCE_END,
    cut,
    following,
    record_lengths,
    take_sequence,
)
from umktls.ktls.engines.engine import SHORT
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord, RecordSize
from umktls.ktls.session.framing import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Buffer, framing_of
from umktls.ktls.session.session import NONCES
from umktls.ktls.session.suites import EXPLICIT_NONCE, TLS_1_2

APPLICATION_DATA = 23

_HEADER = Struct(">BHH")  # type, version, length
# Sequence number, type, version, length of the payload (RFC 5246 section 6.2.3.3): what is
# authenticated beside the payload. CBC's MAC has it too.
associated_data = Struct(">QBHH").pack
record_header = _HEADER.pack


class Tls12Sealer:
    """See Sealer."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._explicit = session.suite.explicit_length
        self._overhead = RECORD_HEADER_LENGTH + self._explicit + TAG_LENGTH
        self._salt = session.iv
        self._iv = int.from_bytes(session.iv, "big")
        random = int.from_bytes(os.urandom(EXPLICIT_NONCE), "big")
        self._nonce = random if session.nonce is None else session.nonce
        self._aead = aead
        self._wraps = session.wraps

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        total = sum(map(len, parts))
        if total <= SHORT and total <= payload_limit:
            return self.seal_short(record_type, parts, total)
        lengths = [total] if total <= payload_limit else record_lengths(total, payload_limit)
        sequence = self.sequence
        self.sequence = take_sequence(sequence, len(lengths), self._wraps)
        wire = bytearray(total + self._overhead * len(lengths))
        view = memoryview(wire)
        start = 0
        for payload in cut(parts, lengths):
            end = start + self._overhead + len(payload)
            head, nonce, associated = self._around(record_type, sequence, len(payload))
            body = start + len(head)
            view[start:body] = head
            self._aead.encrypt_into(nonce, payload, associated, view[body:end])
            sequence = (sequence + 1) % SEQUENCE_END
            start = end
        return wire

    def seal_short(self, record_type: int, parts: Sequence[Buffer], length: int) -> Buffer:
        """See ShortSealer."""
        sequence = self.sequence
        self.sequence = take_sequence(sequence, 1, self._wraps)
        head, nonce, associated = self._around(record_type, sequence, length)
        return head + self._aead.encrypt(nonce, b"".join(parts), associated)

    def _around(self, record_type: int, sequence: int, length: int) -> tuple[bytes, bytes, bytes]:
        """What stands in front of a payload that long, its nonce, and what is authenticated
        beside it."""
        head = _HEADER.pack(record_type, TLS_1_2, length + self._overhead - RECORD_HEADER_LENGTH)
        associated = associated_data(sequence, record_type, TLS_1_2, length)
        if not self._explicit:
            return head, (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big"), associated
        explicit = self._nonce.to_bytes(EXPLICIT_NONCE, "big")
        self._nonce = (self._nonce + 1) % NONCES
        return head + explicit, self._salt + explicit, associated


class Tls12Opener:
    """See Opener."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._explicit = session.suite.explicit_length
        self._salt = session.iv
        self._iv = int.from_bytes(session.iv, "big")
        self._aead = aead
        self._framing = framing_of(session)
        self._wraps = session.wraps
        self.overhead = RECORD_HEADER_LENGTH + self._explicit + TAG_LENGTH
        self._header = b""  # of the last short record

    def check_header(self, header: Buffer) -> int:
        return self._framing.check(header)

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        size = self._framing.check(record[:RECORD_HEADER_LENGTH])
        if size != len(record):
            raise RecordSize(f"a record of {size} bytes in {len(record)}")
        sequence = self.sequence
        self.sequence = following(sequence, self._wraps)
        self._framing.check_body(size - RECORD_HEADER_LENGTH)
        start = RECORD_HEADER_LENGTH + self._explicit
        nonce = self._nonce(record[RECORD_HEADER_LENGTH:start], sequence)
        length = size - start - TAG_LENGTH
        associated = associated_data(sequence, record[0], TLS_1_2, length)
        try:
            self._aead.decrypt_into(nonce, record[start:], associated, dest[:length])
        except InvalidTag:
            raise BadRecord(f"record {sequence} of {size} bytes does not verify") from None
        return record[0], length

    def open_short(self, record: bytes) -> bytes | None:
        """See ShortOpener."""
        header, sequence = record[:RECORD_HEADER_LENGTH], self.sequence
        if (header != self._header and not self._fits(header)) or sequence >= LAST_NUMBER:
            return None
        start = RECORD_HEADER_LENGTH + self._explicit
        nonce = self._nonce(record[RECORD_HEADER_LENGTH:start], sequence)
        length = len(record) - self.overhead
        associated = associated_data(sequence, APPLICATION_DATA, TLS_1_2, length)
        try:
            payload = self._aead.decrypt(nonce, record[start:], associated)
        except InvalidTag:
            return None
        self.sequence = sequence + 1
        return payload

    def _fits(self, header: bytes) -> bool:
        """Whether a record of application data may have that header; then it is remembered."""
        if header[0] != APPLICATION_DATA or self._framing.openable(header) is None:
            return False
        self._header = header
        return True

    def _nonce(self, explicit: Buffer, sequence: int) -> bytes:
        if not self._explicit:
            return (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big")
        return self._salt + explicit
