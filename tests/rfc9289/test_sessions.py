"""RFC 9289 on TLS and on who is authenticated, sections 4.2, 5 and 5.2: the numbers are those of
docs/rfc9289.md.

Peers are the ssl module and scripts wherever that is possible, so that our client is not judged by
our server.
"""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

import pytest
import trio
from umktls_daemons.sessions.handshake import handshake
from umktls_daemons.sessions.records import NEW_SESSION_TICKET, open_record, opener_of
from umktls_daemons.tls.identity import ConfigurationError
from umktls_daemons.tls.tlsadapter import ClientCertificates

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import ENCRYPTED, MUTUAL, client_context, daemon, server_context
from tests.daemons.pki import certificates, context, write_lists
from tests.daemons.sessions.memorypeer import CLIENT as CLIENT_SIDE
from tests.daemons.sessions.memorypeer import MemoryPeer
from tests.nfsd.client import FakePeer
from tests.rfc9289.moves import (
    hello_in_tls,
    is_starttls,
    said,
    server_is_accepted,
    ticket_extensions,
)
from tests.rfc9289.peers import Client, server, with_client
from umktls.abi import rpctls
from umktls.ktls.session.suites import SUITES
from umktls.nfsd import Export
from umktls.nfsd.program.credentials import Identity, believed
from umktls.rpc.message import AuthStat, AuthSys, DeniedReply, OpaqueAuth
from umktls.userland.streams import Deadline

NAME = {"server_hostname": "localhost"}


EARLY_DATA = 42


# Authentication, sections 4.2 and 5.2.


async def test_09_the_server_has_a_certificate_and_asks_for_the_clients(
    certs: Path, tmp_path: Path
) -> None:
    def shown(client: Client) -> object:
        assert is_starttls(client.probe())
        certificate = client.start_tls(certificate=True).getpeercert()
        assert said(client, b"hello") == b"hello"
        return certificate

    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            certificate = await with_client(listening, certs, shown)
            (connection,) = listening.host.stat()["connections"]
    assert isinstance(certificate, dict)
    assert ("DNS", "localhost") in certificate["subjectAltName"]
    # It came although nothing demands it.
    assert connection["tls"]["peer"] == "CN=umktls client"


def test_10_mutual_or_nothing(tmp_path: Path) -> None:
    """Where both sides are to be authenticated, neither is let off."""
    with daemon("server", tmp_path, "server", mutualverf=True) as harness:
        for certificate in (None, "foreign-client", "expired-client"):
            sock, peer = harness.connection(security="mtls")
            client = peer.tls(client_context(certificate), lambda tls: tls.recv(1), **NAME)
            assert harness.kernel.connect(sock).flags == 0
            assert harness.kernel.event("handshake-failed")["phase"] == "client-certificate"
            with pytest.raises(ssl.SSLError):
                client.result(SECONDS)
    assert not server_is_accepted(tmp_path, "foreign", "localhost", security="mtls")
    assert server_is_accepted(tmp_path, "server", "localhost", security="mtls")


def test_11_the_certificate_does_not_speak_for_users(tmp_path: Path) -> None:
    """Not even one with FreeBSD's user in it, unless the administrator asks for that (-u)."""
    with daemon("server", tmp_path, "server", mutualverf=True) as harness:
        sock, peer = harness.connection()
        client = peer.tls(client_context("user-client"), lambda tls: tls.recv(1), **NAME)
        result = harness.kernel.connect(sock)
        assert (result.flags, result.uid, result.gid) == (MUTUAL, 0, ())
        harness.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        client.result(SECONDS)
    caller = AuthSys(0, b"", 1000, 100, ())
    assert believed(Export(str(tmp_path)), caller, FakePeer()) == Identity(1000, 100)


async def test_12_rpcsec_gss_is_not_served(certs: Path, tmp_path: Path) -> None:
    """So nothing has to be bound to the channel: the flavor is rejected, in TLS and without."""

    def try_gss(client: Client) -> list[object]:
        gss = OpaqueAuth(6, struct.pack(">5I", 1, 1, 0, 1, 0))
        replies: list[object] = [client.call(0, gss)]
        hello_in_tls(client)
        return [*replies, client.call(0, gss)]

    with trio.fail_after(patience(SECONDS)):
        async with server(tmp_path, certs) as listening:
            replies = await with_client(listening, certs, try_gss)
    for reply in replies:
        assert isinstance(reply, DeniedReply)
        assert reply.auth_status is AuthStat.AUTH_REJECTEDCRED


# The profile of TLS, section 5.


@pytest.mark.parametrize("side", ["server", "client"])
def test_13_nothing_below_tls_1_3(tmp_path: Path, side: str) -> None:
    with daemon(side, tmp_path, "server") as harness:
        sock, peer = harness.connection()
        other = client_context() if side == "server" else server_context()
        other.maximum_version = ssl.TLSVersion.TLSv1_2
        options = NAME if side == "server" else {"server_side": True}
        answer = peer.tls(other, lambda tls: tls.recv(1), **options)
        result = harness.kernel.connect(sock)
        assert getattr(result, "flags", 0) == 0
        assert getattr(result, "reterr", -1) != rpctls.RPCTLSERR_OK
        with pytest.raises(ssl.SSLError):
            answer.result(SECONDS)
    # What RFC 8446 section 9.1 makes mandatory.
    assert "TLS_AES_128_GCM_SHA256" in SUITES


