"""Who a client is: its host (-h), its user (-u, -n), and what the kernel is told of it."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st
from umktls_daemons.tls.facts import alternative_names, facts_of
from umktls_daemons.tls.identity import ConfigurationError
from umktls_daemons.tls.users import names_of, own_domain, user_of, utf8_string_untrusted

from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import (
    ENCRYPTED,
    MUTUAL,
    Harness,
    Peer,
    client_context,
    daemon,
    session_of,
)
from tests.daemons.pki import certificates, chain
from umktls.abi import rpctls
from umktls.certs.pki import CLIENT_USAGE, Leaf
from umktls.upcall.rpctls import MAX_GROUPS

NAME = {"server_hostname": "localhost"}
DISABLED = rpctls.RPCTLS_FLAGS_DISABLED
CERTUSER = rpctls.RPCTLS_FLAGS_CERTUSER


@contextmanager
def tcp_connection(server: Harness) -> Iterator[tuple[FakeSocket, Peer]]:
    """A connection whose client has an address: 127.0.0.1, which is localhost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    yield server.wrap(near, far)


def read(tls: ssl.SSLSocket) -> bytes:
    return tls.recv(1)


def end(harness: Harness, sock: FakeSocket) -> None:
    """The kernel ends a session in order; one that is none has ended."""
    harness.kernel.about(sock, "DISCONNECT")
    sock.sock.close()


def connected(server: Harness, certificate: str | None) -> Any:
    """The answer to the CONNECT of a client with this certificate, and the kernel's socket."""
    with tcp_connection(server) as (sock, peer):
        client = peer.tls(client_context(certificate), read, **NAME)
        result = server.kernel.connect(sock)
        end(server, sock)
        if result.flags:
            assert client.result(SECONDS) == b""
        return result, sock


# -h


