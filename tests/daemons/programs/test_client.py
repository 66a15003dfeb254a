"""rpctlscd against the ssl module's server: one handshake of each kind."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import weakref
from pathlib import Path

import pytest
from umktls_daemons.tls.identity import ConfigurationError

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import Harness, daemon, echo, ping, server_context
from tests.daemons.pki import PASSPHRASE, certificates
from umktls.abi import rpctls
from umktls.upcall.rpctls import rpctlscd_connect_arg
from umktls.userland.libc import KernelGone, Socket

SERVER = {"server_side": True}


def wait_for_end(tls: ssl.SSLSocket) -> bytes:
    return tls.recv(1)


def failed(client: Harness, phase: str) -> str:
    """The reason and advice of the only failure."""
    (event,) = [e for e in client.kernel.events if e["event"] == "handshake-failed"]
    assert event["phase"] == phase
    return f"{event['reason']}; {event['advice']}"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "LOCALHOST", "localhost."])
def test_a_good_handshake(client: Harness, name: str) -> None:
    sock, peer = client.connection(peername=name)
    server = peer.tls(server_context(), echo, **SERVER)
    result = client.kernel.connect(sock)
    assert result.reterr == rpctls.RPCTLSERR_OK
    assert (sock.state.tx.sequence, sock.state.rx.sequence) == (0, 0)
    ping(client, sock)
    assert server.result(SECONDS) == b"ping"
    event = client.kernel.event("handshake")
    assert (event["version"], event["alpn"], event["peer"]) == ("TLSv1.3", "sunrpc", "CN=localhost")


@pytest.mark.parametrize(("name", "expected"), [("localhost", "localhost"), ("127.0.0.1", None)])
def test_names_are_sent_and_addresses_are_not(
    client: Harness, name: str, expected: str | None
) -> None:
    asked: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda sock, name, context: asked.append(name)
    sock, peer = client.connection(peername=name)
    server = peer.tls(context, echo, **SERVER)
    client.kernel.connect(sock)
    ping(client, sock)
    server.result(SECONDS)
    assert asked == [expected]


@pytest.mark.parametrize("security", ["tls", "mtls"])
def test_the_certificate_is_shown_when_it_should_be(client: Harness, security: str) -> None:
    context = server_context(mutual=True)
    context.verify_mode = ssl.CERT_OPTIONAL
    sock, peer = client.connection(security=security)
    server = peer.tls(context, lambda tls: (echo(tls), tls.getpeercert())[1], **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
    ping(client, sock)
    certificate = server.result(SECONDS)
    assert bool(certificate) == (security == "mtls")
    said = client.kernel.event("handshake")["client_certificate"]
    assert said == ("shown" if certificate else "asked for, none shown")


def test_a_certificate_that_nobody_asks_for_is_not_said_to_be_shown(client: Harness) -> None:
    sock, peer = client.connection(security="mtls")
    server = peer.tls(server_context(), echo, **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
    ping(client, sock)
    server.result(SECONDS)
    assert client.kernel.event("handshake")["client_certificate"] == "not asked for"


def test_certificates_by_name(client: Harness) -> None:
    certdir = client.kernel.rundir / "certdir"
    (certdir / "other.pem").write_bytes(certificates().certificate("purpose").read_bytes())
    (certdir / "otherkey.pem").write_bytes(certificates().key("purpose").read_bytes())
    sock, peer = client.connection()
    server = peer.tls(
        server_context(mutual=True), lambda tls: (echo(tls), tls.getpeercert())[1], **SERVER
    )
    assert client.kernel.connect(sock, b"other").reterr == rpctls.RPCTLSERR_OK
    ping(client, sock)
    certificate = server.result(SECONDS)
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", "purpose"),),)


@pytest.mark.parametrize("certname", [b"missing", b"../certdir/cert", b"/etc/passwd"])
def test_certificates_that_are_not_there(client: Harness, certname: bytes) -> None:
    sock, _ = client.connection()
    assert client.kernel.connect(sock, certname).reterr == rpctls.RPCTLSERR_NOSSL
    assert "a client certificate is to be shown" in failed(client, "setup")
    assert sock.closed_by_daemon


def test_mutual_tls_without_a_certificate(tmp_path: Path) -> None:
    with daemon("client", tmp_path) as client:
        sock, _ = client.connection(security="mtls")
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
        assert "No such file" in failed(client, "setup")


@pytest.mark.parametrize(
    ("certificate", "phase", "words"),
    [
        ("foreign", "certificate", "signed by CN=umktls other CA, which is not among the CAs in"),
        ("selfsigned", "certificate", "self-signed by CN=selfsigned"),
        ("expired", "certificate", "the server's certificate expired at"),
        ("future", "certificate", "is not valid before"),
        ("purpose", "certificate", "not meant for this purpose"),
        ("elsewhere", "name", "is for nfs.example.org, 192.0.2.1, and the name asked for was"),
        ("nameless", "name", "no name at all"),
    ],
)
def test_servers_that_are_refused(
    client: Harness, certificate: str, phase: str, words: str
) -> None:
    sock, peer = client.connection()
    server = peer.tls(server_context(certificate), wait_for_end, **SERVER)
    result = client.kernel.connect(sock)
    assert (result.reterr, result.ssl) == (rpctls.RPCTLSERR_NOSSL, 0)
    assert words in failed(client, phase)
    assert sock.closed_by_daemon
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.result(SECONDS)


def test_wildcards_are_no_names(client: Harness) -> None:
    sock, peer = client.connection(peername="nfs.example.org")
    server = peer.tls(server_context("wildcard"), wait_for_end, **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "is for *.example.org, and the name asked for was nfs.example.org" in failed(
        client, "name"
    )
    with pytest.raises(ssl.SSLError):
        server.result(SECONDS)


def test_an_address_that_the_certificate_lacks(client: Harness) -> None:
    sock, peer = client.connection(peername="192.0.2.7")
    server = peer.tls(server_context(), wait_for_end, **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "the address asked for was 192.0.2.7" in failed(client, "name")
    with pytest.raises(ssl.SSLError):
        server.result(SECONDS)


def test_an_old_server(client: Harness) -> None:
    context = server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    sock, peer = client.connection()
    server = peer.tls(context, wait_for_end, **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "alert protocol_version" in failed(client, "tls")
    with pytest.raises(ssl.SSLError):
        server.result(SECONDS)


def test_no_common_suite(client: Harness) -> None:
    sock, peer = client.connection()

    def refuse(far: socket.socket) -> None:
        far.recv(65536)
        far.sendall(b"\x15\x03\x03\x00\x02\x02\x28")

    peer.run(refuse)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "alert handshake_failure" in failed(client, "tls")


@pytest.mark.parametrize(
    ("answer", "phase", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "tls", "something else than TLS answers there"),
        (b"", "connection", "closed the connection in the handshake, before its first record"),
        (b"\x16\x03\x03\x00\x7a\x02", "connection", "closed the connection"),
    ],
)
def test_answers_that_are_none(client: Harness, answer: bytes, phase: str, words: str) -> None:
    sock, peer = client.connection()

    def work(far: object) -> None:
        peer.sock.recv(65536)
        peer.sock.sendall(answer)
        peer.sock.close()

    peer.run(work)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert words in failed(client, phase)


def test_a_server_that_says_nothing(client: Harness) -> None:
    sock, _ = client.connection(seconds=0.05)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "fell silent" in failed(client, "connection")
    assert client.kernel.names().count("handshake-failed") == 1


def test_no_name_to_check(client: Harness) -> None:
    sock, _ = client.connection(peername="")
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
    assert "which server this is" in failed(client, "setup")


def test_a_kernel_that_tells_nothing(client: Harness) -> None:
    """A kernel without our options: the address is what the certificate must carry."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        sock, peer = client.wrap(near, far)
        sock.has_own_options = False
        server = peer.tls(server_context(), echo, **SERVER)
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
        ping(client, sock)
        assert server.result(SECONDS) == b"ping"
        sock, peer = client.connection()
        sock.has_own_options = False
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSSL
        assert "which server this is" in failed(client, "setup")


