"""A second implementation: OpenSSL opens what is sealed here, and the other way round."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.ktls.helpers import ENGINE, SUITE_NAMES, receive, seal
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import ALL_SUITES, Suite
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

TICKETS = 2  # what OpenSSL's server sends after a handshake
KEY_UPDATE_REQUESTED = b"\x18\0\0\1\1"
KEY_UPDATE_NOT_REQUESTED = b"\x18\0\0\1\0"
MESSAGES = [b"", b"x", b"hello there" * 100, bytes(range(256)) * 200]


@dataclass
class Peers:
    """A handshaken pair of OpenSSL connections, its secrets, and what the server sent last."""

    suite: Suite
    client: SSL.Connection
    server: SSL.Connection
    secrets: dict[str, bytes] = field(repr=False)
    after_handshake: bytes


def credentials() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    return key, builder.sign(key, hashes.SHA256())


def shake_hands(suite: Suite) -> Peers:
    secrets: dict[str, bytes] = {}

    def keylog(connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.decode("ascii").split(" ")
        secrets[label] = bytes.fromhex(secret)

    key, certificate = credentials()
    server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server_context.use_privatekey(key)
    server_context.use_certificate(certificate)
    server_context.set_tls13_ciphersuites(suite.name.encode("ascii"))
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_context.set_tls13_ciphersuites(suite.name.encode("ascii"))
    client_context.set_keylog_callback(keylog)
    client, server = SSL.Connection(client_context), SSL.Connection(server_context)
    client.set_connect_state()
    server.set_accept_state()
    flight = b""
    for sender, taker in ((client, server), (server, client), (client, server)):
        step(sender)
        taker.bio_write(drain(sender))
    step(server)
    flight = drain(server)
    return Peers(suite, client, server, secrets, flight)


def step(connection: SSL.Connection) -> None:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return


def drain(connection: SSL.Connection) -> bytes:
    data = b""
    while True:
        try:
            data += connection.bio_read(65536)
        except SSL.WantReadError:
            return data


def read_all(connection: SSL.Connection) -> bytes:
    data = b""
    while True:
        try:
            data += connection.recv(65536)
        except SSL.WantReadError:
            return data


def sealing(suite: Suite, secret: bytes, sequence: int = 0) -> Transmitter:
    tx = Transmitter()
    tx.enable(ENGINE.sealer(Session.from_secret(suite, secret, sequence)), suite)
    return tx


def opening(suite: Suite, secret: bytes, sequence: int = 0) -> Receiver:
    rx = Receiver()
    rx.enable(ENGINE.opener(Session.from_secret(suite, secret, sequence)), suite)
    return rx


def records(rx: Receiver, wire: bytes) -> list[tuple[int, bytes]]:
    receive(rx, wire)
    found = []
    while (record := rx.read_record()) is not None:
        found.append((record.type, bytes(record.payload)))
        rx.consume(len(record.payload))
        if found[-1][1][:1] == b"\x18":
            break
    return found


SUITES = [*SUITE_NAMES, "TLS_SM4_GCM_SM3", "TLS_SM4_CCM_SM3"]


@pytest.fixture(params=SUITES)
def peers(request: pytest.FixtureRequest) -> Peers:
    suite = ALL_SUITES[request.param]
    if suite.hash_name not in hashlib.algorithms_available:
        pytest.skip(f"this Python's OpenSSL has no {suite.hash_name}")
    try:
        return shake_hands(suite)
    except SSL.Error as error:
        if request.param in SUITE_NAMES:
            raise
        pytest.skip(f"pyOpenSSL's OpenSSL has no {request.param}: {error}")


def test_what_a_server_leaves_in_the_queue_are_tickets(peers: Peers) -> None:
    """The bytes that SSL_read would swallow and recv would not."""
    rx = opening(peers.suite, peers.secrets["SERVER_TRAFFIC_SECRET_0"])
    found = records(rx, peers.after_handshake)
    assert [(record_type, payload[0]) for record_type, payload in found] == [(22, 4)] * TICKETS
    assert rx.sequence == TICKETS
    assert rx.waiting_bytes() == 0


def test_openssl_opens_what_a_server_seals_here(peers: Peers) -> None:
    peers.client.bio_write(peers.after_handshake)
    tx = sealing(peers.suite, peers.secrets["SERVER_TRAFFIC_SECRET_0"], TICKETS)
    for message in MESSAGES:
        peers.client.bio_write(seal(tx, message))
        assert read_all(peers.client) == message


def test_openssl_opens_what_a_client_seals_here(peers: Peers) -> None:
    tx = sealing(peers.suite, peers.secrets["CLIENT_TRAFFIC_SECRET_0"])
    for message in MESSAGES:
        peers.server.bio_write(seal(tx, message))
        assert read_all(peers.server) == message


def test_what_openssl_seals_opens_here(peers: Peers) -> None:
    client = opening(peers.suite, peers.secrets["SERVER_TRAFFIC_SECRET_0"], TICKETS)
    server = opening(peers.suite, peers.secrets["CLIENT_TRAFFIC_SECRET_0"])
    for sender, rx in ((peers.server, client), (peers.client, server)):
        for message in MESSAGES[1:]:
            sender.sendall(message)
            found = records(rx, drain(sender))
            assert {record_type for record_type, _ in found} == {23}
            assert b"".join(payload for _, payload in found) == message


def test_closing_is_understood_both_ways(peers: Peers) -> None:
    tx = sealing(peers.suite, peers.secrets["CLIENT_TRAFFIC_SECRET_0"])
    peers.server.bio_write(seal(tx, b"\1\0", 21))
    with pytest.raises(SSL.ZeroReturnError):
        peers.server.recv(10)
    peers.server.shutdown()
    rx = opening(peers.suite, peers.secrets["SERVER_TRAFFIC_SECRET_0"], TICKETS)
    assert records(rx, drain(peers.server)) == [(21, b"\1\0")]


def test_openssl_refuses_a_record_out_of_order(peers: Peers) -> None:
    """The sequence number counts: the same record one number too late is bad."""
    tx = sealing(peers.suite, peers.secrets["CLIENT_TRAFFIC_SECRET_0"], 1)
    peers.server.bio_write(seal(tx, b"data"))
    with pytest.raises(SSL.Error, match="bad record mac"):
        peers.server.recv(10)


def test_key_update_that_asks_for_one_in_return(peers: Peers) -> None:
    suite = peers.suite
    peers.client.bio_write(peers.after_handshake)
    secret = peers.secrets["SERVER_TRAFFIC_SECRET_0"]
    tx = sealing(suite, secret, TICKETS)
    wire = seal(tx, KEY_UPDATE_REQUESTED, 22)
    tx.rekey(ENGINE.sealer(Session.from_secret(suite, next_traffic_secret(suite, secret))), suite)
    peers.client.bio_write(wire + seal(tx, b"under the new key"))
    assert read_all(peers.client) == b"under the new key"

    peers.client.sendall(b"answer")
    secret = peers.secrets["CLIENT_TRAFFIC_SECRET_0"]
    rx = opening(suite, secret)
    assert records(rx, drain(peers.client)) == [(22, KEY_UPDATE_NOT_REQUESTED)]
    rx.rekey(ENGINE.opener(Session.from_secret(suite, next_traffic_secret(suite, secret))), suite)
    assert records(rx, b"") == [(23, b"answer")]
    assert rx.sequence == 1
