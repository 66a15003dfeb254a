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
from struct import Struct

from cryptography.exceptions import InvalidTag

from umktls.ktls.engines.aeads import NONCE_LENGTH, TAG_LENGTH, Aead
from umktls.ktls.engines.cutting import SEQUENCE_END, cut, following, record_lengths, take_sequence
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord, RecordSize
from umktls.ktls.session.framing import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Buffer, framing_of
from umktls.ktls.session.session import NONCES
from umktls.ktls.session.suites import EXPLICIT_NONCE, TLS_1_2

_HEADER = Struct(">BHH")  # type, version, length
_HEADER_AND_NONCE = Struct(">BHHQ")
# Sequence number, type, version, length of the payload (RFC 5246 section 6.2.3.3): what is
# authenticated beside the payload. CBC's MAC has it too.
associated_data = Struct(">QBHH").pack
record_header = _HEADER.pack


class Tls12Sealer:
    """See Sealer."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._explicit = session.suite.explicit_length
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
        lengths = [total] if total <= payload_limit else record_lengths(total, payload_limit)
        sequence = self.sequence
        self.sequence = take_sequence(sequence, len(lengths), self._wraps)
        overhead = RECORD_HEADER_LENGTH + self._explicit + TAG_LENGTH
        wire = bytearray(total + overhead * len(lengths))
        view = memoryview(wire)
        start = 0
        for payload in cut(parts, lengths):
            end = start + overhead + len(payload)
            self._seal_one(record_type, payload, sequence, view[start:end])
            sequence = (sequence + 1) % SEQUENCE_END
            start = end
        return wire

    def _seal_one(
        self, record_type: int, payload: memoryview, sequence: int, record: memoryview
    ) -> None:
        length = len(record) - RECORD_HEADER_LENGTH
        if self._explicit:
            number = self._nonce
            self._nonce = (number + 1) % NONCES
            nonce = self._salt + number.to_bytes(EXPLICIT_NONCE, "big")
            _HEADER_AND_NONCE.pack_into(record, 0, record_type, TLS_1_2, length, number)
        else:
            nonce = (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big")
            _HEADER.pack_into(record, 0, record_type, TLS_1_2, length)
        associated = associated_data(sequence, record_type, TLS_1_2, len(payload))
        body = record[RECORD_HEADER_LENGTH + self._explicit :]
        self._aead.encrypt_into(nonce, payload, associated, body)


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

    def _nonce(self, explicit: memoryview, sequence: int) -> bytes:
        if not self._explicit:
            return (self._iv ^ sequence).to_bytes(NONCE_LENGTH, "big")
        return self._salt + explicit
