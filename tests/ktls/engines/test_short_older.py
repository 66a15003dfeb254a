"""Short messages and records of TLS 1.2, which are copied: same bytes, same refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from tests.ktls.engines.test_older_records import AEADS, CBC, open_one, session
from tests.ktls.helpers import ENGINE, flipped
from umktls.ktls.engines import SHORT, Buffer, short_opener_of, short_sealer_of
from umktls.ktls.engines.cutting import LAST_NUMBER, SEQUENCE_END
from umktls.ktls.engines.tls12 import Tls12Opener, Tls12Sealer
from umktls.ktls.session import Session
from umktls.ktls.session.errors import BadRecord, KeyExhausted

Row = tuple[str, int]
rows = pytest.mark.parametrize("row", AEADS)


def sealer(of: Session) -> Tls12Sealer:
    made = ENGINE.sealer(of)
    assert isinstance(made, Tls12Sealer)
    return made


def opener(of: Session) -> Tls12Opener:
    made = ENGINE.opener(of)
    assert isinstance(made, Tls12Opener)
    return made


@rows
def test_short_messages_become_the_same_records(row: Row) -> None:
    """As they are by the way that longer ones go, which SHORT + 1 takes in `seal`."""
    keys = session(row, nonce=2**64 - 2)
    one, other, opens, long = sealer(keys), sealer(keys), opener(keys), opener(keys)
    for number, (kind, length) in enumerate([(23, 0), (23, 1), (22, 300), (23, SHORT + 1)]):
        payload = bytes(i % 251 for i in range(length))
        parts: list[Buffer] = [
            bytearray(payload[: length // 3]),
            memoryview(payload[length // 3 :]),
        ]
        sealed = bytes(one.seal_short(kind, parts, length))
        assert sealed == bytes(other.seal(kind, parts))
        assert open_one(long, sealed) == (kind, payload)
        assert opens.open_short(sealed) == (payload if kind == 23 else None)
        opens.sequence = one.sequence
        assert one.sequence == other.sequence == number + 1


@rows
def test_what_is_special_was_not_looked_at(row: Row) -> None:
    opens, record = opener(session(row)), bytes(sealer(session(row)).seal(23, [b"payload"]))
    special = [flipped(record, index) for index in range(len(record)) if index not in (3, 4)]
    special += [bytes(sealer(session(row)).seal(22, [b"payload"]))]
    special += [bytes(sealer(session(row, 2)).seal(23, [b"payload"]))]
    special += [record[:3] + b"\0\x08" + record[5:13]]
    for number in (0, 1):  # also behind a record whose header is remembered
        for bad in special:
            assert opens.open_short(bad) is None
            assert opens.sequence == number
        assert opens.open_short(record) == (None if number else b"payload")


@rows
def test_what_does_not_verify_is_opens_to_refuse(row: Row) -> None:
    opens, record = opener(session(row)), bytes(sealer(session(row)).seal(23, [b"payload"]))
    bad = flipped(record, -1)
    assert opens.open_short(bad) is None
    with pytest.raises(BadRecord):
        open_one(opens, bad)
    assert opens.sequence == 1


@rows
def test_the_last_number_is_not_passed(row: Row) -> None:
    last = sealer(session(row, LAST_NUMBER))
    sealed = bytes(last.seal_short(23, [b"payload"], 7))
    assert last.sequence == SEQUENCE_END
    with pytest.raises(KeyExhausted):
        last.seal_short(23, [b"payload"], 7)
    opens = opener(session(row, LAST_NUMBER))
    assert opens.open_short(sealed) is None
    assert open_one(opens, sealed) == (23, b"payload")


@rows
@pytest.mark.parametrize("framing", ["freebsd", "linux"])
def test_the_kernels_opinions_of_a_header(row: Row, framing: Literal["freebsd", "linux"]) -> None:
    """What is too short for its tag is for `open`, whoever says when that is told."""
    keys = replace(session(row), framing=framing)
    opens = opener(keys)
    for length in range(opens.overhead - 5):
        assert opens.open_short(b"\x17\x03\x03" + length.to_bytes(2) + bytes(length)) is None
    record = bytes(sealer(keys).seal(23, [b"payload"]))
    assert opens.open_short(record) == b"payload"


@pytest.mark.parametrize("row", CBC)
def test_cbc_has_no_short_way(row: Row) -> None:
    assert short_sealer_of(ENGINE.sealer(session(row))) is None
    assert short_opener_of(ENGINE.opener(session(row))) is None
