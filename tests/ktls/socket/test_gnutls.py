"""GnuTLS's programs as the peer, over the loopback device: records both ways, client and server.

pyOpenSSL makes the handshake and steps aside; every record behind it is made and opened here (but
for TLS 1.0's, which are only made).
gnutls-cli writes its own key log, so that in TLS 1.3 even the keys are GnuTLS's.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from tests.ktls.helpers import ENGINE, receive
from tests.ktls.session.keyblock import Handshake
from tests.ktls.socket.test_openssl import drain, read_all
from tests.ktls.socket.test_openssl_older import NO_ENCRYPT_THEN_MAC, certificate, key_for
from tests.ports import free_port
from umktls.ktls.session import Session
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.states import State
from umktls.ktls.socket.tx import Transmitter

SECONDS = 50.0
ALERT, DATA = 21, 23
CLOSE_NOTIFY = b"\1\0"
# our name, version, GnuTLS's cipher and MAC, OpenSSL's suite
SUITES = [
    ("TLS_AES_128_GCM_SHA256", TLS_1_3, "AES-128-GCM", "AEAD", ""),
    ("TLS_AES_256_GCM_SHA384", TLS_1_3, "AES-256-GCM", "AEAD", ""),
    ("TLS_CHACHA20_POLY1305_SHA256", TLS_1_3, "CHACHA20-POLY1305", "AEAD", ""),
    ("TLS_AES_128_CCM_SHA256", TLS_1_3, "AES-128-CCM", "AEAD", ""),
    ("AES_128_GCM_SHA256", TLS_1_2, "AES-128-GCM", "AEAD", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("AES_256_GCM_SHA384", TLS_1_2, "AES-256-GCM", "AEAD", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (
        "CHACHA20_POLY1305_SHA256",
        TLS_1_2,
        "CHACHA20-POLY1305",
        "AEAD",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    ("AES_128_CCM", TLS_1_2, "AES-128-CCM", "AEAD", "ECDHE-ECDSA-AES128-CCM"),
    *(
        (f"AES_{bits}_CBC_SHA", version, f"AES-{bits}-CBC", "SHA1", f"ECDHE-ECDSA-AES{bits}-SHA")
        for version in (TLS_1_0, TLS_1_1, TLS_1_2)
        for bits in (128, 256)
    ),
    ("AES_128_CBC_SHA256", TLS_1_2, "AES-128-CBC", "SHA256", "ECDHE-ECDSA-AES128-SHA256"),
    ("AES_256_CBC_SHA256", TLS_1_2, "AES-256-CBC", "SHA256", "AES256-SHA256"),
    ("AES_256_CBC_SHA384", TLS_1_2, "AES-256-CBC", "SHA384", "ECDHE-ECDSA-AES256-SHA384"),
]
Row = tuple[str, int, str, str, str]
PROGRAMS = ("gnutls-serv", "gnutls-cli")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="GnuTLS's programs are not installed"
)


def priority(row: Row) -> str:
    _, version, cipher, mac, _ = row
    name = f"VERS-TLS1.{(version & 0xFF) - 1}"
    return f"NORMAL:-VERS-ALL:+{name}:-CIPHER-ALL:+{cipher}:-MAC-ALL:+{mac}:%NO_ETM"


class Pem:
    """The key that the suite asks for and its certificate, in files."""

    def __init__(self, directory: Path, cipher: str) -> None:
        self.key = key_for(cipher)
        self.certificate = certificate(self.key)
        self.key_file, self.certificate_file = directory / "key.pem", directory / "cert.pem"
        self.key_file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.certificate_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def pem(tmp_path: Path, row: Row) -> Pem:
    return Pem(tmp_path, row[-1])


def context(row: Row, method: int, secrets: dict[str, bytes]) -> SSL.Context:
    name, version, *_, cipher = row

    def keylog(connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.decode("ascii").split(" ")
        secrets[label] = bytes.fromhex(secret)

    made = SSL.Context(method)
    made.set_cipher_list(f"{cipher or 'DEFAULT'}:@SECLEVEL=0".encode())
    if version == TLS_1_3:
        made.set_tls13_ciphersuites(name.encode())
    made.set_min_proto_version(version)
    made.set_max_proto_version(version)
    made.set_options(NO_ENCRYPT_THEN_MAC)
    made.set_keylog_callback(keylog)
    return made


class Link:
    """A connection whose records are made here from the end of the handshake on."""

    def __init__(self, sock: socket.socket, connection: SSL.Connection) -> None:
        sock.settimeout(SECONDS)
        self._sock, self._connection = sock, connection
        self._tx, self._rx = Transmitter(), Receiver()
        sent = b""
        while True:
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                sent += (flight := drain(connection))
                sock.sendall(flight)
                connection.bio_write(self._record())
        self.last_flight = drain(connection)
        self.last_block = (sent + self.last_flight)[-16:]  # TLS 1.0's next IV

    def _record(self) -> bytes:
        """One record from TCP and not a byte more."""
        header = self._exactly(5)
        return header + self._exactly(int.from_bytes(header[3:], "big"))

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._sock.recv(length - len(data))
            assert piece, "the peer has closed"
            data += piece
        return data

    def start(self, sending: Session, receiving: Session) -> None:
        if sending.version == TLS_1_0:
            self._tx.enable(ENGINE.sealer(replace(sending, iv=self.last_block)), sending.suite)
            return
        self._tx.enable(ENGINE.sealer(sending), sending.suite)
        self._rx.enable(ENGINE.opener(receiving), receiving.suite)

    def send_raw(self, data: bytes) -> None:
        self._sock.sendall(data)

    def send(self, data: bytes, record_type: int = DATA) -> None:
        self._sock.sendall(b"".join(map(bytes, self._tx.seal_message((data,), record_type))))

    def receive(self, length: int) -> bytes:
        """That many bytes of application data; tickets in front of them are passed over.

        Records of TLS 1.0 are opened by OpenSSL: no kernel receives them, nor does the engine.
        """
        found = b""
        while len(found) < length:
            if self._rx.state is State.CLEAR:
                self._connection.bio_write(self._record())
                found += read_all(self._connection)
                continue
            record = self._rx.read_record()
            if record is None:
                receive(self._rx, self._record())
                continue
            if record.type == DATA:
                found += record.payload
            self._rx.consume(len(record.payload))
        return found


def sessions(
    row: Row, connection: SSL.Connection, secrets: dict[str, bytes]
) -> tuple[Session, Session]:
    """What the client writes, and what the server writes."""
    suite, version = ALL_SUITES[row[0]], row[1]
    if version == TLS_1_3:
        names = ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")
        client, server = (Session.from_secret(suite, secrets[name]) for name in names)
        return client, server
    master, ours, theirs = (
        connection.master_key(),
        connection.client_random(),
        connection.server_random(),
    )
    assert master is not None
    assert ours is not None
    assert theirs is not None
    handshake = Handshake(version, suite, master, ours, theirs)
    return handshake.session("client"), handshake.session("server")


@contextlib.contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program, with its output in a pipe; ended when the block is left."""
    process = subprocess.Popen(
        ["stdbuf", "-oL", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def output_until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """What the program prints up to `wanted`, before the deadline."""
    assert process.stdout is not None
    ends = time.monotonic() + SECONDS
    text = b""
    while wanted not in text:
        left = max(0.0, ends - time.monotonic())
        assert select.select([process.stdout], [], [], left)[0], text
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, text
        text += piece
    return text


IDS = [f"{row[0]}-{row[1]:#x}" for row in SUITES]


@pytest.mark.parametrize("row", SUITES, ids=IDS)
def test_a_gnutls_server_echoes_what_is_sealed_here(row: Row, pem: Pem) -> None:
    port = free_port()
    command = ["gnutls-serv", "--echo", f"--port={port}", f"--priority={priority(row)}"]
    command += [f"--x509keyfile={pem.key_file}", f"--x509certfile={pem.certificate_file}"]
    with running([*command, "--disable-client-cert"]) as server:
        output_until(server, b"...done")
        secrets: dict[str, bytes] = {}
        connection = SSL.Connection(context(row, SSL.TLS_CLIENT_METHOD, secrets))
        connection.set_connect_state()
        with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
            link = Link(sock, connection)
            link.send_raw(link.last_flight)
            link.start(*sessions(row, connection, secrets))
            for message in (b"hello\n", b"x" * 15000 + b"\n", b"y" * 1000 + b"\n"):
                link.send(message)
                assert link.receive(len(message)) == message
            link.send(CLOSE_NOTIFY, ALERT)


@pytest.mark.parametrize("row", SUITES, ids=IDS)
def test_a_gnutls_client_talks_with_what_is_sealed_here(row: Row, pem: Pem, tmp_path: Path) -> None:
    key_log = tmp_path / "keys"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        port = listener.getsockname()[1]
        command = ["gnutls-cli", "--no-ca-verification", f"--port={port}"]
        command += [f"--priority={priority(row)}", "127.0.0.1"]
        with running(command, SSLKEYLOGFILE=str(key_log)) as client:
            sock, _ = listener.accept()
            with sock:
                talk(row, pem, sock, client, key_log)


def talk(
    row: Row,
    pem: Pem,
    sock: socket.socket,
    client: subprocess.Popen[bytes],
    key_log: Path,
) -> None:
    server_context = context(row, SSL.TLS_SERVER_METHOD, {})
    server_context.use_privatekey(pem.key)
    server_context.use_certificate(pem.certificate)
    connection = SSL.Connection(server_context)
    connection.set_accept_state()
    link = Link(sock, connection)
    if row[1] != TLS_1_3:
        # In TLS 1.3 the last flight is tickets, which would be records of the sealed stream.
        link.send_raw(link.last_flight)
    output_until(client, b"Simple Client Mode")
    client_writes, server_writes = sessions(row, connection, read_key_log(key_log))
    link.start(server_writes, client_writes)
    link.send(b"sealed here\n")
    output_until(client, b"sealed here")
    assert client.stdin is not None
    client.stdin.write(b"sealed by GnuTLS\n")
    client.stdin.flush()
    assert link.receive(17) == b"sealed by GnuTLS\n"
    link.send(CLOSE_NOTIFY, ALERT)
    output_until(client, b"Peer has closed the GnuTLS connection")


def read_key_log(path: Path) -> dict[str, bytes]:
    """GnuTLS's own key log: label, client random, secret."""
    lines = [line.split() for line in path.read_text().splitlines() if line[:1] not in ("", "#")]
    return {label: bytes.fromhex(secret) for label, _, secret in lines}
