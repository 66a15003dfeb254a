"""Whom the daemons believe: -l, -p, both, the system, and what else is asked of old peers."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import crypto
from umktls_daemons.sessions.handshake import Alpn, Expectations, refusal, remark
from umktls_daemons.tls.identity import (
    ConfigurationError,
    Identity,
    Trust,
    load_crls,
    load_private_key,
)
from umktls_daemons.tls.tlsadapter import ClientCertificates, TlsContext

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import (
    ENCRYPTED,
    RESULT_OK,
    Harness,
    client_context,
    daemon,
    exchange,
    ping_pong,
    server_context,
)
from tests.daemons.pki import certificates
from tests.daemons.tls.handshakes import shake_hands
from umktls.abi.alerts import TlsAlert

NAME = {"server_hostname": "localhost"}


def ca_directory(path: Path, *files: Path) -> Path:
    """A directory as openssl-rehash(1) makes it."""
    path.mkdir()
    for file in files:
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, file.read_bytes())
        (path / f"{certificate.subject_name_hash():08x}.0").write_bytes(file.read_bytes())
    return path


@pytest.mark.parametrize(
    ("file", "directory", "good"),
    [
        (None, ("ca",), True),
        (None, ("other_ca",), False),
        (None, ("other_ca", "ca"), True),
        ("other_ca", ("ca",), True),
        ("ca", ("other_ca",), True),
        ("other_ca", ("other_ca",), False),
    ],
)
def test_files_and_directories(
    tmp_path: Path, file: str | None, directory: tuple[str, ...], good: bool
) -> None:
    pki = certificates()
    cas = ca_directory(tmp_path / "cas", *(getattr(pki, name) for name in directory))
    chosen = getattr(pki, file) if file else None
    with daemon("client", tmp_path, verifylocs=chosen, verifydir=cas) as client:
        sock, peer = client.connection()
        server = peer.tls(server_context(), lambda tls: tls.recv(1), server_side=True)
        assert (client.kernel.connect(sock).reterr == RESULT_OK) is good
        if good:
            client.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        if good:
            assert server.result(SECONDS) == b""
        else:
            reason = client.kernel.event("handshake-failed")["reason"]
            assert str(cas) in reason
            with pytest.raises(ssl.SSLError):
                server.result(SECONDS)


def test_trust_in_words(tmp_path: Path) -> None:
    assert str(Trust()) == "the system's certificate store"
    assert Trust().is_system
    assert str(Trust(Path("/a"), Path("/b"))) == "/a and /b"


@pytest.mark.parametrize(
    ("trust", "words"),
    [
        (Trust(Path("/missing")), "CA file /missing: No such file"),
        (Trust(directory=Path("/missing")), "CA directory /missing: No such file"),
    ],
)
def test_trust_in_what_is_not_there(trust: Trust, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        trust.check()


def test_a_directory_in_which_nothing_can_be_found(tmp_path: Path) -> None:
    """OpenSSL looks for hashes of names alone: no CA would ever be believed, and nobody told."""
    (tmp_path / "ca.pem").write_bytes(certificates().ca.read_bytes())
    with pytest.raises(ConfigurationError, match=r"hashed name.*openssl rehash"):
        Trust(directory=tmp_path).check()
    Trust(directory=ca_directory(tmp_path / "cas", certificates().ca)).check()


@pytest.mark.parametrize("passphrase", [None, b"words"])
def test_a_key_that_no_certificate_has(tmp_path: Path, passphrase: bytes | None) -> None:
    """X25519 agrees on keys and signs nothing."""
    path = tmp_path / "key.pem"
    sealing = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    key = X25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing))
    with pytest.raises(ConfigurationError, match="do not have this kind of key"):
        load_private_key(path, lambda: passphrase or b"")


def test_lists_of_several_authorities(tmp_path: Path) -> None:
    pki = certificates()
    path = tmp_path / "crl.pem"
    path.write_bytes(b"# two\n" + pki.authority.crl() + b"\n" + pki.other_authority.crl())
    assert len(load_crls(path)) == 2
    path.write_bytes(pki.ca.read_bytes())
    with pytest.raises(ConfigurationError, match="no PEM revocation list in it"):
        load_crls(path)
    path.write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    with pytest.raises(ConfigurationError, match="not a PEM revocation list"):
        load_crls(path)


def names_sent(trust: Trust) -> list[str]:
    """The CAs that a server names to its clients."""
    pki = certificates()
    identity = Identity(pki.certificate("server"), pki.key("server"))
    made = TlsContext(server=True, trust=trust, identity=identity, passphrase=lambda: b"")
    server = made.server(ClientCertificates.REQUEST)
    context = TlsContext(server=False, trust=Trust(pki.ca), identity=None, passphrase=lambda: b"")
    client = context.client("localhost")
    shake_hands(client, server)
    return [str(name.CN) for name in client.connection.get_client_ca_list()]


def test_only_a_file_of_cas_is_told_to_clients(tmp_path: Path) -> None:
    """As rpc.tlsservd(8): -l is, -p is not."""
    pki = certificates()
    cas = ca_directory(tmp_path / "cas", pki.ca)
    assert names_sent(Trust(pki.ca)) == ["umktls good CA"]
    assert names_sent(Trust(directory=cas)) == []


# --alpn

SILENT_OR_NOT = [("strict", False, False), ("auto", True, True), ("compat", True, False)]


def said_of_alpn(harness: Harness) -> str:
    """What people are told of the handshake."""
    said: str = harness.kernel.event("handshake").get("remark", "")
    return said


@pytest.mark.parametrize(("alpn", "good", "told"), SILENT_OR_NOT)
def test_clients_without_alpn(tmp_path: Path, alpn: str, good: bool, told: bool) -> None:
    with daemon("server", tmp_path, "server", alpn=alpn) as server:
        sock, peer = server.connection()
        client = peer.tls(client_context(alpn=()), exchange, **NAME)
        assert server.kernel.connect(sock).flags == (ENCRYPTED if good else 0)
        if good:
            ping_pong(server, sock, client)
            assert ("client does not say sunrpc" in said_of_alpn(server)) is told
            return
        failure = server.kernel.event("handshake-failed")
        assert "client offered no application protocol" in failure["reason"]
        assert "--alpn auto (of serve, or of rpctlssd)" in failure["advice"]
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            client.result(SECONDS)


@pytest.mark.parametrize("alpn", ["strict", "auto", "compat"])
def test_clients_of_another_protocol(tmp_path: Path, alpn: str) -> None:
    """And of ours: who says sunrpc among others means it."""
    with daemon("server", tmp_path, "server", alpn=alpn) as server:
        sock, peer = server.connection()
        client = peer.tls(client_context(alpn=("h2",)), exchange, **NAME)
        assert server.kernel.connect(sock).flags == 0
        assert server.kernel.event("handshake-failed")["phase"] == "alpn"
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            client.result(SECONDS)
        sock, peer = server.connection()
        client = peer.tls(client_context(alpn=("h2", "sunrpc")), exchange, **NAME)
        assert server.kernel.connect(sock).flags == ENCRYPTED
        assert said_of_alpn(server) == ""
        ping_pong(server, sock, client)


@pytest.mark.parametrize(("alpn", "good", "told"), SILENT_OR_NOT)
@pytest.mark.parametrize("spoken", [(), ("h2",)])
def test_servers_without_alpn(
    tmp_path: Path, alpn: str, good: bool, told: bool, spoken: tuple[str, ...]
) -> None:
    """The ssl module chooses nothing where it has nothing in common with the client."""
    with daemon("client", tmp_path, alpn=alpn) as client:
        sock, peer = client.connection()
        server = peer.tls(server_context(alpn=spoken), lambda tls: tls.recv(1), server_side=True)
        assert (client.kernel.connect(sock).reterr == RESULT_OK) is good
        if good:
            assert client.kernel.event("handshake")["alpn"] == ""
            assert ("server does not say sunrpc" in said_of_alpn(client)) is told
            client.kernel.about(sock, "DISCONNECT")
            assert server.result(SECONDS) == b""
            return
        failure = client.kernel.event("handshake-failed")
        assert "server chose no application protocol" in failure["reason"]
        assert "-o alpn=auto (rpctlscd --alpn auto)" in failure["advice"]
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            server.result(SECONDS)


class Chosen:
    """A finished handshake, as far as ALPN is concerned."""

    chain = ()
    peer_certificate = None
    resumed = False

    def __init__(self, alpn: bytes) -> None:
        self.alpn = alpn


@pytest.mark.parametrize("alpn", ["strict", "auto", "compat"])
def test_servers_that_choose_another_protocol(alpn: Alpn) -> None:
    """One that was not offered (RFC 7301 section 3.2), which OpenSSL may let pass."""
    expected = Expectations(server=False, name="", trust="", alpn=alpn)
    endpoint: Any = Chosen(b"h2")
    found = refusal(endpoint, expected)
    assert found is not None
    assert found[0] == TlsAlert.NO_APPLICATION_PROTOCOL
    assert "server chose the application protocol h2" in found[1].reason
    endpoint = Chosen(b"sunrpc")
    assert refusal(endpoint, expected) is None
    assert remark(endpoint, expected) == ""
