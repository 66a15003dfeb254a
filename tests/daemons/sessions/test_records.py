"""Records and handshake messages: proven counts, shadows, messages in any split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_daemons.sessions.records import (
    HANDSHAKE,
    MAX_MESSAGE,
    HandshakeMessages,
    Ratchet,
    ShadowReceiver,
    ShadowSender,
    key_update_message,
    proven_count,
    seal_record,
    split_records,
)
from umktls_daemons.tls.alerts import Alert, Breach, advice_for

from umktls.abi.alerts import TlsAlert, alert_name
from umktls.errors import PeerError
from umktls.ktls.session import Session
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import SUITES, Suite
from umktls.userland.libc import Record

SECRET = bytes(range(32))
HANDSHAKE_SECRET = bytes(32)
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
KEYS = Session.from_secret(SUITE, SECRET)
CLEAR = [b"\x16\x03\x03\x00\x02hi", b"\x14\x03\x03\x00\x01\x01"]


def sealed(secret: bytes, count: int, first: int = 0, suite: Suite = SUITE) -> list[bytes]:
    return [
        seal_record(Session.from_secret(suite, secret, number), Record(22, b"message"))
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_counts(suite: Suite, count: int) -> None:
    records = sealed(SECRET, count, suite=suite)
    assert proven_count(records, Session.from_secret(suite, SECRET)) == count


@pytest.mark.parametrize("other", [*CLEAR, sealed(HANDSHAKE_SECRET, 1)[0]])
def test_what_is_not_under_the_key_is_an_error(other: bytes) -> None:
    with pytest.raises(PeerError, match="record 0 does not open"):
        proven_count([other, *sealed(SECRET, 1)], KEYS)


def test_a_flipped_byte_is_one_error() -> None:
    records = sealed(SECRET, 3)
    damaged = bytearray(records[1])
    damaged[-1] ^= 1
    with pytest.raises(PeerError, match="record 1 does not open"):
        proven_count([records[0], bytes(damaged), records[2]], KEYS)


def test_a_missing_record_is_an_error() -> None:
    records = sealed(SECRET, 3)
    with pytest.raises(PeerError, match="record 1 does not open"):
        proven_count([records[0], records[2]], KEYS)


def test_the_receiver_counts_for_itself() -> None:
    receiver = ShadowReceiver(replace(KEYS, sequence=4))
    record = Record(22, b"message")
    assert receiver.seal(record) == sealed(SECRET, 1, 4)[0]
    assert receiver.seal(record) == sealed(SECRET, 1, 5)[0]
    after = next_traffic_secret(SUITE, SECRET)
    receiver.update(Session.from_secret(SUITE, after))
    assert receiver.seal(record) == sealed(after, 1)[0]


def test_a_secret_goes_on() -> None:
    ratchet = Ratchet(SUITE, SECRET)
    after = next_traffic_secret(SUITE, SECRET)
    assert ratchet.turn() == Session.from_secret(SUITE, after)
    assert ratchet.turn() == Session.from_secret(SUITE, next_traffic_secret(SUITE, after))


def test_the_sender_keeps_key_updates_back() -> None:
    sender = ShadowSender(SECRET, replace(KEYS, sequence=2))
    update = Record(HANDSHAKE, key_update_message(False))
    output = sealed(SECRET, 1, 2)[0]
    output += seal_record(Session.from_secret(SUITE, SECRET, 3), update)
    output += sealed(next_traffic_secret(SUITE, SECRET), 1)[0]
    assert list(sender.open_all(output)) == [Record(22, b"message")] * 2


def test_key_update_bytes() -> None:
    assert key_update_message(True) == b"\x18\0\0\x01\x01"
    assert key_update_message(False) == b"\x18\0\0\x01\0"


bodies = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5)


@given(bodies, st.data())
def test_messages_in_any_split(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    wire = b"".join(
        bytes((number,)) + len(body).to_bytes(3, "big") + body for number, body in messages
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=4)))
    reader = HandshakeMessages()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += reader.feed_untrusted(wire[start:end])
    assert [tuple(message) for message in found] == messages


@given(st.lists(st.binary(max_size=50)))
def test_garbage_is_a_breach_at_most(records: list[bytes]) -> None:
    reader = HandshakeMessages()
    for content in records:
        try:
            reader.feed_untrusted(content)
        except Breach:
            return


def test_a_message_may_have_so_many_bytes() -> None:
    head = b"\x04" + MAX_MESSAGE.to_bytes(3)
    reader = HandshakeMessages()
    assert reader.feed_untrusted(head) == []
    (message,) = reader.feed_untrusted(bytes(MAX_MESSAGE))
    assert tuple(message) == (4, bytes(MAX_MESSAGE))
    with pytest.raises(Breach):
        reader.feed_untrusted(b"\x04" + (MAX_MESSAGE + 1).to_bytes(3))


def test_splitting() -> None:
    assert split_records(b"".join(CLEAR)) == CLEAR
    assert split_records(b"") == []


class Copied(bytes):
    """Counts in `total` how many bytes are copied out of it, and of what is copied."""

    total: list[int]

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, int):
            return found
        self.total[0] += len(found)
        return copied(found, self.total)

    def __radd__(self, before: bytes) -> Copied:
        return copied(before + bytes(self), self.total)


def copied(data: bytes, total: list[int]) -> Copied:
    made = Copied(data)
    made.total = total
    return made


@pytest.mark.parametrize(
    ("piece", "take_apart"),
    [
        (b"\x16\x03\x03\x00\x01x", split_records),
        (b"\x18\0\0\x01\0", lambda data: HandshakeMessages().feed_untrusted(data)),
    ],
)
def test_many_pieces_cost_no_more_than_they_are_long(piece: bytes, take_apart: Any) -> None:
    data = copied(piece * 3000, [0])
    assert len(take_apart(data)) == 3000
    assert data.total[0] <= 2 * len(data)


@given(st.binary(min_size=2, max_size=2))
def test_alerts(data: bytes) -> None:
    alert = Alert.decode_untrusted(data)
    assert alert.encode() == data
    assert alert.closes == (data[1] == 0)


@given(st.binary(max_size=5).filter(lambda data: len(data) != 2))
def test_what_is_no_alert(data: bytes) -> None:
    with pytest.raises(Breach) as caught:
        Alert.decode_untrusted(data)
    # RFC 8446 section 5.4: an empty one is unexpected; section 5.1: it holds exactly one.
    expected = "decode_error" if data else "unexpected_message"
    assert alert_name(caught.value.alert) == expected


@pytest.mark.parametrize(
    ("number", "name"), [(0, "close_notify"), (48, "unknown_ca"), (120, "no_application_protocol")]
)
def test_alert_names(number: int, name: str) -> None:
    assert alert_name(number) == name
    assert advice_for(number)


def test_an_alert_without_a_name() -> None:
    assert alert_name(250) == "alert 250"
    assert "log" in advice_for(250)


def test_behind_the_handshake_versions_are_not_at_issue() -> None:
    assert "TLS 1.3" in advice_for(TlsAlert.PROTOCOL_VERSION)
    assert NULL_ON_ONE_SIDE in advice_for(TlsAlert.PROTOCOL_VERSION, behind=True)
    for number in (TlsAlert.UNKNOWN_CA, TlsAlert.CERTIFICATE_REQUIRED, 250):
        assert advice_for(number, behind=True) == advice_for(number)
