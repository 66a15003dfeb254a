"""rpctlssd against the ssl module's client: one handshake of each kind."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from umktls_daemons.tls.identity import ConfigurationError

from tests.daemons.fakesocket import SECONDS
from tests.daemons.harness import (
    ENCRYPTED,
    MUTUAL,
    Harness,
    client_context,
    daemon,
    exchange,
    ping_pong,
)
from umktls.abi import rpctls
from umktls.upcall.versions import Connected
from umktls.userland.libc import Socket

NAME = {"server_hostname": "localhost"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Harness]:
    with daemon("server", tmp_path, "server", mutualverf=True) as harness:
        yield harness


def test_a_good_handshake(server: Harness) -> None:
    sock, peer = server.connection()
    client = peer.tls(client_context(), exchange, **NAME)
    result = server.kernel.connect(sock)
    assert result.flags == ENCRYPTED
    # Two tickets went out under the sequence numbers 0 and 1 (design case S5).
    assert (sock.state.tx.sequence, sock.state.rx.sequence) == (2, 0)
    ping_pong(server, sock, client)
    event = server.kernel.event("handshake")
    assert event["version"] == "TLSv1.3"
    assert (event["alpn"], event["resumed"], event["verified"]) == ("sunrpc", False, False)
    assert event["client_certificate"] == "asked for, none shown"


def test_the_daemon_does_not_hold_the_connection_open(server: Harness) -> None:
    """The kernel has it: where that closes, the peer sees the end whatever the daemon does."""
    sock, peer = server.connection()
    client = peer.tls(client_context(), lambda tls: tls.recv(4), **NAME)
    assert server.kernel.connect(sock).flags == ENCRYPTED
    sock.sock.close()
    with pytest.raises(ssl.SSLError, match=r"(?i)eof"):  # not of that class in every Python
        client.result(SECONDS)


def test_a_mutual_handshake(server: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sock, peer = server.connection(security="mtls")
    client = peer.tls(client_context("client"), exchange, **NAME)
    assert server.kernel.connect(sock).flags == MUTUAL
    ping_pong(server, sock, client)
    assert server.kernel.event("handshake")["peer"] == "CN=umktls client"
    assert server.kernel.event("handshake")["client_certificate"] == "shown"
    assert "(CN=umktls client): TLSv1.3" in caplog.text


def test_a_certificate_that_was_not_demanded(server: Harness) -> None:
    sock, peer = server.connection()
    client = peer.tls(client_context("client"), exchange, **NAME)
    assert server.kernel.connect(sock).flags == MUTUAL
    ping_pong(server, sock, client)


def failed(server: Harness, phase: str) -> str:
    """The reason of the only failure."""
    (event,) = [e for e in server.kernel.events if e["event"] == "handshake-failed"]
    assert event["phase"] == phase
    assert event["advice"]
    reason = event["reason"]
    assert isinstance(reason, str)
    return reason


def read_to_end(tls: ssl.SSLSocket) -> bytes:
    return tls.recv(1)


@pytest.mark.parametrize(
    ("certificate", "phase", "words"),
    [
        (None, "client-certificate", "showed no certificate"),
        ("foreign-client", "client-certificate", "signed by CN=umktls other CA"),
        ("expired-client", "client-certificate", "expired at"),
        ("server", "client-certificate", "not meant for this purpose"),
    ],
)
def test_clients_that_are_refused(
    server: Harness, certificate: str | None, phase: str, words: str
) -> None:
    sock, peer = server.connection(security="mtls")
    client = peer.tls(client_context(certificate), read_to_end, **NAME)
    result = server.kernel.connect(sock)
    assert (result.flags, result.ssl) == (0, 0)
    assert words in failed(server, phase)
    assert sock.closed_by_daemon
    assert sock.state.tx.records == 0
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        client.result(SECONDS)


def test_another_alpn(server: Harness) -> None:
    sock, peer = server.connection()
    client = peer.tls(client_context(alpn=("h2", "http/1.1")), read_to_end, **NAME)
    assert server.kernel.connect(sock).flags == 0
    assert "the ALPN protocols h2, http/1.1" in failed(server, "alpn")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        client.result(SECONDS)


def test_an_old_client(server: Harness) -> None:
    sock, peer = server.connection()
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = peer.tls(context, read_to_end, **NAME)
    assert server.kernel.connect(sock).flags == 0
    assert "cannot do TLS 1.3" in failed(server, "tls")
    advice = server.kernel.event("handshake-failed")["advice"]
    assert "-o tls1_2" in advice
    assert "--daemon-args=-2" in advice
    with pytest.raises(ssl.SSLError):
        client.result(SECONDS)


def test_a_client_that_does_not_trust_us(server: Harness) -> None:
    sock, peer = server.connection()
    context = client_context()
    client = peer.tls(context, read_to_end, server_hostname="nfs.example.org")
    assert server.kernel.connect(sock).flags == 0
    assert "alert bad_certificate" in failed(server, "tls")
    with pytest.raises(ssl.SSLCertVerificationError):
        client.result(SECONDS)


def test_something_that_is_not_tls(server: Harness) -> None:
    sock, peer = server.connection()
    peer.sock.sendall(b"\x80\x00\x00\x28\x00\x00\x00\x01")
    assert server.kernel.connect(sock).flags == 0
    assert "no TLS record: 80 00 00 28" in failed(server, "tls")


def test_a_client_that_goes(server: Harness) -> None:
    sock, peer = server.connection()
    peer.sock.close()
    assert server.kernel.connect(sock).flags == 0
    assert "closed the connection" in failed(server, "connection")


def test_a_client_that_stops_half_way(server: Harness) -> None:
    sock, peer = server.connection(seconds=0.05)
    peer.sock.sendall(b"\x16\x03\x01\x05")
    assert server.kernel.connect(sock).flags == 0
    assert "fell silent before its first record" in failed(server, "connection")


def test_single_bytes(server: Harness) -> None:
    """A peer whose bytes arrive one at a time, and data glued to its Finished."""
    sock, peer = server.connection()
    outer, inner = socket.socketpair()

    def relay(far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := inner.recv(65536):
                for byte in data:
                    far.send(bytes((byte,)))

    def back(far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                inner.sendall(data)

    with outer, inner:
        outer.settimeout(SECONDS)
        relays = [peer.run(relay), peer.run(back)]

        def client(_: socket.socket) -> bytes:
            with client_context().wrap_socket(outer, server_hostname="localhost") as tls:
                return exchange(tls)

        answer = peer.run(client)
        assert server.kernel.connect(sock).flags == ENCRYPTED
        ping_pong(server, sock, answer)
        server.kernel.about(sock, "DISCONNECT")
        sock.sock.close()
        for future in relays:
            future.result(SECONDS)


def test_nothing_to_take(server: Harness) -> None:
    result = server.kernel.upcall(server.kernel.program["CONNECT"], None)
    assert result.flags == 0


@pytest.mark.parametrize("option", [39, 41])
def test_kernel_tls_that_does_not_work(
    server: Harness, option: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the handshake too: it is what comes behind that has failed."""
    caplog.set_level(logging.INFO)
    sock, peer = server.connection()
    sock.refuse_option = option
    client = peer.tls(client_context(), read_to_end, **NAME)
    assert server.kernel.connect(sock).flags == 0
    direction = "sending" if option == 39 else "receiving"
    assert f"does not work for {direction}" in failed(server, "ktls")
    with pytest.raises((ssl.SSLError, ssl.SSLEOFError)):
        client.result(SECONDS)
    assert len(server.service.sessions) == 0
    first, second = (record.getMessage() for record in caplog.records)
    assert "TLSv1.3" in first
    assert "failed in phase ktls" in second


