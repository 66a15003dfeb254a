"""The software engine's records, and how engines are found."""

from __future__ import annotations

import errno
import importlib.metadata
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import Literal

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from tests.ktls.helpers import AES128, ENGINE, SUITE_NAMES, flipped, session
from umktls.abi.freebsd import TCP_TLS_MODE_SW
from umktls.errors import CallerError, UnsupportedError
from umktls.ktls import engines
from umktls.ktls.engines import DEST_SHORTER_BY, engine_names, get_engine
from umktls.ktls.engines.tls13 import Tls13Opener
from umktls.ktls.session import Session
from umktls.ktls.session.errors import (
    NULL_ON_ONE_SIDE,
    BadRecord,
    KeyExhausted,
    RecordError,
    RecordSize,
    RecordVersion,
)
from umktls.ktls.session.framing import framing_of
from umktls.ktls.session.suites import SUITES, TLS_1_2

BARE: dict[str, type[AESGCM] | type[AESCCM] | type[ChaCha20Poly1305]] = {
    "TLS_AES_128_GCM_SHA256": AESGCM,
    "TLS_AES_256_GCM_SHA384": AESGCM,
    "TLS_CHACHA20_POLY1305_SHA256": ChaCha20Poly1305,
    "TLS_AES_128_CCM_SHA256": AESCCM,
}


def open_all(wire: bytes, suite_name: str, sequence: int = 0) -> list[tuple[int, bytes]]:
    opener = ENGINE.opener(session(SUITES[suite_name], sequence))
    records = []
    while wire:
        size = opener.check_header(wire[:5])
        dest = memoryview(bytearray(size - DEST_SHORTER_BY))
        record_type, length = opener.open(memoryview(wire)[:size], dest)
        records.append((record_type, bytes(dest[:length])))
        wire = wire[size:]
    return records


def record_by_hand(suite_name: str, inner: bytes, sequence: int = 0) -> bytes:
    """RFC 8446 section 5.2, spelt out with the AEAD's one-shot call."""
    keys = session(SUITES[suite_name])
    header = bytes([23, 3, 3]) + (len(inner) + 16).to_bytes(2, "big")
    nonce = bytes(a ^ b for a, b in zip(keys.iv, sequence.to_bytes(12, "big"), strict=True))
    return header + BARE[suite_name](keys.key).encrypt(nonce, inner, header)


@pytest.mark.parametrize("name", SUITE_NAMES)
@pytest.mark.parametrize("sequence", [0, 1, 255, 2**32, 2**64 - 1])
def test_a_record_is_what_the_rfc_says(name: str, sequence: int) -> None:
    sealer = ENGINE.sealer(session(SUITES[name], sequence))
    by_hand = record_by_hand(name, b"payload\x16", sequence)
    assert sealer.seal(22, (b"pay", bytearray(b"load"))) == by_hand
    assert sealer.sequence == sequence + 1
    assert open_all(by_hand, name, sequence) == [(22, b"payload")]


@pytest.mark.parametrize("name", SUITE_NAMES)
@pytest.mark.parametrize(
    ("total", "lengths"),
    [
        (0, [0]),
        (1, [1]),
        (16383, [16383]),
        (16384, [16384]),
        (16385, [16384, 1]),
        (65536, [16384] * 4),
        (65537, [16384] * 4 + [1]),
    ],
)
def test_cutting_into_records(name: str, total: int, lengths: list[int]) -> None:
    message = bytes(i % 251 for i in range(total))
    sealer = ENGINE.sealer(session(SUITES[name]))
    records = open_all(bytes(sealer.seal(23, (message[:7], b"", message[7:]))), name)
    assert [len(payload) for _, payload in records] == lengths
    assert {record_type for record_type, _ in records} == {23}
    assert b"".join(payload for _, payload in records) == message
    assert sealer.sequence == len(lengths)


def test_payload_limit() -> None:
    sealer = ENGINE.sealer(session())
    records = open_all(bytes(sealer.seal(100, (b"x" * 25,), 10)), AES128.name)
    assert records == [(100, b"x" * 10), (100, b"x" * 10), (100, b"x" * 5)]


