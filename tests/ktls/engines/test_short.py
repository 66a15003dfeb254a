"""Short messages and records, which are copied: the same bytes, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ktls.helpers import ENGINE, SUITE_NAMES, flipped, session
from umktls.ktls.engines import SHORT, Buffer, short_opener_of, short_sealer_of
from umktls.ktls.engines.aeads import AEADS
from umktls.ktls.engines.cutting import LAST_NUMBER, SEQUENCE_END
from umktls.ktls.engines.tls13 import Tls13Opener, Tls13Sealer
from umktls.ktls.session.errors import BadRecord, KeyExhausted
from umktls.ktls.session.suites import SUITES

SEALED_LENGTHS = [(23, 0), (23, 1), (22, 1), (23, 300), (21, 300), (23, SHORT), (23, SHORT + 1)]
AES128 = "TLS_AES_128_GCM_SHA256"


def opener(name: str = AES128, number: int = 0) -> Tls13Opener:
    made = ENGINE.opener(session(SUITES[name], number))
    assert isinstance(made, Tls13Opener)
    return made


def sealer(name: str = AES128, number: int = 0) -> Tls13Sealer:
    made = ENGINE.sealer(session(SUITES[name], number))
    assert isinstance(made, Tls13Sealer)
    return made


def bare(name: str, sealed: bytes, kind: int, length: int) -> bytes:
    """The record that has zeros for its payload, by the AEAD alone."""
    at = session(SUITES[name])
    aead, header = AEADS[at.suite.cipher](at.key), sealed[:5]
    number = SEALED_LENGTHS.index((kind, length))
    nonce = (int.from_bytes(at.iv) ^ number).to_bytes(12)
    assert header == b"\x17\x03\x03" + (length + 17).to_bytes(2)
    room = bytearray(length + 17)
    aead.encrypt_into(nonce, bytes(length) + bytes([kind]), header, room)
    return header + room


def record(payload: bytes = b"payload", kind: int = 23, number: int = 0) -> bytes:
    return bytes(sealer(number=number).seal(kind, [payload]))


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_short_messages_become_the_same_records(name: str) -> None:
    one, other, opens = sealer(name), sealer(name), opener(name)
    for kind, length in SEALED_LENGTHS:
        parts: list[Buffer] = [bytearray(length // 3), memoryview(bytes(length - length // 3))]
        sealed = bytes(one.seal_short(kind, parts, length))  # SHORT + 1: the other way of `seal`
        assert sealed == bytes(other.seal(kind, parts)) == bare(name, sealed, kind, length)
        assert one.sequence == other.sequence
        opened = opens.open_short(sealed)
        assert opened == (bytes(length) if kind == 23 else None)
        opens.sequence = one.sequence


def padded() -> bytes:
    """A record of application data with a zero behind its type."""
    return bytes(sealer().seal(0, [b"payload\x17"]))


@pytest.mark.parametrize(
    "made",
    [
        lambda: record(kind=22),
        lambda: record(b"", kind=21),
        padded,
        lambda: record(number=2),
        lambda: flipped(record(), -1),
        lambda: flipped(record(), 0),
        lambda: flipped(record(), 1),
        lambda: flipped(record(), 3, 0x80),
        lambda: b"\x17\x03\x03\0\x05short",
    ],
)
def test_what_is_special_was_not_looked_at(made: Callable[[], bytes]) -> None:
    opens = opener()
    assert opens.open_short(made()) is None
    assert opens.sequence == 0
    assert opens.open_short(record()) == b"payload"
    assert opens.sequence == 1
    assert opens.open_short(made()) is None
    assert opens.sequence == 1


def test_what_does_not_verify_is_opens_to_refuse() -> None:
    opens, bad = opener(), flipped(record(), -1)
    assert opens.open_short(bad) is None
    with pytest.raises(BadRecord):
        opens.open(memoryview(bad), memoryview(bytearray(len(bad))))
    assert opens.sequence == 1


def test_the_last_number_is_not_passed() -> None:
    last = sealer(number=LAST_NUMBER)
    sealed = bytes(last.seal_short(23, [b"payload"], 7))
    assert last.sequence == SEQUENCE_END
    with pytest.raises(KeyExhausted):
        last.seal_short(23, [b"payload"], 7)
    opens = opener(number=LAST_NUMBER)
    assert opens.open_short(sealed) is None
    room = memoryview(bytearray(len(sealed)))
    assert opens.open(memoryview(sealed), room) == (23, 7)


def test_who_has_no_short_way_is_not_asked() -> None:
    assert short_opener_of(object()) is None  # type: ignore[arg-type]
    assert short_sealer_of(object()) is None  # type: ignore[arg-type]
