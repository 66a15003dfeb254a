"""TLS 1.3 records (RFC 8446 section 5) around any AEAD of the cryptography package.

A sealed record on the wire, N bytes of payload:

    | 23 | 3 3 | N+17 | payload (N) | type (1) | tag (16) |
    '---- header ----''-------- encrypted ----'
      associated data

The nonce is the IV with the sequence number XORed into its end; as integers, one XOR.

Sealing joins header, payload, type and room for the tag of all records into one buffer and then
encrypts each record where it stands: one copy of the message and no allocation per record. Opening
decrypts to where the payload is wanted; the inner type lands on the byte behind it, so that the
next record's payload, written there, makes the two contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag

from umktls.ktls.engines import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Buffer
from umktls.ktls.errors import BadRecord, KeyExhausted, RecordSize, RecordVersion
from umktls.ktls.session import Session

OUTER_TYPE = 23
TAG_LENGTH = 16
TRAILER_LENGTH = 1 + TAG_LENGTH
OVERHEAD = RECORD_HEADER_LENGTH + TRAILER_LENGTH
MIN_LENGTH = TRAILER_LENGTH
MAX_LENGTH = MAX_PLAINTEXT + TRAILER_LENGTH
NONCE_LENGTH = 12
SEQUENCE_END = 2**64

_HEADER_OF_NOTHING = int.from_bytes([OUTER_TYPE, 3, 3, 0, TRAILER_LENGTH], "big")


class Aead(Protocol):
    """What AESGCM, AESCCM and ChaCha20Poly1305 have in common."""

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int: ...

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int: ...


def record_header(payload_length: int) -> bytes:
    """The five bytes in front of a record with that much payload."""
    return (_HEADER_OF_NOTHING + payload_length).to_bytes(RECORD_HEADER_LENGTH, "big")


_FULL_HEADER = record_header(MAX_PLAINTEXT)
_FULL_SIZE = OVERHEAD + MAX_PLAINTEXT
_TRAILERS = [bytes([record_type]) + bytes(TAG_LENGTH) for record_type in range(256)]


class Tls13Sealer:
    """See Sealer."""

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._iv = int.from_bytes(session.iv, "big")
        self._aead = aead

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        total = sum(map(len, parts))
        if total > payload_limit:
            return self._seal_many(record_type, parts, _record_lengths(total, payload_limit))
        sequence = self._take(1)
        header = record_header(total)
        wire = bytearray().join((header, *parts, _TRAILERS[record_type]))
        body = memoryview(wire)[RECORD_HEADER_LENGTH:]
        nonce = (self._iv ^ sequence).to_bytes(NONCE_LENGTH)
        self._aead.encrypt_into(nonce, body[:-TAG_LENGTH], header, body)
        return wire

    def _seal_many(self, record_type: int, parts: Sequence[Buffer], lengths: list[int]) -> Buffer:
        sequence = self._take(len(lengths))
        wire = _lay_out(_TRAILERS[record_type], parts, lengths)
        view = memoryview(wire)
        encrypt = self._aead.encrypt_into
        iv = self._iv
        start = RECORD_HEADER_LENGTH
        for length in lengths:
            end = start + length + TRAILER_LENGTH
            header = _FULL_HEADER if length == MAX_PLAINTEXT else record_header(length)
            nonce = (iv ^ sequence).to_bytes(NONCE_LENGTH)
            encrypt(nonce, view[start : end - TAG_LENGTH], header, view[start:end])
            sequence += 1
            start = end + RECORD_HEADER_LENGTH
        return wire

    def _take(self, records: int) -> int:
        """The first of that many sequence numbers, none of which is given again."""
        sequence = self.sequence
        if sequence + records > SEQUENCE_END:
            raise KeyExhausted(f"sequence number {sequence} leaves no room for this message")
        self.sequence = sequence + records
        return sequence


def _record_lengths(total: int, payload_limit: int) -> list[int]:
    full, rest = divmod(total, payload_limit)
    return [payload_limit] * full + ([rest] if rest else [])


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
    """See Opener."""

    overhead = OVERHEAD

    def __init__(self, session: Session, aead: Aead) -> None:
        self.sequence = session.sequence
        self._iv = int.from_bytes(session.iv, "big")
        self._aead = aead

    def check_header(self, header: Buffer) -> int:
        outer_type, major, minor, high, low = header
        if (major, minor) != (3, 3):
            raise RecordVersion(f"a record says version {major}.{minor}; TLS 1.3 records say 3.3")
        if outer_type != OUTER_TYPE:
            raise RecordVersion(f"a record of outer type {outer_type}; TLS 1.3 has only 23")
        length = high << 8 | low
        if not MIN_LENGTH <= length <= MAX_LENGTH:
            raise RecordSize(
                f"a record of {length} bytes; TLS 1.3 has {MIN_LENGTH} to {MAX_LENGTH}"
            )
        return RECORD_HEADER_LENGTH + length

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        header = record[:RECORD_HEADER_LENGTH].tobytes()
        size = _FULL_SIZE if header == _FULL_HEADER else self.check_header(header)
        if size != len(record):
            raise RecordSize(f"a record of {size} bytes in {len(record)}")
        sequence = self.sequence
        if sequence == SEQUENCE_END:
            raise BadRecord("the sequence numbers are used up")
        self.sequence = sequence + 1
        nonce = (self._iv ^ sequence).to_bytes(NONCE_LENGTH)
        end = size - RECORD_HEADER_LENGTH - TAG_LENGTH
        inner = dest[:end]
        try:
            self._aead.decrypt_into(nonce, record[RECORD_HEADER_LENGTH:], header, inner)
        except InvalidTag:
            raise BadRecord(f"record {sequence} of {size} bytes does not verify") from None
        record_type = inner[-1]
        return (record_type, end - 1) if record_type else _strip_padding(inner, sequence)


def _strip_padding(inner: memoryview, sequence: int) -> tuple[int, int]:
    """Type and length of an inner plaintext with zeros behind the type (RFC 8446 section 5.4)."""
    stripped = bytes(inner).rstrip(b"\0")
    if not stripped:
        raise BadRecord(f"record {sequence} holds nothing but padding")
    return stripped[-1], len(stripped) - 1
