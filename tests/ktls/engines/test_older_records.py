"""Records of TLS 1.0 to 1.2: cutting, nonces, faults, ends of sequence numbers."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.reference import reference_cbc_record
from tests.conformance.world import keys
from tests.ktls.helpers import ENGINE, flipped
from umktls.ktls.engines import DEST_SHORTER_BY, Opener
from umktls.ktls.session import Session
from umktls.ktls.session.errors import (
    BadRecord,
    KeyExhausted,
    RecordError,
    RecordMisfit,
    RecordSize,
    RecordVersion,
)
from umktls.ktls.session.framing import framing_of
from umktls.ktls.session.suites import OTHER_SUITES, TLS_1_0, TLS_1_2, TLS_1_3

HERE = [
    (name, version)
    for name, suite in OTHER_SUITES.items()
    for version in suite.versions
    if version != TLS_1_3
]
RECEIVED = [row for row in HERE if row[1] != TLS_1_0]
AEADS = [row for row in HERE if "CBC" not in row[0]]
CBC = [row for row in RECEIVED if "CBC" in row[0]]


def session(row: tuple[str, int], sequence: int = 0, nonce: int | None = None) -> Session:
    return keys(OTHER_SUITES[row[0]], row[1], sequence, nonce=nonce)


def seal(keys_: Session, data: bytes, record_type: int = 23, limit: int = 16384) -> bytes:
    return bytes(ENGINE.sealer(keys_).seal(record_type, (data,), limit))


def open_one(opener: Opener, record: bytes) -> tuple[int, bytes]:
    dest = memoryview(bytearray(max(0, len(record) - DEST_SHORTER_BY)))
    record_type, length = opener.open(memoryview(record), dest)
    return record_type, bytes(dest[:length])


def open_all(opener: Opener, wire: bytes) -> list[tuple[int, bytes]]:
    found = []
    while wire:
        size = opener.check_header(wire[:5])
        found.append(open_one(opener, wire[:size]))
        wire = wire[size:]
    return found


@pytest.mark.parametrize("row", RECEIVED)
@pytest.mark.parametrize(
    ("total", "lengths"),
    [(0, [0]), (1, [1]), (16384, [16384]), (16385, [16384, 1]), (65537, [16384] * 4 + [1])],
)
def test_cutting_into_records(row: tuple[str, int], total: int, lengths: list[int]) -> None:
    message = bytes(i % 251 for i in range(total))
    sealer = ENGINE.sealer(session(row, 7))
    parts = (message[:7], bytearray(b""), memoryview(message[7:]))
    records = open_all(ENGINE.opener(session(row, 7)), bytes(sealer.seal(22, parts)))
    assert [len(payload) for _, payload in records] == lengths
    assert {kind for kind, _ in records} == {22}
    assert b"".join(payload for _, payload in records) == message
    assert sealer.sequence == 7 + len(lengths)


@given(
    row=st.sampled_from(RECEIVED),
    parts=st.lists(st.binary(max_size=100), max_size=4),
    limit=st.integers(1, 80),
)
def test_any_parts_come_back(row: tuple[str, int], parts: list[bytes], limit: int) -> None:
    wire = bytes(ENGINE.sealer(session(row)).seal(100, parts, limit))
    records = open_all(ENGINE.opener(session(row)), wire)
    assert b"".join(payload for _, payload in records) == b"".join(parts)
    assert all(len(payload) <= limit for _, payload in records)


@pytest.mark.parametrize("row", RECEIVED)
def test_every_flipped_bit_is_one_error(row: tuple[str, int]) -> None:
    record = seal(session(row), b"\0\1\2\3")
    for index in range(len(record)):
        for bit in range(8):
            opener = ENGINE.opener(session(row))
            bad = flipped(record, index, 1 << bit)
            with pytest.raises(RecordError) as caught:
                open_one(opener, bad)
            expected: type[RecordError] = BadRecord
            if index in (1, 2):
                expected = RecordVersion
            elif index in (3, 4):
                expected = RecordSize
            assert type(caught.value) is expected
            assert opener.sequence == (1 if expected is BadRecord else 0)


@pytest.mark.parametrize("row", HERE)
def test_no_sequence_number_is_used_twice(row: tuple[str, int]) -> None:
    sealer = ENGINE.sealer(session(row, 2**64 - 1))
    with pytest.raises(KeyExhausted) as caught:
        sealer.seal(23, (b"x" * 16385,))
    assert caught.value.errno == errno.EBADMSG
    last = bytes(sealer.seal(23, (b"last",)))
    with pytest.raises(KeyExhausted):
        sealer.seal(23, (b"one more",))
    if row[1] == TLS_1_0:
        return
    opener = ENGINE.opener(session(row, 2**64 - 1))
    assert open_one(opener, last) == (23, b"last")
    with pytest.raises(BadRecord):
        open_one(opener, last)


@pytest.mark.parametrize("row", [row for row in AEADS if "CHACHA" not in row[0]])
def test_explicit_nonces_count_from_where_they_are_told(row: tuple[str, int]) -> None:
    sealer = ENGINE.sealer(session(row, nonce=2**64 - 1))
    first, second = (bytes(sealer.seal(23, (b"x",)))[5:13] for _ in range(2))
    assert (first, second) == (b"\xff" * 8, bytes(8))
    later = session(row, nonce=5).at(3)
    assert later.nonce == 8
    assert seal(later, b"x")[5:13] == (8).to_bytes(8, "big")


@pytest.mark.parametrize("row", CBC)
def test_cbc_ivs_are_never_the_same(row: tuple[str, int]) -> None:
    sealer = ENGINE.sealer(session(row))
    assert len({bytes(sealer.seal(23, (b"x",)))[5:21] for _ in range(20)}) == 20


def test_the_iv_of_tls_1_0_is_the_block_before() -> None:
    row = ("AES_128_CBC_SHA", TLS_1_0)
    sealer = ENGINE.sealer(session(row))
    first = bytes(sealer.seal(23, (b"one",)))
    second = bytes(sealer.seal(23, (b"two",)))
    assert second != seal(session(row, 1), b"two")

    assert second == seal(replace(session(row, 1), iv=first[-16:]), b"two")


@pytest.mark.parametrize("row", RECEIVED)
def test_overhead_is_what_records_are_longer_at_least(row: tuple[str, int]) -> None:
    overhead = ENGINE.opener(session(row)).overhead
    longer = {len(seal(session(row), b"x" * n)) - n for n in range(33)}
    assert min(longer) == overhead
    assert overhead - 5 <= framing_of(session(row)).least


@pytest.mark.parametrize("row", RECEIVED)
def test_a_record_in_a_view_of_another_length_is_refused(row: tuple[str, int]) -> None:
    record = seal(session(row), b"data")
    opener = ENGINE.opener(session(row))
    for bad in (record + b"\0", record[:-1]):
        with pytest.raises(RecordSize):
            open_one(opener, bad)
    assert opener.sequence == 0


@pytest.mark.parametrize("row", CBC)
def test_padding_up_to_a_whole_record(row: tuple[str, int]) -> None:
    """255 bytes of padding are allowed, and one that claims more than there is is bad."""

    suite = OTHER_SUITES[row[0]]
    for length in range(16):
        data = b"x" * length
        padding = 255 - (255 + 1 + length + suite.tag_length) % 16
        record = reference_cbc_record(session(row), data, padding, 0)
        assert open_one(ENGINE.opener(session(row)), record) == (23, data)


def test_framing_by_opinion() -> None:

    cbc = session(("AES_128_CBC_SHA", TLS_1_2))
    freebsd = framing_of(replace(cbc, framing="freebsd"))
    assert (freebsd.needed, freebsd.shortest, freebsd.least) == (21, 16, 48)
    assert freebsd.longest == 16 + 16384 + 16 + 20
    strict = framing_of(cbc)
    assert (strict.needed, strict.shortest, strict.least) == (5, 48, 48)
    assert strict.longest == 16 + 16384 + 20 + 256
    with pytest.raises(RecordMisfit):
        freebsd.check_body(47)
    with pytest.raises(RecordMisfit):
        freebsd.check_body(49)
    freebsd.check_body(48)
    for minor, version in ((1, TLS_1_0), (3, TLS_1_2)):
        assert framing_of(session(("AES_128_CBC_SHA", version))).minor == minor
