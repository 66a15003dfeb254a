"""TLS 1.3 records (RFC 8446 section 5) around any AEAD of the cryptography package.

A sealed record on the wire, N bytes of payload:

    | 23 | 3 3 | N+17 | payload (N) | type (1) | tag (16) |
    '---- header ----''-------- encrypted ----'
      associated data

The nonce is the IV with the sequence number XORed into its end; as integers, one XOR.

Sealing joins header, payload, type and room for the tag of all records into one buffer and then
encrypts each record where it stands: one copy of the message and no allocation per record. Of short
messages and records a copy costs less than a view, so those are sealed and opened as bytes. Opening
decrypts to where the payload is wanted; the inner type lands on the byte behind it, so that the
next record's payload, written there, makes the two contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag

from umktls.abi.alerts import TlsAlert
from umktls.ktls.engines.aeads import NONCE_LENGTH, TAG_LENGTH, Aead
from umktls.ktls.engines.cutting import (
    LAST_NUMBER,
    SEQUENCE_END,
    following,
    record_lengths,
    take_sequence,
)
from umktls.ktls.engines.engine import SHORT
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord, RecordMisfit, RecordSize
from umktls.ktls.session.framing import (
    MAX_PLAINTEXT,
    OUTER_TYPE,
    RECORD_HEADER_LENGTH,
    Buffer,
    framing_of,
)

TRAILER_LENGTH = 1 + TAG_LENGTH
OVERHEAD = RECORD_HEADER_LENGTH + TRAILER_LENGTH
APPLICATION_DATA = 23

_HEADER_OF_NOTHING = int.from_bytes([OUTER_TYPE, 3, 3, 0, TRAILER_LENGTH], "big")


def record_header(payload_length: int) -> bytes:
    """The five bytes in front of a record with that much payload."""
    return (_HEADER_OF_NOTHING + payload_length).to_bytes(RECORD_HEADER_LENGTH, "big")


_FULL_HEADER = record_header(MAX_PLAINTEXT)
_TYPES = [bytes([record_type]) for record_type in range(256)]
_TRAILERS = [bytes([record_type]) + bytes(TAG_LENGTH) for record_type in range(256)]


class Tls13Sealer:
    """See Sealer."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._iv = int.from_bytes(session.iv, "big")
        self._encrypt = aead.encrypt_into
        self._encrypt_apart = aead.encrypt
        self._wraps = session.wraps
        self._length, self._header = 0, record_header(0)  # of the last short message

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        sequence = self.sequence
        total = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        if total > payload_limit or sequence >= LAST_NUMBER:
            return self._seal_many(record_type, parts, record_lengths(total, payload_limit))
        if total <= SHORT:
            return self.seal_short(record_type, parts, total)
        self.sequence = sequence + 1
        header = (_HEADER_OF_NOTHING + total).to_bytes(RECORD_HEADER_LENGTH)
        wire = bytearray().join((header, *parts, _TRAILERS[record_type]))
        view = memoryview(wire)
        plain, sealed = view[RECORD_HEADER_LENGTH:-TAG_LENGTH], view[RECORD_HEADER_LENGTH:]
        self._encrypt((self._iv ^ sequence).to_bytes(NONCE_LENGTH), plain, header, sealed)
        return wire

    def seal_short(self, record_type: int, parts: Sequence[Buffer], length: int) -> Buffer:
        """See ShortSealer."""
        sequence = self.sequence
        if sequence >= LAST_NUMBER:
            return self.seal(record_type, parts)
        if length != self._length:
            self._length, self._header = length, record_header(length)
        header, nonce = self._header, (self._iv ^ sequence).to_bytes(NONCE_LENGTH)
        sealed = self._encrypt_apart(nonce, b"".join(parts) + _TYPES[record_type], header)
        self.sequence = sequence + 1
        return header + sealed

    def _seal_many(self, record_type: int, parts: Sequence[Buffer], lengths: list[int]) -> Buffer:
        sequence = self.sequence
        self.sequence = take_sequence(sequence, len(lengths), self._wraps)
        wire = _lay_out(_TRAILERS[record_type], parts, lengths)
        view = memoryview(wire)
        encrypt = self._encrypt
        iv = self._iv
        start = RECORD_HEADER_LENGTH
        for length in lengths:
            end = start + length + TRAILER_LENGTH
            header = _FULL_HEADER if length == MAX_PLAINTEXT else record_header(length)
            nonce = (iv ^ sequence).to_bytes(NONCE_LENGTH)
            encrypt(nonce, view[start : end - TAG_LENGTH], header, view[start:end])
            sequence = (sequence + 1) % SEQUENCE_END
            start = end + RECORD_HEADER_LENGTH
        return wire