def test_upcalls_that_come_before_it_is_known_that_the_keys_work(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have been told so already: they wait, and find the session. A reload does
    not: there is none yet."""
    enable = Socket.enable_all
    ended: list[Future[int]] = []
    answers: list[Connected] = []
    service = server.service

    def disconnect() -> int:
        ended = service.handlers()["DISCONNECT"](1)
        service._kernel.settle()
        return int(ended)

    def enable_all(sock: Socket, sessions: Any, answer: Any = None) -> Any:
        answers.append(answer)
        assert (len(service.sessions), service.sessions.all()) == (1, [])
        ended.append(pool.submit(disconnect))
        return enable(sock, sessions, answer)

    monkeypatch.setattr(Socket, "enable_all", enable_all)
    sock, peer = server.connection(security="mtls")
    client = peer.tls(client_context("client"), read_to_end, **NAME)
    with ThreadPoolExecutor() as pool:
        assert server.kernel.connect(sock).flags == answers[0].flags == MUTUAL
        assert ended[0].result(SECONDS) == rpctls.RPCTLSERR_OK
    assert len(service.sessions) == 0
    assert client.result(SECONDS) == b""


def test_resumption_does_not_get_around_a_demand(server: Harness) -> None:
    """A ticket from a connection without a certificate is no way into one that demands it."""
    context = client_context()
    first, peer = server.connection()
    client = peer.tls(context, lambda tls: (exchange(tls), tls.session)[1], **NAME)
    server.kernel.connect(first)
    server.receive(first, 4)
    first.send(b"pong")
    session = client.result(SECONDS)

    second, peer = server.connection()
    client2 = peer.tls(
        context, lambda tls: (exchange(tls), tls.session_reused)[1], session=session, **NAME
    )
    assert server.kernel.connect(second).flags == ENCRYPTED
    server.receive(second, 4)
    second.send(b"pong")
    assert client2.result(SECONDS)
    assert server.kernel.event("handshake")["resumed"]

    third, peer = server.connection(security="mtls")
    client3 = peer.tls(context, read_to_end, session=session, **NAME)
    assert server.kernel.connect(third).flags == 0
    assert "showed no certificate" in failed(server, "client-certificate")
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        client3.result(SECONDS)


def test_mutual_tls_without_a_ca(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "server", verifylocs=None) as server:
        sock, _ = server.connection(security="mtls")
        assert server.kernel.connect(sock).flags == 0
        assert "no CA to verify them" in failed(server, "setup")


def test_a_start_without_what_it_needs(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="-m needs -l"),
        daemon("server", tmp_path, "server", verifylocs=None, mutualverf=True),
    ):
        pass


def test_chains_are_sent(tmp_path: Path) -> None:
    with daemon("server", tmp_path, "chained") as server:
        sock, peer = server.connection()
        client = peer.tls(client_context(), exchange, **NAME)
        assert server.kernel.connect(sock).flags == ENCRYPTED
        ping_pong(server, sock, client)


def test_unknown_sessions(server: Harness) -> None:
    sock, peer = server.connection()
    client = peer.tls(client_context(), exchange, **NAME)
    server.kernel.connect(sock)
    good = sock.session
    assert good is not None
    for wrong in (
        type(good)(good.sec - 1, good.usec, good.ssl),
        type(good)(good.sec, good.usec ^ 1, good.ssl),
        type(good)(good.sec, good.usec, good.ssl + 1),
    ):
        sock.session = wrong
        assert server.kernel.about(sock, "HANDLERECORD") == rpctls.RPCTLSERR_NOSSL
        assert server.kernel.about(sock, "REKEY") == rpctls.RPCTLSERR_NOSSL
        assert server.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_NOCLOSE
    sock.session = good
    assert server.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert server.kernel.about(sock, "DISCONNECT") == rpctls.RPCTLSERR_NOCLOSE
    assert client.result(SECONDS) == b""


def test_a_slow_handshake_holds_up_nobody(server: Harness) -> None:
    slow, peer = server.connection()
    waiting = peer.run(lambda _: server.kernel.connect(slow).flags)
    quick, other = server.connection()
    client = other.tls(client_context(), exchange, **NAME)
    while not server.kernel.taken():
        # Until the daemon has taken the slow one.
        assert not waiting.done()
    assert server.kernel.connect(quick).flags == ENCRYPTED
    ping_pong(server, quick, client)
    assert not waiting.done()
    peer.sock.close()
    assert waiting.result(SECONDS) == 0
