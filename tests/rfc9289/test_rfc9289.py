"""RFC 9289, requirement by requirement: the numbers are those of docs/rfc9289.md.

Peers are the ssl module and scripts wherever that is possible, so that our client is not judged by
our server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import ssl
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from umktls_daemons.sessions.handshake import handshake
from umktls_daemons.sessions.records import NEW_SESSION_TICKET, open_record, opener_of
from umktls_daemons.tls.identity import ConfigurationError
from umktls_daemons.tls.tlsadapter import ClientCertificates
from umktls_fs.options import MountOptions

from tests.daemons.fakekernel import SECONDS
from tests.daemons.harness import ENCRYPTED, MUTUAL, client_context, daemon, server_context
from tests.daemons.pki import certificates, context
from tests.daemons.programs.test_reload import write_lists
from tests.daemons.sessions.test_handshake import CLIENT as CLIENT_SIDE
from tests.daemons.sessions.test_handshake import MemoryPeer
from tests.nfsd.client import FakePeer
from tests.rfc9289.moves import (
    BAD_ANSWERS,
    STARTTLS,
    answer_probe,
    hello_in_tls,
    is_badcred,
    is_starttls,
    said,
    server_is_accepted,
    spurious_before_the_handshake,
    spurious_behind_the_probe,
    ticket_extensions,
)
from tests.rfc9289.peers import (
    AUTH_TLS,
    Client,
    client_of_script,
    read_call,
    server,
    with_client,
)
from umktls.abi import rpctls
from umktls.certs.pki import Authority
from umktls.errors import UmktlsError
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.krpc.probe import check_reply
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.ktls.session.suites import SUITES
from umktls.nfsd import Export
from umktls.nfsd.exports.exports import level_of
from umktls.nfsd.program.credentials import Identity, believed
from umktls.rpc.client import AuthRejected
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptedReply,
    AcceptStat,
    AuthStat,
    AuthSys,
    DeniedReply,
    OpaqueAuth,
    encode_call,
)
from umktls.rpc.record import mark
from umktls.testing.certificates import directory
from umktls.testing.echo import ECHO, SAY
from umktls.testing.hosts import pair
from umktls.userland.streams import Deadline

AUTHORITY = Authority.create()
MTLS = {"security": "mtls"}
NAME = {"server_hostname": "localhost"}
HERE = Path(__file__)
EARLY_DATA = 42


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    return directory(tmp_path / "pki", AUTHORITY)


# Discovering server-side TLS support, section 4.1.


async def test_01_tls_is_on_the_port_of_the_clear_service(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            in_clear = await with_client(listening, certs, lambda client: said(client, b"hello"))
            in_tls = await with_client(listening, certs, hello_in_tls)
    assert in_clear == in_tls == b"hello"


async def test_02_the_probe_is_an_empty_null_call(certs: Path, tmp_path: Path) -> None:
    calls = []

    async def script(stream: trio.SocketStream) -> None:
        call, _ = await read_call(stream)
        calls.append(call)
        await stream.aclose()

    with trio.fail_after(SECONDS):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(UmktlsError):
                await connect()
    (call,) = calls
    assert call.procedure == 0
    assert (call.credential.flavor, call.credential.body) == (7, b"")
    assert (call.verifier.flavor, call.verifier.body) == (0, b"")
    assert bytes(call.body) == b""


async def test_03_the_answer_is_a_verifier_with_starttls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            reply = await with_client(listening, certs, Client.probe)
    assert isinstance(reply, AcceptedReply)
    assert reply.status is AcceptStat.SUCCESS
    assert (reply.verifier.flavor, reply.verifier.body) == (0, b"STARTTLS")
    # A client goes on whatever the accept status is.
    for status in AcceptStat:
        check_reply("peer", 7, replace(reply, status=status))


async def test_04_the_client_hello_comes_on_the_same_connection(
    certs: Path, tmp_path: Path
) -> None:
    heard: list[bytes] = []

    async def script(stream: trio.SocketStream) -> None:
        heard.append(await answer_probe(stream, STARTTLS))
        await stream.aclose()

    with trio.fail_after(SECONDS):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(UmktlsError):
                await connect()
    (hello,) = heard
    # A handshake record with a ClientHello.
    assert (hello[0], hello[5]) == (22, 1)


async def test_05_no_client_hello_after_any_other_answer(certs: Path, tmp_path: Path) -> None:
    answers = iter(BAD_ANSWERS.values())
    send, heard = trio.open_memory_channel[bytes](0)

    async def script(stream: trio.SocketStream) -> None:
        await send.send(await answer_probe(stream, next(answers)))

    with trio.fail_after(SECONDS):
        async with client_of_script(tmp_path, certs, script) as connect:
            for _ in BAD_ANSWERS:
                with pytest.raises(TlsRefused, match="does not offer TLS"):
                    await connect()
                # Nothing was sent, and the connection was closed.
                assert await heard.receive() == b""


async def test_06_a_failed_handshake_is_reported_as_a_refusal(certs: Path, tmp_path: Path) -> None:
    stranger = directory(tmp_path / "other", Authority.create("another CA"))
    with trio.fail_after(SECONDS):
        async with pair(certs, tmp_path, {"certs": stranger}, {}) as both:
            with pytest.raises(TlsRefused) as caught:
                await both.rpc.call(SAY, b"", NULL_AUTH)
    # The same as for a rejection with AUTH_ERROR, and with a reason.
    assert caught.value.errno == AuthRejected("", AuthStat.AUTH_TOOWEAK).errno == errno.EACCES
    assert "certificate" in str(caught.value)


async def test_07_auth_tls_anywhere_else_is_a_bad_credential(certs: Path, tmp_path: Path) -> None:
    def try_all(client: Client) -> list[bool]:
        in_clear = [
            client.call(1, AUTH_TLS),  # not the NULL procedure
            client.call(0, OpaqueAuth(7, b"body")),
            client.call(0, AUTH_TLS, OpaqueAuth(0, b"body")),
            client.call(0, AUTH_TLS, OpaqueAuth(1, b"")),
        ]
        hello_in_tls(client)
        in_tls = [client.call(0, AUTH_TLS), client.call(1, AUTH_TLS)]
        assert said(client, b"goes on") == b"goes on"
        return [is_badcred(reply) for reply in (*in_clear, *in_tls)]

    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            assert all(await with_client(listening, certs, try_all))


async def test_08_each_connection_is_probed_anew(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(2)
            await both.rpc.call(SAY, b"", NULL_AUTH)
            probes = both.events("client", "probe", "handshake")
    assert [event["event"] for event in probes] == ["probe", "handshake"] * 2


# Authentication, sections 4.2 and 5.2.


async def test_09_the_server_has_a_certificate_and_asks_for_the_clients(
    certs: Path, tmp_path: Path
) -> None:
    def shown(client: Client) -> object:
        assert is_starttls(client.probe())
        certificate = client.start_tls(certificate=True).getpeercert()
        assert said(client, b"hello") == b"hello"
        return certificate

    with trio.fail_after(SECONDS):
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

    with trio.fail_after(SECONDS):
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


# TCP operation, section 5.1.1.


async def test_18_what_comes_between_probe_and_handshake_is_not_answered(
    certs: Path, tmp_path: Path
) -> None:
    """And ends the connection; above all it is not taken for part of the session."""
    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            for work in (spurious_behind_the_probe, spurious_before_the_handshake):
                assert await with_client(listening, certs, work) == b""


async def test_19_no_clear_text_in_a_session(certs: Path, tmp_path: Path) -> None:
    """Also: calls and replies in TLS have their record marks."""

    def clear_text_after_tls(client: Client) -> bytes:
        assert hello_in_tls(client) == b"hello"
        assert client.tls is not None
        null = encode_call(8, ECHO.number, ECHO.version, 0, NULL_AUTH, NULL_AUTH)
        os.write(client.tls.fileno(), mark(len(null)) + null)
        os.set_blocking(client.tls.fileno(), True)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := os.read(client.tls.fileno(), 1000):
                data += piece
        return data

    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            answer = await with_client(listening, certs, clear_text_after_tls)
            ends = [e["reason"] for e in listening.host.trace.since() if e["event"] == "garbage"]
    # At most records of TLS (tickets, an alert), and the connection is closed.
    assert answer[:1] in (b"", b"\x15", b"\x17")
    assert len(ends) == 1


async def test_21_the_end_is_announced(certs: Path, tmp_path: Path) -> None:
    """By either side: the ssl module insists on the other's close_notify."""

    def close_first(client: Client) -> None:
        hello_in_tls(client)
        assert client.tls is not None
        client.tls.unwrap()

    def wait_for_end(client: Client) -> bytes:
        hello_in_tls(client)
        assert client.tls is not None
        trio.from_thread.run_sync(established.set)
        return client.tls.recv(1)

    established = trio.Event()
    results: list[bytes] = []
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery, server(tmp_path, certs) as listening:
            await with_client(listening, certs, close_first)

            async def wait() -> None:
                results.append(await with_client(listening, certs, wait_for_end))

            nursery.start_soon(wait)
            await established.wait()
    assert results == [b""]


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


