"""OpenSSL as the second implementation of TLS 1.0 to 1.2: AEADs and CBC, both ways."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.ktls.helpers import ENGINE, receive
from tests.ktls.session.keyblock import Handshake
from tests.ktls.socket.test_openssl import drain, read_all, step
from umktls.ktls.engines.cbc import CbcSealer
from umktls.ktls.session import Session
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_1, TLS_1_2
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

NO_ENCRYPT_THEN_MAC = 1 << 19  # SSL_OP_NO_ENCRYPT_THEN_MAC: kernels have no such records
NO_EMPTY_FRAGMENTS = 1 << 11  # SSL_OP_DONT_INSERT_EMPTY_FRAGMENTS
MESSAGES = [b"x", b"hello there" * 100, bytes(range(256)) * 200]
ALERT, DATA = 21, 23

# OpenSSL's name, ours, version
SUITES = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "AES_128_GCM_SHA256", TLS_1_2),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "AES_256_GCM_SHA384", TLS_1_2),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20_POLY1305_SHA256", TLS_1_2),
    ("ECDHE-ECDSA-AES128-CCM", "AES_128_CCM", TLS_1_2),
    ("ECDHE-ECDSA-ARIA128-GCM-SHA256", "ARIA_128_GCM_SHA256", TLS_1_2),
    ("ECDHE-ECDSA-ARIA256-GCM-SHA384", "ARIA_256_GCM_SHA384", TLS_1_2),
    ("ECDHE-ECDSA-AES128-SHA", "AES_128_CBC_SHA", TLS_1_2),
    ("ECDHE-ECDSA-AES256-SHA", "AES_256_CBC_SHA", TLS_1_2),
    ("ECDHE-ECDSA-AES128-SHA256", "AES_128_CBC_SHA256", TLS_1_2),
    ("AES256-SHA256", "AES_256_CBC_SHA256", TLS_1_2),
    ("ECDHE-ECDSA-AES256-SHA384", "AES_256_CBC_SHA384", TLS_1_2),
    ("ECDHE-ECDSA-AES128-SHA", "AES_128_CBC_SHA", TLS_1_1),
    ("ECDHE-ECDSA-AES256-SHA", "AES_256_CBC_SHA", TLS_1_1),
    ("ECDHE-ECDSA-AES128-SHA", "AES_128_CBC_SHA", TLS_1_0),
    ("ECDHE-ECDSA-AES256-SHA", "AES_256_CBC_SHA", TLS_1_0),
]
RECEIVED = [row for row in SUITES if row[2] != TLS_1_0]
IDS = [f"{ours}-{version:#x}" for _, ours, version in SUITES]

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class Peers:
    """A handshaken pair, and the last block that each has sent (TLS 1.0's next IV)."""

    client: SSL.Connection
    server: SSL.Connection
    handshake: Handshake = field(repr=False)
    last_blocks: dict[str, bytes] = field(repr=False)

    def session(self, writer: str) -> Session:
        iv = self.last_blocks[writer] if self.handshake.version == TLS_1_0 else b""
        return self.handshake.session(writer, iv=iv)


def key_for(cipher: str) -> Key:
    """What a server needs for OpenSSL's suite of that name: RSA's says nothing, TLS 1.3's any."""
    if "ECDSA" in cipher or not cipher:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(key: Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    return builder.sign(key, hashes.SHA256())


def context(method: int, cipher: str, version: int) -> SSL.Context:
    made = SSL.Context(method)
    made.set_cipher_list(f"{cipher}:@SECLEVEL=0".encode())
    made.set_min_proto_version(version)
    made.set_max_proto_version(version)
    made.set_options(NO_ENCRYPT_THEN_MAC | NO_EMPTY_FRAGMENTS)
    return made


def shake_hands(cipher: str, name: str, version: int) -> Peers:
    key = key_for(cipher)
    server_context = context(SSL.TLS_SERVER_METHOD, cipher, version)
    server_context.use_privatekey(key)
    server_context.use_certificate(certificate(key))
    client = SSL.Connection(context(SSL.TLS_CLIENT_METHOD, cipher, version))
    server = SSL.Connection(server_context)
    client.set_connect_state()
    server.set_accept_state()
    last_blocks = {}
    for sender, taker, who in [(client, server, "client"), (server, client, "server")] * 2:
        step(sender)
        flight = drain(sender)
        taker.bio_write(flight)
        last_blocks[who] = flight[-16:]
    step(client)
    assert client.get_cipher_name() == cipher
    randoms = client.client_random(), client.server_random()
    master = client.master_key()
    assert master is not None
    assert None not in randoms
    handshake = Handshake(version, ALL_SUITES[name], master, randoms[0] or b"", randoms[1] or b"")
    return Peers(client, server, handshake, last_blocks)


def sealing(session: Session) -> Transmitter:
    tx = Transmitter()
    tx.enable(ENGINE.sealer(session), session.suite)
    return tx


def seal(tx: Transmitter, data: bytes, record_type: int = DATA) -> bytes:
    return b"".join(map(bytes, tx.seal_message((data,), record_type)))


@pytest.mark.parametrize("row", SUITES, ids=IDS)
@pytest.mark.parametrize("writer", ["client", "server"])
def test_openssl_opens_what_is_sealed_here(row: tuple[str, str, int], writer: str) -> None:
    peers = shake_hands(*row)
    tx = sealing(peers.session(writer))
    reader = peers.server if writer == "client" else peers.client
    for message in MESSAGES:
        reader.bio_write(seal(tx, message))
        assert read_all(reader) == message
    reader.bio_write(seal(tx, b"\1\0", ALERT))
    with pytest.raises(SSL.ZeroReturnError):
        reader.recv(10)


@pytest.mark.parametrize("row", RECEIVED, ids=IDS[: len(RECEIVED)])
@pytest.mark.parametrize("writer", ["client", "server"])
def test_what_openssl_seals_opens_here(row: tuple[str, str, int], writer: str) -> None:
    peers = shake_hands(*row)
    session = peers.session(writer)
    sender = peers.client if writer == "client" else peers.server
    rx = Receiver()
    rx.enable(ENGINE.opener(session), session.suite)
    for message in MESSAGES:
        sender.sendall(message)
        receive(rx, drain(sender))
        found = b""
        while (record := rx.read_record()) is not None:
            assert record.type == DATA
            found += record.payload
            rx.consume(len(record.payload))
        assert found == message
    sender.shutdown()
    receive(rx, drain(sender))
    closing = rx.read_record()
    assert closing is not None
    assert (closing.type, bytes(closing.payload)) == (ALERT, b"\1\0")


def test_openssl_takes_an_empty_record_of_tls_1_0() -> None:
    """The countermeasure that FreeBSD's empty writes are for."""
    peers = shake_hands("ECDHE-ECDSA-AES128-SHA", "AES_128_CBC_SHA", TLS_1_0)
    tx = sealing(peers.session("client"))
    peers.server.bio_write(seal(tx, b"") + seal(tx, b"data"))
    assert read_all(peers.server) == b"data"


def test_openssl_refuses_a_cbc_record_out_of_order() -> None:
    peers = shake_hands("ECDHE-ECDSA-AES128-SHA256", "AES_128_CBC_SHA256", TLS_1_2)
    sealer = CbcSealer(peers.session("client").at(2))
    peers.server.bio_write(bytes(sealer.seal(DATA, (b"data",))))
    with pytest.raises(SSL.Error, match="bad record mac"):
        peers.server.recv(10)
