"""Cutting a message into records: lengths, the pieces of its parts, and their sequence numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from umktls.ktls.session.errors import BadRecord, KeyExhausted
from umktls.ktls.session.framing import Buffer

SEQUENCE_END = 2**64
LAST_NUMBER = SEQUENCE_END - 1


def record_lengths(total: int, payload_limit: int) -> list[int]:
    """Payload lengths of the records of a message; an empty one is one empty record."""
    full, rest = divmod(total, payload_limit)
    return [payload_limit] * full + ([rest] if rest or not full else [])


def cut(parts: Sequence[Buffer], lengths: Sequence[int]) -> Iterator[memoryview]:
    """The payload of each record. A message in one part is not copied."""
    message = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
    start = 0
    for length in lengths:
        yield message[start : start + length]
        start += length


def take_sequence(sequence: int, records: int, wraps: bool = False) -> int:
    """What follows `records` records from `sequence` on. Raises KeyExhausted."""
    after = sequence + records
    if wraps:
        return after % SEQUENCE_END
    if after > SEQUENCE_END:
        raise KeyExhausted(f"sequence number {sequence} leaves no room for this message")
    return after


def following(sequence: int, wraps: bool) -> int:
    """The number of the record behind one that was received. Raises BadRecord where it is none."""
    if sequence < LAST_NUMBER:
        return sequence + 1
    if sequence == SEQUENCE_END:
        raise BadRecord("the sequence numbers are used up")
    return 0 if wraps else SEQUENCE_END