def test_nothing_to_take(client: Harness) -> None:
    result = client.kernel.upcall(client.kernel.program["CONNECT"], rpctlscd_connect_arg.of(b""))
    assert result.reterr == rpctls.RPCTLSERR_NOSOCKET


def test_a_kernel_that_is_gone_when_it_is_asked_about_the_socket(
    client: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def about(_: Socket) -> None:
        raise KernelGone("the kernel has closed the system-call socket")

    monkeypatch.setattr(Socket, "about", about)
    sock, _ = client.connection()
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_NOSOCKET


def test_close_notify_from_the_server(client: Harness) -> None:
    sock, peer = client.connection()

    def close(tls: ssl.SSLSocket) -> bytes:
        echo(tls)
        tls.unwrap()
        return b"clean"

    server = peer.tls(server_context(), close, **SERVER)
    client.kernel.connect(sock)
    ping(client, sock)
    assert client.receive(sock, 1) == b""
    # The server's unwrap returns only when our close_notify came.
    assert server.result(SECONDS) == b"clean"
    assert client.kernel.event("alert")["description"] == "close_notify"
    assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK


def test_disconnect_says_goodbye(client: Harness) -> None:
    sock, peer = client.connection()
    server = peer.tls(server_context(), lambda tls: (echo(tls), tls.recv(1)), **SERVER)
    client.kernel.connect(sock)
    ping(client, sock)
    assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert sock.closed_by_daemon
    # Without a close_notify, recv would raise for the ragged end.
    assert server.result(SECONDS) == (b"ping", b"")


def test_a_session_goes_when_it_ends(client: Harness) -> None:
    """And OpenSSL's object with it: no search for cycles is needed, which would come much later."""
    gone = threading.Event()
    sock, peer = client.connection()
    server = peer.tls(server_context(), echo, **SERVER)
    client.kernel.connect(sock)
    ping(client, sock)
    assert server.result(SECONDS) == b"ping"
    (session,) = client.service.sessions.all()
    weakref.finalize(session, gone.set)
    del session
    gc.disable()
    try:
        assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        assert gone.wait(patience(SECONDS))
    finally:
        gc.enable()


def test_a_late_refusal(client: Harness) -> None:
    """In TLS 1.3 a client is done before the server has seen its certificate, or the lack of it."""
    sock, peer = client.connection()
    server = peer.tls(server_context(mutual=True), wait_for_end, **SERVER)
    assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
    assert client.receive(sock, 1) == b""
    event = client.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", "certificate_required")
    assert "mount with -o mtls" in event["reason"]
    with pytest.raises(ssl.SSLError):
        server.result(SECONDS)


def test_a_key_that_a_mount_does_not_use_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be for root's eyes only, or locked. Who asks for mutual TLS is told about it."""
    monkeypatch.delenv("UMKTLS_KEY_PASSPHRASE", raising=False)
    with daemon("client", tmp_path, "locked") as client:
        sock, peer = client.connection()
        server = peer.tls(server_context(), echo, **SERVER)
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
        ping(client, sock)
        assert client.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        server.result(SECONDS)
        sock, peer = client.connection(security="mtls")
        assert client.kernel.connect(sock).reterr != rpctls.RPCTLSERR_OK
        failed = client.kernel.event("handshake-failed")
        assert "UMKTLS_KEY_PASSPHRASE" in failed["reason"]
        assert "or mount without -o mtls" in failed["advice"]


def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", PASSPHRASE.decode())
    with daemon("client", tmp_path, "locked", mutualverf=True) as client:
        context = server_context(mutual=True)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        sock, peer = client.connection()
        server = peer.tls(context, wait_for_end, **SERVER)
        assert client.kernel.connect(sock).reterr == rpctls.RPCTLSERR_OK
        # A server's certificate: it was shown, which is what matters here.
        with pytest.raises(ssl.SSLError, match=r"(?i)unsuitable certificate purpose"):
            server.result(SECONDS)


@pytest.mark.parametrize(
    ("passphrase", "words"), [("wrong", "wrong passphrase"), (None, "UMKTLS_KEY_PASSPHRASE")]
)
def test_an_encrypted_key_that_stays_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str | None, words: str
) -> None:
    monkeypatch.delenv("UMKTLS_KEY_PASSPHRASE", raising=False)
    if passphrase is not None:
        monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", passphrase)
    with (
        pytest.raises(ConfigurationError, match=words),
        daemon("client", tmp_path, "locked", mutualverf=True),
    ):
        pass