def test_14_certificates_on_both_sides(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", mutualverf=True) as harness:
        sock, peer = harness.connection(security="mtls")
        client = peer.tls(
            client_context("client"), lambda tls: (tls.recv(1), tls.getpeercert()), **NAME
        )
        assert harness.kernel.connect(sock).flags == MUTUAL
        harness.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        _, certificate = client.result(SECONDS)
        assert certificate


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("suite", ["TLS_SHA256_SHA256", "TLS_SHA384_SHA384"])
def test_15_no_suite_without_confidentiality(tmp_path: Path, side: str, suite: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="cipher suites"),
        daemon(side, tmp_path, "server", ciphers=suite),
    ):
        raise AssertionError("it started")
    assert all("GCM" in name or "CCM" in name or "CHACHA20" in name for name in SUITES)


def test_16_alpn_is_sunrpc_on_both_sides(tmp_path: Path) -> None:
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with daemon("client", tmp_path / "client", alpn="strict") as client:
        for alpn, good in ((("sunrpc", "h2"), True), (("h2",), False), ((), False)):
            sock, peer = client.connection()
            answer = peer.tls(server_context(alpn=alpn), selected, server_side=True)
            result = client.kernel.connect(sock)
            assert (result.reterr == rpctls.RPCTLSERR_OK) is good
            if good:
                client.kernel.about(sock, "DISCONNECT")
            sock.sock.close()
            if good:
                assert answer.result(SECONDS) == "sunrpc"
    with daemon("server", tmp_path / "server", "server", alpn="strict") as harness:
        for alpn, flags in ((("h2", "sunrpc"), ENCRYPTED), (("h2",), 0), ((), 0)):
            sock, peer = harness.connection()
            answer = peer.tls(client_context(alpn=alpn), selected, **NAME)
            assert harness.kernel.connect(sock).flags == flags
            if flags:
                harness.kernel.about(sock, "DISCONNECT")
            sock.sock.close()
            if flags:
                assert answer.result(SECONDS) == "sunrpc"


def selected(tls: ssl.SSLSocket) -> str | None:
    tls.recv(1)
    return tls.selected_alpn_protocol()


def test_17_no_early_data() -> None:
    """No ticket of ours allows any (RFC 8446 section 4.6.1), and the client sends none."""
    client = context(server=False).client("localhost")
    peer = MemoryPeer(context(server=True).server(ClientCertificates.REQUEST))
    keys = handshake(peer, client, Deadline.after(SECONDS), CLIENT_SIDE)
    opener = opener_of(keys.rx)
    tickets = [open_record(opener, record) for record in peer.drain()]
    assert len(tickets) == 2
    for ticket in tickets:
        assert ticket.data[0] == NEW_SESSION_TICKET
        assert EARLY_DATA not in ticket_extensions(ticket.data)


# Certificates, sections 5.2.1 and 5.2.2.


def test_23_names_are_those_of_the_subject_alternative_name(tmp_path: Path) -> None:
    """No wildcards, and no common name."""
    assert server_is_accepted(tmp_path, "elsewhere", "nfs.example.org")
    assert not server_is_accepted(tmp_path, "wildcard", "nfs.example.org")
    assert not server_is_accepted(tmp_path, "nameless", "localhost")


def test_24_addresses_must_be_there_as_addresses(tmp_path: Path) -> None:
    assert server_is_accepted(tmp_path, "elsewhere", "192.0.2.1")
    assert server_is_accepted(tmp_path, "server", "::1")
    assert not server_is_accepted(tmp_path, "elsewhere", "192.0.2.10")
    assert not server_is_accepted(tmp_path, "nameless", "127.0.0.1")


@pytest.mark.parametrize(
    ("certificate", "good"),
    [
        *(("server", True), ("chained", True), ("foreign", False), ("selfsigned", False)),
        *(("expired", False), ("future", False), ("elsewhere", False), ("purpose", False)),
    ],
)
def test_25_clients_validate_path_and_name(tmp_path: Path, certificate: str, good: bool) -> None:
    assert server_is_accepted(tmp_path, certificate, "localhost") is good


@pytest.mark.parametrize(
    ("certificate", "good"),
    [
        *(("client", True), ("chained-client", True), ("foreign-client", False)),
        *(("expired-client", False), ("server", False)),
    ],
)
def test_26_servers_validate_the_path_of_what_is_shown(
    tmp_path: Path, certificate: str, good: bool
) -> None:
    """Not its names: ``client`` has none. Serial number and issuer say who it is."""
    with daemon("server", tmp_path, "server", mutualverf=True) as harness:
        sock, peer = harness.connection()
        answer = peer.tls(client_context(certificate), lambda tls: tls.recv(1), **NAME)
        assert bool(harness.kernel.connect(sock).flags) is good
        if good:
            harness.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        assert isinstance(answer.exception(SECONDS), ssl.SSLError) is not good
        shown = certificates().credential(certificate).certificate
        if good:
            assert sock.certificate is not None
            assert sock.certificate.issuer.decode() == shown.issuer.rfc4514_string()
            assert int(sock.certificate.serial, 16) == shown.serial_number


def test_27_sessions_are_judged_again_when_lists_change(tmp_path: Path) -> None:
    crl = write_lists(tmp_path / "crl.pem")
    with daemon("server", tmp_path, "server", mutualverf=True, crl=crl) as harness:
        sock, peer = harness.connection()
        answer = peer.tls(client_context("client"), lambda tls: tls.recv(1), **NAME)
        assert harness.kernel.connect(sock).flags == MUTUAL
        write_lists(crl, "client")
        assert harness.service.reload()
        assert harness.receive(sock, 1) == b""
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
            answer.result(SECONDS)