# Security and policy, section 7.


async def test_28_what_protects_a_connection_can_be_seen(certs: Path, tmp_path: Path) -> None:
    """In the trace of events, in the state of the host, and by the services."""
    seen = []

    def note(client: Client) -> None:
        said(client, b"hello")

    with trio.fail_after(SECONDS):
        async with server(tmp_path, certs) as listening:
            await with_client(listening, certs, note)
            await with_client(listening, certs, hello_in_tls)
            trace = listening.host.trace.since()
            seen = [e["event"] for e in trace if e["event"] in ("clear-text", "handshake")]
            states = [connection["tls"] for connection in listening.host.stat()["connections"]]
    assert seen == ["clear-text", "handshake"]
    assert states[0] is None
    assert (states[1]["version"], states[1]["alpn"]) == ("TLSv1.3", "sunrpc")
    assert [level_of(peer) for peer in (CLEAR, ENCRYPTED_PEER, VERIFIED)] == [0, 1, 2]


CLEAR = FakePeer(tls=False, verified=False)
ENCRYPTED_PEER = FakePeer(verified=False)
VERIFIED = FakePeer()


async def test_29_a_stripped_starttls_ends_the_mount(certs: Path, tmp_path: Path) -> None:
    """TLS is what a mount asks for unless told otherwise; whoever takes the token out of the
    answer gets to see nothing but the probe."""
    send, heard = trio.open_memory_channel[bytes](0)

    async def script(stream: trio.SocketStream) -> None:
        await send.send(await answer_probe(stream, BAD_ANSWERS["no token"]))

    with trio.fail_after(SECONDS):
        async with client_of_script(tmp_path, certs, script) as connect:
            with pytest.raises(TlsRefused):
                await connect()
            assert await heard.receive() == b""
    assert MountOptions().security == MountConfig("server", "/").security == "tls"


async def test_30_auth_sys_over_mutual_tls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(SECONDS):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            credential = AuthSys(0, b"client", 1000, 100, (4,)).to_opaque()
            assert await both.rpc.call(SAY, b"hello", credential) == b"hello"
            (answered,) = [
                event
                for event in both.events("server", "upcall-answered")
                if event["procedure"] == "CONNECT"
            ]
    assert "VERIFIED" in answered["result"]


# The document.


def test_every_requirement_has_its_test_or_its_reason() -> None:
    text = (HERE.parents[2] / "docs" / "rfc9289.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    tests = re.findall(r"^(?:async )?def (test_(\d\d)_\w+)", HERE.read_text(), re.MULTILINE)
    by_number = {int(number): name for name, number in tests}
    for number, evidence in rows:
        name = by_number.get(int(number))
        assert evidence == (f"`{name}`" if name else "none: see below")
    for number in {int(number) for number, _ in rows} - set(by_number):
        assert re.search(rf"^- {number}: ", text, re.MULTILINE), f"{number} has no reason"