def _lay_out(trailer: bytes, parts: Sequence[Buffer], lengths: list[int]) -> bytearray:
    """Headers, payloads and trailers joined; the payloads still in clear, the tags zero."""
    pieces: list[Buffer] = []
    waiting = iter(parts)
    part = memoryview(b"")
    offset = 0
    for wanted in lengths:
        pieces.append(_FULL_HEADER if wanted == MAX_PLAINTEXT else record_header(wanted))
        while (rest := len(part) - offset) < wanted:
            pieces.append(part[offset:])
            wanted -= rest
            part, offset = memoryview(next(waiting)), 0
        pieces.append(part[offset : offset + wanted])
        offset += wanted
        pieces.append(trailer)
    return bytearray().join(pieces)


class Tls13Opener:
    """See Opener. The header of the last record is remembered: the next one is mostly the same."""

    overhead = OVERHEAD

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._iv = int.from_bytes(session.iv, "big")
        self._aead = aead
        self._decrypt_apart = aead.decrypt
        self._framing = framing_of(session)
        self._wraps = session.wraps
        self._header = self._associated = b""
        self._size = 0

    def check_header(self, header: Buffer) -> int:
        return self._framing.check(header)

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        header = record[:RECORD_HEADER_LENGTH].tobytes()
        size = self._size if header == self._header else self._new_header(header)
        if size != len(record):
            raise RecordSize(f"a record of {size} bytes in {len(record)}")
        sequence = self.sequence
        self.sequence = sequence + 1 if sequence < LAST_NUMBER else following(sequence, self._wraps)
        nonce = (self._iv ^ sequence).to_bytes(NONCE_LENGTH)
        end = size - RECORD_HEADER_LENGTH - TAG_LENGTH
        inner = dest[:end]
        try:
            self._aead.decrypt_into(nonce, record[RECORD_HEADER_LENGTH:], self._associated, inner)
        except InvalidTag:
            raise BadRecord(f"record {sequence} of {size} bytes does not verify") from None
        record_type = inner[-1] if end else 0
        return (record_type, end - 1) if record_type else _strip_padding(inner, sequence)

    def open_short(self, record: bytes) -> bytes | None:
        """See ShortOpener."""
        header = record[:RECORD_HEADER_LENGTH]
        sequence = self.sequence
        if (header != self._header and not self._fits(header)) or sequence >= LAST_NUMBER:
            return None
        nonce = (self._iv ^ sequence).to_bytes(NONCE_LENGTH)
        try:
            inner = self._decrypt_apart(nonce, record[RECORD_HEADER_LENGTH:], self._associated)
        except InvalidTag:
            return None
        if not inner or inner[-1] != APPLICATION_DATA:
            return None
        self.sequence = sequence + 1
        return inner[:-1]

    def _fits(self, header: bytes) -> bool:
        """Whether a record may have that header; then it is remembered."""
        size = self._framing.openable(header)
        if size is None:
            return False
        self._remember(header, size)
        return True

    def open_run(self, records: memoryview, size: int, dest: memoryview, most: int) -> int:
        """See RunOpener. Of records whose header is the last one's."""
        if size != self._size:
            return 0
        header, associated, iv = self._header, self._associated, self._iv
        decrypt, sequence = self._aead.decrypt_into, self.sequence
        payload = size - OVERHEAD
        most = min(most, LAST_NUMBER - sequence)
        start = landed = opened = 0
        try:
            while opened < most and records[start : start + RECORD_HEADER_LENGTH] == header:
                end = landed + payload
                nonce = (iv ^ sequence).to_bytes(NONCE_LENGTH)
                sealed = records[start + RECORD_HEADER_LENGTH : start + size]
                decrypt(nonce, sealed, associated, dest[landed : end + 1])
                if dest[end] != APPLICATION_DATA:
                    break
                opened += 1
                sequence += 1
                start += size
                landed = end
        except InvalidTag:
            pass  # `open` says so
        self.sequence = sequence
        return opened

    def _new_header(self, header: bytes) -> int:
        """Another header than the last record's. Linux lets any type pass, but seals with 23."""
        size = self._framing.check(header)
        try:
            self._framing.check_body(size - RECORD_HEADER_LENGTH)
        except RecordMisfit:
            self.sequence = following(self.sequence, self._wraps)
            raise
        self._remember(header, size)
        return size

    def _remember(self, header: bytes, size: int) -> None:
        self._header, self._size = header, size
        self._associated = bytes([OUTER_TYPE]) + header[1:]


def _strip_padding(inner: memoryview, sequence: int) -> tuple[int, int]:
    """Type and length of an inner plaintext with zeros behind the type (RFC 8446 section 5.4)."""
    stripped = bytes(inner).rstrip(b"\0")
    if not stripped:
        raise BadRecord(
            f"record {sequence} holds nothing but padding", alert=TlsAlert.UNEXPECTED_MESSAGE
        )
    return stripped[-1], len(stripped) - 1
