"""Known answers: the key schedule and every protected record of RFC 8448 section 3."""

from __future__ import annotations

import pytest

from tests.ktls.session import rfc8448
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import (
    derive_secret,
    hkdf_expand_label,
    hkdf_extract,
    next_traffic_secret,
    traffic_key_iv,
)
from umktls.ktls.session.suites import SUITES

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
ENGINE = get_engine("software")


def open_record(secret: bytes, record: bytes, sequence: int = 0) -> tuple[int, bytes]:
    opener = ENGINE.opener(Session.from_secret(SUITE, secret, sequence))
    dest = memoryview(bytearray(len(record)))
    record_type, length = opener.open(memoryview(record), dest)
    assert opener.sequence == sequence + 1
    return record_type, bytes(dest[:length])


@pytest.mark.parametrize("name", rfc8448.TRAFFIC_KEYS)
def test_traffic_keys(name: str) -> None:
    secret, key, iv = rfc8448.TRAFFIC_KEYS[name]
    assert traffic_key_iv(SUITE, secret) == (key, iv)


def test_secrets_up_to_the_handshake() -> None:
    early = hkdf_extract("sha256", b"", bytes(32))
    assert early == rfc8448.EARLY_SECRET
    derived = derive_secret("sha256", early, "derived", b"")
    handshake = hkdf_extract("sha256", derived, rfc8448.ECDHE)
    assert handshake == rfc8448.HANDSHAKE_SECRET
    hellos = rfc8448.CLIENT_HELLO + rfc8448.SERVER_HELLO
    assert derive_secret("sha256", handshake, "c hs traffic", hellos) == rfc8448.CLIENT_HANDSHAKE
    assert derive_secret("sha256", handshake, "s hs traffic", hellos) == rfc8448.SERVER_HANDSHAKE


def test_secrets_of_the_application() -> None:
    derived = derive_secret("sha256", rfc8448.HANDSHAKE_SECRET, "derived", b"")
    master = hkdf_extract("sha256", derived, bytes(32))
    assert master == rfc8448.MASTER_SECRET
    _, flight = open_record(rfc8448.SERVER_HANDSHAKE, rfc8448.SERVER_FLIGHT_RECORD)
    transcript = rfc8448.CLIENT_HELLO + rfc8448.SERVER_HELLO + flight
    client = derive_secret("sha256", master, "c ap traffic", transcript)
    server = derive_secret("sha256", master, "s ap traffic", transcript)
    assert (client, server) == (rfc8448.CLIENT_APPLICATION, rfc8448.SERVER_APPLICATION)


def test_the_server_flight_opens() -> None:
    record_type, flight = open_record(rfc8448.SERVER_HANDSHAKE, rfc8448.SERVER_FLIGHT_RECORD)
    assert record_type == 22
    assert len(flight) == 657
    assert flight[:6] == bytes.fromhex("08 00 00 24 00 22")
    assert flight[-36:-32] == bytes.fromhex("14 00 00 20")


def test_the_client_finished_opens() -> None:
    record_type, finished = open_record(rfc8448.CLIENT_HANDSHAKE, rfc8448.CLIENT_FINISHED_RECORD)
    assert record_type == 22
    assert finished.hex() == (
        "14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61"
    )


APPLICATION_RECORDS = [
    ("server data", rfc8448.SERVER_APPLICATION, 1, 23, rfc8448.DATA, rfc8448.SERVER_DATA_RECORD),
    (
        "server alert",
        rfc8448.SERVER_APPLICATION,
        2,
        21,
        rfc8448.CLOSE_NOTIFY,
        rfc8448.SERVER_ALERT_RECORD,
    ),
    ("client data", rfc8448.CLIENT_APPLICATION, 0, 23, rfc8448.DATA, rfc8448.CLIENT_DATA_RECORD),
    (
        "client alert",
        rfc8448.CLIENT_APPLICATION,
        1,
        21,
        rfc8448.CLOSE_NOTIFY,
        rfc8448.CLIENT_ALERT_RECORD,
    ),
]


@pytest.mark.parametrize(
    ("secret", "sequence", "record_type", "payload", "record"),
    [row[1:] for row in APPLICATION_RECORDS],
    ids=[row[0] for row in APPLICATION_RECORDS],
)
def test_application_records(
    secret: bytes, sequence: int, record_type: int, payload: bytes, record: bytes
) -> None:
    assert open_record(secret, record, sequence) == (record_type, payload)
    sealer = ENGINE.sealer(Session.from_secret(SUITE, secret, sequence))
    assert sealer.seal(record_type, (payload[:1], payload[1:])) == record


def test_the_ticket_is_record_0_and_comes_back_the_same() -> None:
    record_type, ticket = open_record(rfc8448.SERVER_APPLICATION, rfc8448.SERVER_TICKET_RECORD)
    assert (record_type, ticket[0], len(ticket)) == (22, 4, 205)
    sealer = ENGINE.sealer(Session.from_secret(SUITE, rfc8448.SERVER_APPLICATION))
    assert sealer.seal(22, (ticket,)) == rfc8448.SERVER_TICKET_RECORD


@pytest.mark.parametrize("name", sorted(SUITES))
def test_the_next_secret_has_the_hash_s_length(name: str) -> None:
    suite = SUITES[name]
    secret = bytes(48 if suite.hash_name == "sha384" else 32)
    after = next_traffic_secret(suite, secret)
    assert len(after) == len(secret)
    assert after == hkdf_expand_label(suite.hash_name, secret, "traffic upd", b"", len(secret))
    assert next_traffic_secret(suite, after) != after
