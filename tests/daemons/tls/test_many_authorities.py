"""A server that trusts hundreds of CAs, whose names do not fit into a request for a certificate."""

from __future__ import annotations

import datetime
import functools
import logging
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from umktls_daemons.tls.identity import Identity, Trust
from umktls_daemons.tls.tlsadapter import (
    AUTHORITIES_LIMIT,
    ClientCertificates,
    TlsContext,
    Versions,
)

from tests.daemons.harness import MUTUAL, client_context, daemon, exchange, ping_pong
from tests.daemons.pki import certificates
from tests.daemons.tls.handshakes import shake_hands

NAMES_OF_CLIENTS_CA = 2 + len(
    x509.load_pem_x509_certificate(certificates().ca.read_bytes()).subject.public_bytes()
)


@functools.cache
def some_ca(number: int, size: int) -> bytes:
    """A CA whose name, with the two bytes of its length, takes `size` bytes in a message."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * (size - 34)),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{number:08d}"),
        ]
    )
    assert 2 + len(name.public_bytes()) == size
    key, start = _key(), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), number + 1)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(36500))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@functools.cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def many(path: Path, total: int) -> Path:
    """A file of CAs whose names take `total` bytes in a message; the test's own is the last."""
    sizes, left = [], total - NAMES_OF_CLIENTS_CA
    while left >= 160:
        sizes.append(80)
        left -= 80
    sizes += [left // 2, left - left // 2]
    blocks = [some_ca(number, size) for number, size in enumerate(sizes)]
    path.write_bytes(b"".join(blocks) + certificates().ca.read_bytes())
    return path


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("total", [AUTHORITIES_LIMIT, 66_000, 120_000])
def test_clients_are_served(
    tmp_path: Path, total: int, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """351 CAs of usual names refused everybody, by internal_error."""
    context = client_context("client")
    context.maximum_version = ssl.TLSVersion[version]
    authorities = many(tmp_path / "ca.pem", total)
    options = {"verifylocs": authorities, "mutualverf": True, "tls1_2": True}
    with (
        caplog.at_level(logging.WARNING),
        daemon("server", tmp_path, "server", **options) as server,
    ):
        sock, peer = server.connection(security="mtls")
        client = peer.tls(context, exchange, server_hostname="localhost")
        assert server.kernel.connect(sock).flags == MUTUAL
        ping_pong(server, sock, client)
    said = [line for line in caplog.messages if "are not told which CAs are trusted" in line]
    assert len(said) == (total > AUTHORITIES_LIMIT)
    for line in said:
        assert f"names in {authorities} come to {total} bytes" in line


@pytest.mark.parametrize("versions", [Versions.TLS12, Versions.TLS13])
def test_the_limit(tmp_path: Path, versions: Versions) -> None:
    """What fits is sent, and clients can read it."""
    for total, sent in ((AUTHORITIES_LIMIT, True), (AUTHORITIES_LIMIT + 1, False)):
        path = many(tmp_path / "ca.pem", total)
        serving = context_for(path, "server", versions)
        server = serving.server(ClientCertificates.DEMAND)
        client = context_for(certificates().ca, "client", versions).client("localhost")
        shake_hands(client, server)
        names = client.connection.get_client_ca_list()
        assert sum(2 + len(name.der()) for name in names) == (total if sent else 0)
        assert bool(serving.remarks) is not sent


def context_for(authorities: Path, name: str, versions: Versions) -> TlsContext:
    pki = certificates()
    return TlsContext(
        server=name == "server",
        trust=Trust(authorities),
        identity=Identity(pki.certificate(name), pki.key(name)),
        passphrase=lambda: b"",
        versions=versions,
    )
