"""Cutting a message into records: lengths, and the pieces of its parts that go into each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from umktls.ktls.errors import KeyExhausted
from umktls.ktls.framing import Buffer

SEQUENCE_END = 2**64


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


def take_sequence(sequence: int, records: int) -> int:
    """What follows `records` records from `sequence` on. Raises KeyExhausted."""
    if sequence + records > SEQUENCE_END:
        raise KeyExhausted(f"sequence number {sequence} leaves no room for this message")
    return sequence + records
