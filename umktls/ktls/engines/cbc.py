"""TLS 1.0 to 1.2 records with AES-CBC and HMAC: MAC, then pad, then encrypt.

    | type | 3 x | length | IV (16, not TLS 1.0) | payload | MAC | padding |
                                                  '------ encrypted ------'

RFC 5246 section 6.2.3.2. The MAC covers sequence number, type, version, length and payload. All
padding bytes say how many follow the first one. TLS 1.0 (RFC 2246) takes the last block of the
record before as IV, which is why it may send empty records, and why FreeBSD has no reception for
it: nor has this engine.

Nothing here takes the same time for every kind of bad record, so that an attacker in the middle
could learn from it what the padding was (Lucky Thirteen). These suites are there to be studied and
are off until kern.ipc.tls.cbc_enable is set.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from umktls.ktls.engines.cutting import SEQUENCE_END, cut, following, record_lengths, take_sequence
from umktls.ktls.engines.tls12 import associated_data, record_header
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord, RecordSize
from umktls.ktls.session.framing import (
    MAX_PLAINTEXT,
    RECORD_HEADER_LENGTH,
    Buffer,
    framing_of,
    least_length,
)
from umktls.ktls.session.suites import CBC_BLOCK, TLS_1_0


class CbcSealer:
    """See Sealer. Pads to the next block and no further."""

    def __init__(self, session: Session) -> None:
        self.sequence = session.sequence
        self._version = session.version
        self._chained = session.iv if session.version == TLS_1_0 else None
        self._algorithm = algorithms.AES(session.key)
        self._mac_key = session.mac_key
        self._mac = session.suite.mac
        self._wraps = session.wraps

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        lengths = record_lengths(sum(map(len, parts)), payload_limit)
        sequence = self.sequence
        self.sequence = take_sequence(sequence, len(lengths), self._wraps)
        records = [
            self._record(record_type, payload, number % SEQUENCE_END)
            for number, payload in enumerate(cut(parts, lengths), start=sequence)
        ]
        return b"".join(records)

    def _record(self, record_type: int, payload: memoryview, sequence: int) -> bytes:
        associated = associated_data(sequence, record_type, self._version, len(payload))
        mac = hmac.digest(self._mac_key, associated + payload, self._mac)
        padding = CBC_BLOCK - 1 - (len(payload) + len(mac)) % CBC_BLOCK
        plain = b"".join((payload, mac, bytes([padding]) * (padding + 1)))
        iv = os.urandom(CBC_BLOCK) if self._chained is None else self._chained
        text = Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(plain)
        body = text
        if self._chained is None:
            body = iv + text
        else:
            self._chained = text[-CBC_BLOCK:]
        return record_header(record_type, self._version, len(body)) + body


class CbcOpener:
    """See Opener. TLS 1.1 and 1.2."""

    def __init__(self, session: Session) -> None:
        self.sequence = session.sequence
        self._version = session.version
        self._algorithm = algorithms.AES(session.key)
        self._mac_key = session.mac_key
        self._mac = session.suite.mac
        self._mac_length = session.suite.tag_length
        self._framing = framing_of(session)
        self._wraps = session.wraps
        # Of the records with that many bytes, the one with the longest payload.
        self.overhead = RECORD_HEADER_LENGTH + CBC_BLOCK + self._mac_length + 1
        assert self.overhead <= RECORD_HEADER_LENGTH + least_length(session)

    def check_header(self, header: Buffer) -> int:
        return self._framing.check(header)

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        size = self._framing.check(record[:RECORD_HEADER_LENGTH])
        if size != len(record):
            raise RecordSize(f"a record of {size} bytes in {len(record)}")
        sequence = self.sequence
        self.sequence = following(sequence, self._wraps)
        self._framing.check_body(size - RECORD_HEADER_LENGTH)
        plain = self._decrypt(record[RECORD_HEADER_LENGTH:])
        length = self._verified_length(plain, record[0], sequence)
        if length is None:
            raise BadRecord(f"record {sequence} of {size} bytes does not verify")
        dest[:length] = plain[:length]
        return record[0], length

    def _decrypt(self, body: memoryview) -> bytes:
        iv = bytes(body[:CBC_BLOCK])
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(body[CBC_BLOCK:])

    def _verified_length(self, plain: bytes, record_type: int, sequence: int) -> int | None:
        """Length of the payload, None where padding or MAC is wrong."""
        padding = plain[-1] + 1
        length = len(plain) - padding - self._mac_length
        if length < 0 or plain[-padding:] != plain[-1:] * padding:
            return None
        associated = associated_data(sequence, record_type, self._version, length)
        mac = hmac.digest(self._mac_key, associated + plain[:length], self._mac)
        good = hmac.compare_digest(mac, plain[length : length + self._mac_length])
        return length if good else None
