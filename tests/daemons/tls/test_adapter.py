"""What OpenSSL is told and refuses, at the door to it: no error passes for a success."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from umktls_daemons.sessions.records import split_records
from umktls_daemons.tls.facts import facts_of
from umktls_daemons.tls.identity import ConfigurationError, load_private_key
from umktls_daemons.tls.tlsadapter import (
    ClientCertificates,
    Endpoint,
    TlsContext,
    TlsError,
    binding,
    endpoint,
)

from tests.daemons.pki import certificates, chain, context
from tests.daemons.tls.handshakes import shake_hands
from umktls.certs.pki import Authority, Leaf
from umktls.errors import CallerError, UnsupportedError
from umktls.rpc.certificate import MAX_TEXT


def test_what_certificates_are_written_to_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    freed: list[object] = []

    class Lib:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def BIO_new(self, method: object) -> object:
            made.append(lib.BIO_new(method))
            return made[0]

        def BIO_free(self, bio: object) -> None:
            freed.append(bio)
            lib.BIO_free(bio)

    lib = binding.lib
    monkeypatch.setattr(binding, "lib", Lib())
    assert binding.certificates_in(binding.ffi.NULL) == ()
    assert len(made) == 1
    assert freed == made


@pytest.fixture
def ends() -> tuple[Endpoint, Endpoint]:
    """A client and a server that have shaken hands."""
    client = context().client("localhost")
    server = context(server=True).server(ClientCertificates.IGNORE)
    shake_hands(client, server)
    return client, server


def test_a_binding_that_lacks_a_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_NEEDED", (*binding._NEEDED, "SSL_do_what_nobody_can"))
    with pytest.raises(UnsupportedError, match="lacks SSL_do_what_nobody_can; install"):
        context()


@pytest.mark.parametrize(
    ("suites", "words"),
    [("TLS_SHA256_SHA256", "not known to kernel TLS"), ("TLS_AES_128_GCM_SHA256:\0", "known are")],
)
def test_suites_that_are_refused(suites: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        context(suites=suites)


def test_suites_that_openssl_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umktls_daemons.tls.tls12.CIPHERS", "NONE-THAT-THERE-IS")
    with pytest.raises(ConfigurationError, match="no cipher match; known are TLS_AES_128"):
        context()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_name_that_cannot_be_checked_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Otherwise a certificate for any name would do."""

    class Refusing:
        X509_VERIFY_PARAM_set1_host = X509_VERIFY_PARAM_set1_ip = staticmethod(lambda *of: 0)

        def __getattr__(self, function: str) -> Any:
            return getattr(binding.lib, function)

    monkeypatch.setattr(endpoint, "lib", Refusing())
    with pytest.raises(CallerError, match="neither a DNS name nor an address"):
        context().client(name)


def test_application_data_is_not_for_the_handshakes_object(
    ends: tuple[Endpoint, Endpoint],
) -> None:
    client, server = ends
    client.write(b"data")
    server.feed(client.output())
    with pytest.raises(TlsError, match="application data was fed"):
        server.process()


Use = Callable[[Endpoint], object]


@pytest.mark.parametrize("use", [Endpoint.read, lambda end: end.write(b"data")])
def test_a_connection_that_has_failed_says_so(ends: tuple[Endpoint, Endpoint], use: Use) -> None:
    client, server = ends
    client.write(b"data")
    (record,) = split_records(client.output())
    server.feed(record[:-1] + bytes((record[-1] ^ 1,)))
    with pytest.raises(TlsError, match="bad record mac"):
        server.read()
    with pytest.raises(TlsError):
        use(server)


def test_a_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory") as caught:
        load_private_key(tmp_path, lambda: b"")
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("length", [MAX_TEXT, MAX_TEXT + 1])
def test_names_that_are_too_long_are_left_out(length: int) -> None:
    """They fit into no answer to the kernel."""
    uri = "urn:" + "a" * (length - len("URI:urn:"))
    leaf = Authority.create().leaf(Leaf("client", ["client.example.org"], uris=[uri]))
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem())
    names = [b"DNS:client.example.org", b"URI:" + uri.encode()]
    assert list(facts_of(chain(certificate)).names) == names[: 1 + (length <= MAX_TEXT)]
    subject = f"CN=client,O={'x' * (length - len('CN=client,O='))}"
    long = Authority.create().leaf(Leaf("client", organization=subject.rpartition("=")[2]))
    found = facts_of(chain(x509.load_pem_x509_certificate(long.certificate_pem()))).subject
    assert found == (subject.encode() if length <= MAX_TEXT else b"")


def test_peers_that_come_back_are_known() -> None:
    """Their certificates are taken apart once, in whichever context; and are those that came."""
    chains = []
    for _ in range(2):
        server = context(server=True).server(ClientCertificates.DEMAND)
        client = context(server=False, identity="client").client("localhost")
        shake_hands(client, server)
        chains.append((server.chain, client.chain))
    assert chains[0][0] is chains[1][0]
    assert chains[0][1] is chains[1][1]
    authority = certificates().authority.certificate
    for found, name in zip(chains[0], ("client", "server"), strict=True):
        assert found is chain(certificates().credential(name).certificate, authority)
        assert [one.public_bytes(Encoding.DER) for one in found] == list(found.der)


@pytest.mark.parametrize("name", ["server", "chained", "foreign", "selfsigned", "expired"])
def test_the_cas_that_go_along_with_a_certificate_are_found_once_and_are_those_of_openssl(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """OpenSSL itself would find, and verify, them in each handshake."""

    def shown() -> tuple[x509.Certificate, ...]:
        client = context().client("localhost")
        client.accept_any_certificate()
        shake_hands(client, context(server=True, identity=name).server(ClientCertificates.IGNORE))
        return client.shown

    found: list[object] = []
    add = SSL.Context.add_extra_chain_cert

    def noting(context: SSL.Context, certificate: x509.Certificate) -> None:
        found.append(certificate)
        add(context, certificate)

    monkeypatch.setattr(SSL.Context, "add_extra_chain_cert", noting)
    once = shown()
    assert len(found) == 1 + (name == "server")  # one is the client's
    monkeypatch.setattr(TlsContext, "_find_chain", lambda *of: None)
    assert once == shown()
    assert len(once) == 1 + (name in ("server", "chained", "expired"))