@pytest.fixture
def reverse(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What DNS gives for addresses; what is not in it has no name."""
    names: dict[str, str] = {}

    def lookup(address: tuple[str, int], flags: int) -> tuple[str, str]:
        if address[0] not in names:
            raise socket.gaierror(socket.EAI_NONAME, "no name")
        return names[address[0]], "0"

    monkeypatch.setattr(socket, "getnameinfo", lookup)
    return names


@pytest.mark.parametrize(
    ("certificate", "host", "flags", "words"),
    [
        ("named-client", "localhost", MUTUAL, ""),
        ("named-client", "LOCALHOST.", MUTUAL, ""),
        (
            "named-client",
            "elsewhere.example.org",
            MUTUAL | DISABLED,
            "is elsewhere.example.org for",
        ),
        ("named-client", "", MUTUAL | DISABLED, "a host without a name"),
        ("client", "localhost", MUTUAL | DISABLED, "its certificate is for no name at all"),
        (None, "localhost", ENCRYPTED | DISABLED, "showed no certificate"),
    ],
)
def test_the_clients_host(
    tmp_path: Path,
    reverse: dict[str, str],
    certificate: str | None,
    host: str,
    flags: int,
    words: str,
) -> None:
    if host:
        reverse["127.0.0.1"] = host
    with daemon("server", tmp_path, "server", mutualverf=True, checkhost=True) as server:
        result, _ = connected(server, certificate)
        assert result.flags == flags
        warnings = [e["reason"] for e in server.kernel.events if e["event"] == "warning"]
    assert bool(warnings) == bool(words)
    assert all(words in warning for warning in warnings)


@pytest.mark.parametrize(
    ("options", "host", "good"),
    [
        ({}, "a.example.org", False),
        ({"singlewild": True}, "a.example.org", True),
        ({"singlewild": True}, "b.a.example.org", False),
        ({"multiwild": True}, "b.a.example.org", True),
    ],
)
def test_wildcards(
    tmp_path: Path, reverse: dict[str, str], options: dict[str, bool], host: str, good: bool
) -> None:
    reverse["127.0.0.1"] = host
    certificate = certificates().authority.leaf(Leaf("w", ("*.example.org",), CLIENT_USAGE))
    (tmp_path / "c.pem").write_bytes(certificate.certificate_pem() + certificate.key_pem())
    context = client_context()
    context.load_cert_chain(tmp_path / "c.pem")
    with (
        daemon("server", tmp_path, "server", mutualverf=True, checkhost=True, **options) as server,
        tcp_connection(server) as (sock, peer),
    ):
        client = peer.tls(context, read, **NAME)
        assert server.kernel.connect(sock).flags == (MUTUAL if good else MUTUAL | DISABLED)
        end(server, sock)
        client.result(SECONDS)


# --reverse-dns


@pytest.mark.parametrize(
    ("typed", "names", "good"),
    [
        ("192.0.2.77", {"192.0.2.77": "nfs.example.org"}, True),
        ("192.0.2.77", {"192.0.2.77": "elsewhere.example.org"}, False),
        ("192.0.2.77", {}, False),
        ("nfs.example.org", {}, True),
        ("localhost", {"127.0.0.1": "nfs.example.org"}, False),
    ],
)
def test_servers_that_were_mounted_by_address(
    tmp_path: Path, reverse: dict[str, str], typed: str, names: dict[str, str], good: bool
) -> None:
    reverse.update(names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki = certificates()
    context.load_cert_chain(pki.certificate("elsewhere"), pki.key("elsewhere"))
    context.set_alpn_protocols(["sunrpc"])
    with daemon("client", tmp_path, reverse_dns=True) as client:
        sock, peer = client.connection(peername=typed)
        server = peer.tls(context, read, server_side=True)
        result = client.kernel.connect(sock)
        assert (result.reterr == rpctls.RPCTLSERR_OK) is good
        end(client, sock)
        if good:
            server.result(SECONDS)
        else:
            assert client.kernel.event("handshake-failed")["phase"] == "name"


# -u, -n


def test_the_user_in_the_certificate(tmp_path: Path) -> None:
    with daemon(
        "server", tmp_path, "server", mutualverf=True, certuser=True, domain="Example.ORG"
    ) as server:
        result, _ = connected(server, "user-client")
        assert result.flags == MUTUAL | CERTUSER
        root = pwd.getpwnam("root")
        assert result.uid == root.pw_uid
        assert result.gid == tuple(os.getgrouplist("root", root.pw_gid))
        result, _ = connected(server, "client")
        assert (result.flags, result.uid, result.gid) == (MUTUAL, 0, ())
        result, _ = connected(server, None)
        assert result.flags == ENCRYPTED


def test_users_of_other_domains(tmp_path: Path) -> None:
    with daemon(
        "server", tmp_path, "server", mutualverf=True, certuser=True, domain="example.com"
    ) as server:
        result, _ = connected(server, "user-client")
        assert (result.flags, result.gid) == (MUTUAL, ())
        assert "root@example.org" in server.kernel.event("warning")["reason"]


def test_users_do_not_count_unless_asked_for(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        result, _ = connected(server, "user-client")
        assert (result.flags, result.gid) == (MUTUAL, ())


def leaf(user: str) -> x509.Certificate:
    return certificates().authority.leaf(Leaf("u", usage=CLIENT_USAGE, user=user)).certificate


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("root@example.org", True),
        ("root@EXAMPLE.org", True),
        ("root@example.orgs", False),
        ("root@sub.example.org", False),
        ("root@example.com@example.org", False),
        ("@example.org", False),
        ("root", False),
        ("no-such-user-here@example.org", False),
        ("ro\0ot@example.org", False),
        ("a@", False),
        ("x@" + "d" * 1023, False),
    ],
)
def test_who_is_a_user(text: str, known: bool) -> None:
    assert (user_of(leaf(text), "example.org") is not None) is known


def test_more_groups_than_an_answer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: list(range(3000)))
    user = user_of(leaf("root@example.org"), "example.org")
    assert user is not None
    assert user.gids == tuple(range(MAX_GROUPS))


def test_certificates_without_users() -> None:
    for name in ("client", "named-client"):
        assert list(names_of(certificates().credential(name).certificate)) == []


@pytest.mark.parametrize("length", [3, 127, 128, 255, 256, 1024])
def test_strings_of_all_lengths(length: int) -> None:
    text = "a" * (length - 2) + "@b"
    assert list(names_of(leaf(text))) == [text]


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x0c",
        b"\x0c\x03abcd",
        b"\x0c\x05abcd",
        b"\x13\x04abcd",  # a PrintableString
        b"\x0c\x80abcd\0\0",  # a length that is not DER
        b"\x0c\x81\x04abcd",  # a form that is too long
        b"\x0c\x82\x00\x80" + b"a" * 128,
        b"\x0c\x02ab",  # too short
        b"\x0c\x82\x04\x01" + b"a" * 1025,  # too long
        b"\x0c\x04ab\xff\xff",  # not UTF-8
        b"\x0c\x81",
    ],
)
def test_what_is_no_user(der: bytes) -> None:
    assert utf8_string_untrusted(der) is None


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    text = utf8_string_untrusted(data)
    assert text is None or text.encode() in data


def test_the_hosts_own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    host = {"name": "nfs.example.org", "canonical": "nfs.example.com"}
    monkeypatch.setattr(socket, "gethostname", lambda: host["name"])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *args, **kwargs: [(0, 0, 0, host["canonical"], ("", 0))]
    )
    assert own_domain() == "example.org"
    host["name"] = "nfs"
    assert own_domain() == "example.com"
    host["canonical"] = "nfs"
    with pytest.raises(ConfigurationError, match=r"name one with -n \(umktls serve --domain\)"):
        own_domain()


# What the kernel is told.


def test_the_kernel_is_told_of_the_certificate(tmp_path: Path) -> None:
    pki = certificates()
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        _, sock = connected(server, "chained-client")
        certificate = pki.credential("chained-client").certificate
        assert sock.certificate is not None
        assert sock.certificate.fingerprint == certificate.fingerprint(hashes.SHA256())
        assert sock.certificate.subject == b"CN=chained"
        assert sock.certificate.issuer == b"CN=umktls test intermediate CA"
        assert sock.certificate.serial == f"{certificate.serial_number:x}".encode()
        assert sock.certificate.authorities == tuple(
            authority.certificate.fingerprint(hashes.SHA256())
            for authority in (pki.intermediate, pki.authority)
        )
        _, sock = connected(server, None)
        assert sock.certificate is None


def test_a_resumed_session_has_the_same_certificate(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        context = client_context("chained-client")
        first, session = session_of(server, context, **NAME)
        second, peer = server.connection()
        client = peer.tls(context, read, session=session, **NAME)
        assert server.kernel.connect(second).flags == MUTUAL
        assert server.kernel.event("handshake")["resumed"]
        assert first.certificate == second.certificate is not None
        end(server, second)
        client.result(SECONDS)


def test_a_kernel_that_does_not_care(tmp_path: Path) -> None:
    """One of FreeBSD knows no such option."""
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        sock, peer = server.connection(security="tls")
        sock.has_own_options = False
        client = peer.tls(client_context("client"), read, **NAME)
        assert server.kernel.connect(sock).flags == MUTUAL
        end(server, sock)
        client.result(SECONDS)


def test_names_of_all_kinds() -> None:
    certificate = certificates().credential("named-client").certificate
    assert alternative_names(certificate) == ["DNS:localhost", "email:ann@example.org"]
    server = certificates().credential("server").certificate
    assert alternative_names(server) == ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]


def test_facts_that_do_not_fit_are_left_out() -> None:
    many = Leaf("m" * 60, [f"host{n}.example.org" for n in range(100)], CLIENT_USAGE)
    credential = certificates().authority.leaf(many)
    facts = facts_of(chain(credential.certificate, *[certificates().authority.certificate] * 20))
    assert len(facts.names) == 32
    assert len(facts.authorities) == 16
    assert type(facts).from_bytes_untrusted(facts.to_bytes()) == facts