@given(
    parts=st.lists(st.binary(max_size=300), max_size=6),
    limit=st.integers(1, 200),
    record_type=st.integers(1, 255),
)
def test_any_parts_come_back(parts: list[bytes], limit: int, record_type: int) -> None:
    wire = bytes(ENGINE.sealer(session()).seal(record_type, parts, limit))
    records = open_all(wire, AES128.name)
    assert b"".join(payload for _, payload in records) == b"".join(parts)
    assert {found for found, _ in records} == {record_type}
    assert all(len(payload) <= limit for _, payload in records)


def test_the_last_sequence_number_is_used_and_none_is_used_twice() -> None:
    sealer = ENGINE.sealer(session(sequence=2**64 - 1))
    with pytest.raises(KeyExhausted) as caught:
        sealer.seal(23, (b"x" * 16385,))
    assert caught.value.errno == errno.EBADMSG
    assert sealer.sequence == 2**64 - 1
    sealer.seal(23, (b"last",))
    with pytest.raises(KeyExhausted):
        sealer.seal(23, (b"one more",))
    opener = ENGINE.opener(session(sequence=2**64 - 1))
    record = memoryview(record_by_hand(AES128.name, b"last\x17", 2**64 - 1))
    opener.open(record, memoryview(bytearray(5)))
    with pytest.raises(BadRecord):
        opener.open(record, memoryview(bytearray(5)))


def test_numbers_that_begin_anew_do_so_behind_the_last() -> None:
    wrapping = replace(session(sequence=2**64 - 1), wraps=True)
    numbers = ((b"last", 2**64 - 1), (b"first", 0), (b"second", 1))
    records = [record_by_hand(AES128.name, text + b"\x17", number) for text, number in numbers]
    sealer, opener = ENGINE.sealer(wrapping), ENGINE.opener(wrapping)
    assert [bytes(sealer.seal(23, (text,))) for text, _ in numbers] == records
    for record in records:
        opener.open(memoryview(record), memoryview(bytearray(len(record))))
    together = ENGINE.sealer(wrapping).seal(23, (b"lastfirsts",), 5)
    assert [text for _, text in open_all(bytes(together)[:27], AES128.name, 2**64 - 1)] == [
        b"lastf"
    ]
    assert [text for _, text in open_all(bytes(together)[27:], AES128.name)] == [b"irsts"]


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_flipped_bit_is_one_error(name: str) -> None:
    record = record_by_hand(name, b"\0\1\2\3\x17")
    for index in range(len(record)):
        for bit in range(8):
            opener = ENGINE.opener(session(SUITES[name]))
            bad = memoryview(flipped(record, index, 1 << bit))
            expected = {0: RecordVersion, 1: RecordVersion, 2: RecordVersion}.get(
                index, RecordSize if index in (3, 4) else BadRecord
            )
            with pytest.raises(RecordError) as caught:
                opener.open(bad, memoryview(bytearray(len(record))))
            assert type(caught.value) is expected
            assert opener.sequence == (1 if expected is BadRecord else 0)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("17 03 03 0011", None),
        ("17 03 03 4011", None),
        ("17 03 03 0010", RecordSize),
        ("17 03 03 0000", RecordSize),
        ("17 03 03 4012", RecordSize),
        ("17 03 03 8000", RecordSize),
        ("17 03 03 ffff", RecordSize),
        ("17 02 03 0011", RecordVersion),
        ("17 03 04 0011", RecordVersion),
        ("18 03 03 0011", RecordVersion),
        ("16 03 01 ffff", RecordVersion),
    ],
)
def test_headers(header: str, error: type[RecordError] | None) -> None:
    opener = ENGINE.opener(session())
    data = bytes.fromhex(header)
    if error is None:
        assert opener.check_header(data) == 5 + int.from_bytes(data[3:], "big")
        return
    with pytest.raises(error) as caught:
        opener.check_header(data)
    assert type(caught.value) is error
    assert NULL_ON_ONE_SIDE not in str(caught.value)


