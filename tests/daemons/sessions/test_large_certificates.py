"""Clients whose certificate, or whose chain, is large: served, or refused with the reason."""

from __future__ import annotations

import functools
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from umktls_daemons.sessions.handshake import CERTIFICATES_LIMIT
from umktls_daemons.tls.identity import Identity, Trust
from umktls_daemons.tls.tlsadapter import (
    TICKET_LIMIT,
    ClientCertificates,
    Endpoint,
    TlsContext,
    TlsSession,
)

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import MUTUAL, client_context, daemon, exchange, ping_pong
from tests.daemons.pki import certificates
from tests.daemons.tls.handshakes import shake_hands
from umktls.abi.rpctls import RPCTLS_FLAGS_HANDSHAKE
from umktls.certs.kinds import KINDS
from umktls.certs.pki import Credential, Leaf

EMAIL = "x" * 988 + "@example.org"  # with its header in the certificate, 1004 bytes
TOO_LARGE = CERTIFICATES_LIMIT + 1004


@functools.cache
def large(size: int, *, issuer: bool = False) -> Credential:
    """A client's certificate of about that many bytes, or one whose issuer's is as large."""
    leaf = KINDS["client"].leaf
    emails = (EMAIL,) * (size // 1004)
    if not issuer:
        return certificates().authority.leaf(replace(leaf, emails=emails))
    small = certificates().intermediate.leaf(leaf)
    beside = certificates().authority.leaf(Leaf("beside", emails=emails))
    return replace(small, chain=(*small.chain, beside.certificate))


def written(directory: Path, credential: Credential) -> Identity:
    directory.mkdir()
    certificate, key = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(credential.certificate_pem())
    key.write_bytes(credential.key_pem())
    key.chmod(0o600)
    return Identity(certificate, key)


def context(identity: Identity, *, server: bool) -> TlsContext:
    return TlsContext(
        server=server, trust=Trust(certificates().ca), identity=identity, passphrase=lambda: b""
    )


@pytest.mark.parametrize("size", [TICKET_LIMIT - 3000, TICKET_LIMIT, 66_000, 74_000, 99_000])
def test_a_client_comes_back(tmp_path: Path, size: int) -> None:
    """By a ticket where its certificate fits into one, and else by showing it again."""
    pki = certificates()
    server = context(Identity(pki.certificate("server"), pki.key("server")), server=True)
    client = context(written(tmp_path / "large", large(size)), server=False)
    session: TlsSession | None = None
    resumed: list[bool] = []
    for _ in range(2):
        ends: tuple[Endpoint, Endpoint] = (
            client.client("localhost", session),
            server.server(ClientCertificates.DEMAND),
        )
        shake_hands(*ends)
        ends[0].process()
        session = ends[0].session()
        resumed.append(ends[1].resumed)
        assert ends[1].peer_certificate == large(size).certificate
        for end in ends:
            end.release()
    assert resumed == [False, size < TICKET_LIMIT]


@pytest.mark.parametrize("issuer", [False, True])
@pytest.mark.parametrize("size", [57_000, 74_000, 97_000])
def test_a_client_is_served(tmp_path: Path, size: int, *, issuer: bool) -> None:
    """74 KB were refused, by internal_error."""
    identity = written(tmp_path / "large", large(size, issuer=issuer))
    its_context = client_context()
    its_context.load_cert_chain(identity.certificate, identity.key)
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        sock, peer = server.connection(security="mtls")
        client = peer.tls(its_context, exchange, server_hostname="localhost")
        assert server.kernel.connect(sock).flags == MUTUAL
        ping_pong(server, sock, client)


@pytest.mark.parametrize(
    ("size", "version", "alert", "reason"),
    [
        (TOO_LARGE, "TLSv1_3", "illegal parameter", "more than 102400 bytes together"),
        (TOO_LARGE, "TLSv1_2", "illegal parameter", "more than 102400 bytes together"),
        (74_000, "TLSv1_2", "internal error", "fit into a ticket of TLS 1.2"),
    ],
)
def test_what_is_refused_has_a_reason(
    tmp_path: Path, size: int, version: str, alert: str, reason: str
) -> None:
    identity = written(tmp_path / "large", large(size))
    its_context = client_context()
    its_context.load_cert_chain(identity.certificate, identity.key)
    its_context.maximum_version = ssl.TLSVersion[version]
    with daemon("server", tmp_path, "server", mutualverf=True, tls1_2=True) as server:
        sock, peer = server.connection(security="mtls")
        # Nobody reads what comes behind the header of the message that is too long.
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        client = peer.tls(its_context, exchange, server_hostname="localhost")
        assert not server.kernel.connect(sock).flags & RPCTLS_FLAGS_HANDSHAKE
        with pytest.raises(ssl.SSLError, match=alert):
            client.result(SECONDS)
        assert reason in server.kernel.event("handshake-failed")["reason"]