@pytest.mark.parametrize("framing", ["strict", "freebsd", "linux"])
@pytest.mark.parametrize("header", ["80 00 00 2c 5a", "80 00 04 4c 00", "00 10 00 00 5a"])
def test_clear_rpc_is_told_from_a_bad_record(
    header: str, framing: Literal["strict", "freebsd", "linux"]
) -> None:
    """A record mark and the first byte of an xid, whichever fault a kernel tells of them."""
    checked = framing_of(replace(session(), framing=framing))
    with pytest.raises(RecordError) as caught:
        checked.check(bytes.fromhex(header))
    assert NULL_ON_ONE_SIDE in str(caught.value)


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (b"data\x17" + bytes(16), (23, b"data")),
        (b"data\0\x16" + bytes(3), (22, b"data\0")),
        (b"\x15\0", (21, b"")),
        (b"x" * 16368 + b"\x17" + bytes(16), (23, b"x" * 16368)),
    ],
)
def test_padding_is_removed(inner: bytes, expected: tuple[int, bytes]) -> None:
    assert open_all(record_by_hand(AES128.name, inner), AES128.name) == [expected]


@pytest.mark.parametrize("length", [1, 2, 17, 16385])
def test_nothing_but_padding_is_bad(length: int) -> None:
    with pytest.raises(BadRecord):
        open_all(record_by_hand(AES128.name, bytes(length)), AES128.name)


def test_a_record_in_a_view_of_another_length_is_refused() -> None:
    record = record_by_hand(AES128.name, b"data\x17")
    opener = ENGINE.opener(session())
    for bad in (record + b"\0", record[:-1]):
        with pytest.raises(RecordSize):
            opener.open(memoryview(bad), memoryview(bytearray(64)))
    assert opener.sequence == 0


def test_overhead_is_what_records_are_longer() -> None:
    assert len(ENGINE.sealer(session()).seal(23, (b"",))) == Tls13Opener.overhead


def test_consecutive_records_land_one_behind_the_other() -> None:
    wire = memoryview(bytes(ENGINE.sealer(session()).seal(23, (b"abcdefgh",), 3)))
    opener = ENGINE.opener(session())
    dest = memoryview(bytearray(9))
    start = landed = 0
    while start < len(wire):
        size = opener.check_header(wire[start : start + 5])
        landed += opener.open(wire[start : start + size], dest[landed:])[1]
        start += size
    assert bytes(dest[:landed]) == b"abcdefgh"


def test_what_the_engine_supports() -> None:
    assert ENGINE.supports(session(), "tx") is None
    old = Session(TLS_1_2, AES128, bytes(16), bytes(4))
    assert "0x0303" in (ENGINE.supports(old, "rx") or "")
    assert ENGINE.mode == TCP_TLS_MODE_SW


def test_sessions_hide_their_keys_and_check_them() -> None:
    text = repr(Session(0x0304, AES128, b"K" * 16, b"I" * 12, 5))
    assert "KKKK" not in text
    assert "IIII" not in text
    assert "5" in text
    with pytest.raises(CallerError):
        Session(0x0304, AES128, b"K" * 15, b"I" * 12)
    with pytest.raises(CallerError):
        Session(0x0304, AES128, b"K" * 16, b"I" * 12, 2**64)


def test_an_engine_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "umktls.nowhere:Engine", engines.ENTRY_POINT_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: EntryPoints((entry,)))
    with pytest.raises(CallerError, match=r"'broken' \(umktls.nowhere:Engine\) cannot be loaded"):
        get_engine("broken")


@pytest.mark.parametrize("name", ["bounce", "null"])
def test_engines_that_make_no_records(name: str) -> None:
    engine, keys = get_engine(name), session()
    with pytest.raises(UnsupportedError, match=f"engine {name} seals nothing"):
        engine.sealer(keys)
    with pytest.raises(UnsupportedError, match=f"engine {name} opens nothing"):
        engine.opener(keys)


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(
        "someone-s", "umktls.ktls.engines.software:SoftwareEngine", engines.ENTRY_POINT_GROUP
    )
    known = EntryPoints((entry,))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: known.select(**query))
    assert {"software", "someone-s"} <= set(engine_names())
    assert get_engine("someone-s").name == "software"
    with pytest.raises(CallerError, match="software, someone-s"):
        get_engine("nobody-s")
