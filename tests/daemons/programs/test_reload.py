"""SIGHUP: new certificates, keys and revocation lists, and nobody is dropped but the revoked."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from umktls_daemons.programs.taken import Attempt, Taken
from umktls_daemons.sessions.session import LiveSession
from umktls_daemons.tls.tlsadapter.chains import Chains

from tests.conftest import patience
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import (
    ENCRYPTED,
    MUTUAL,
    RESULT_OK,
    Harness,
    client_context,
    daemon,
    server_context,
    session_of,
)
from tests.daemons.pki import certificates, chain, write_lists
from umktls.certs.pki import CLIENT_USAGE, Authority, Credential, Leaf

NAME = {"server_hostname": "localhost"}
EXPIRED = datetime.timedelta(minutes=-30)


@pytest.fixture
def crl(tmp_path: Path) -> Path:
    return write_lists(tmp_path / "crl.pem")


@pytest.fixture
def server(tmp_path: Path, crl: Path) -> Iterator[Harness]:
    with daemon("server", tmp_path, "server", mutualverf=True, crl=crl) as harness:
        yield harness


@pytest.fixture
def client(tmp_path: Path, crl: Path) -> Iterator[Harness]:
    with daemon("client", tmp_path, "client", crl=crl) as harness:
        yield harness


def read(tls: ssl.SSLSocket) -> bytes:
    """What comes, to the end."""
    return b"".join(iter(lambda: tls.recv(100), b""))


Session = tuple[FakeSocket, Future[bytes]]


def client_of(server: Harness, context: ssl.SSLContext, flags: int = MUTUAL) -> Session:
    """A session of a client that reads to the end."""
    sock, peer = server.connection()
    answer = peer.tls(context, read, **NAME)
    assert server.kernel.connect(sock).flags == flags
    return sock, answer


def finish(server: Harness, session: Session) -> None:
    """The session is alive until the kernel ends it in order."""
    sock, answer = session
    sock.send(b"still here")
    server.kernel.about(sock, "DISCONNECT")
    sock.sock.close()
    assert answer.result(SECONDS) == b"still here"


def test_a_revoked_client_is_cut_off_and_nobody_else(server: Harness, crl: Path) -> None:
    revoked = [client_of(server, client_context("client")) for _ in range(3)]
    others = [
        client_of(server, client_context("other-client")),
        client_of(server, client_context("chained-client")),
        client_of(server, client_context(), ENCRYPTED),
    ]
    write_lists(crl, "client")
    assert server.service.reload()
    for sock, answer in revoked:
        # The kernel sees the end of the stream, though the peer has not closed.
        assert server.receive(sock, 1) == b""
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
            answer.result(SECONDS)
    event = server.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", "certificate_revoked")
    assert "CN=umktls client is not good any more: certificate revoked" in event["reason"]
    for session in others:
        finish(server, session)


def test_a_revoked_client_gets_no_new_session(server: Harness, crl: Path) -> None:
    write_lists(crl, "client")
    assert server.service.reload()
    sock, peer = server.connection()
    answer = peer.tls(client_context("client"), read, **NAME)
    assert server.kernel.connect(sock).flags == 0
    assert "was revoked" in server.kernel.event("handshake-failed")["reason"]
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        answer.result(SECONDS)


def test_an_intermediate_ca_that_is_revoked_takes_its_clients_along(
    server: Harness, crl: Path
) -> None:
    session = client_of(server, client_context("chained-client"))
    pki = certificates()
    crl.write_bytes(pki.authority.crl([pki.intermediate.credential]) + pki.intermediate.crl())
    assert server.service.reload()
    assert server.receive(session[0], 1) == b""
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        session[1].result(SECONDS)


@pytest.mark.parametrize("certificate", ["client", "chained-client"])
def test_a_ticket_is_no_way_around_a_revocation(
    server: Harness, crl: Path, certificate: str
) -> None:
    context = client_context(certificate)
    _, session = session_of(server, context, **NAME)

    # It is good for resuming, and what is resumed has its certificate checked like any other.
    second, peer = server.connection()
    resumed = peer.tls(context, read, session=session, **NAME)
    assert server.kernel.connect(second).flags == MUTUAL
    assert server.kernel.event("handshake")["resumed"]
    assert server.service.reload()
    second.send(b"goes on")
    write_lists(crl, certificate)
    assert server.service.reload()
    assert server.receive(second, 1) == b""
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        resumed.result(SECONDS)

    third, peer = server.connection()
    again = peer.tls(context, read, session=session, **NAME)
    assert server.kernel.connect(third).flags == 0
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        again.result(SECONDS)


def test_a_handshake_in_the_middle_of_a_reload(
    server: Harness, crl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let in by the old list is judged by the new one."""
    establish = server.service._establish

    def slow(taken: Taken, attempt: Attempt, number: int) -> LiveSession:
        session = establish(taken, attempt, number)
        monkeypatch.undo()
        assert server.service.sessions.remove(number) is session
        write_lists(crl, "client")
        assert server.service.reload()
        server.service.sessions.add(number, session)
        return session

    monkeypatch.setattr(server.service, "_establish", slow)
    sock, peer = server.connection()
    answer = peer.tls(client_context("client"), read, **NAME)
    server.kernel.connect(sock)
    assert server.receive(sock, 1) == b""
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        answer.result(SECONDS)


def test_a_ca_that_is_not_trusted_any_more(tmp_path: Path) -> None:
    trusted = tmp_path / "cas.pem"
    trusted.write_bytes(certificates().ca.read_bytes())
    with daemon("server", tmp_path, "server", mutualverf=True, verifylocs=trusted) as server:
        session = client_of(server, client_context("client"))
        trusted.write_bytes(certificates().other_ca.read_bytes())
        assert server.service.reload()
        assert server.receive(session[0], 1) == b""
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            session[1].result(SECONDS)


def test_a_new_certificate_is_shown_from_now_on(server: Harness) -> None:
    def subject(tls: ssl.SSLSocket) -> object:
        certificate = tls.getpeercert()
        assert certificate is not None
        read(tls)
        return certificate["subject"]

    old = client_of(server, client_context(), ENCRYPTED)
    certificates().certdir("chained", server.kernel.rundir / "certdir")
    assert server.service.reload()
    sock, peer = server.connection()
    shown = peer.tls(client_context(), subject, **NAME)
    assert server.kernel.connect(sock).flags == ENCRYPTED
    server.kernel.about(sock, "DISCONNECT")
    sock.sock.close()
    assert shown.result(SECONDS) == ((("commonName", "chained"),),)
    finish(server, old)


BROKEN = {
    "cert.pem": b"garbage",
    "certkey.pem": b"garbage",
    "crl.pem": b"garbage",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_broken_changes_nothing(
    server: Harness, crl: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = client_of(server, client_context("client"))
    path = crl if name == "crl.pem" else server.kernel.rundir / "certdir" / name
    path.write_bytes(BROKEN[name])
    assert not server.service.reload()
    assert "nothing was reloaded" in caplog.text
    assert "nothing can be used" in server.kernel.event("reloaded")["outcome"]
    assert str(path) in caplog.text
    finish(server, session)
    finish(server, client_of(server, client_context("client")))


def test_a_list_that_is_out_of_date_lets_nobody_in(server: Harness, crl: Path) -> None:
    pki = certificates()
    crl.write_bytes(pki.authority.crl(lasts=EXPIRED))
    assert server.service.reload()
    sock, peer = server.connection()
    answer = peer.tls(client_context("client"), read, **NAME)
    assert server.kernel.connect(sock).flags == 0
    failed = server.kernel.event("handshake-failed")
    assert "the revocation list of CN=umktls good CA is out of date" in failed["reason"]
    assert "SIGHUP" in failed["advice"]
    with pytest.raises(ssl.SSLError):
        answer.result(SECONDS)


def test_a_ca_without_a_list_vouches_for_nobody(server: Harness, crl: Path) -> None:
    crl.write_bytes(certificates().authority.crl())
    assert server.service.reload()
    sock, peer = server.connection()
    answer = peer.tls(client_context("chained-client"), read, **NAME)
    assert server.kernel.connect(sock).flags == 0
    assert (
        "there is no revocation list of CN=umktls test intermediate CA"
        in (server.kernel.event("handshake-failed")["reason"])
    )
    with pytest.raises(ssl.SSLError):
        answer.result(SECONDS)


def echo_to_the_end(tls: ssl.SSLSocket) -> bytes:
    data = read(tls)
    with contextlib.suppress(OSError):
        tls.unwrap()
    return data


def test_a_server_that_was_revoked(client: Harness, crl: Path) -> None:
    sock, peer = client.connection()
    server = peer.tls(server_context(), echo_to_the_end, server_side=True)
    assert client.kernel.connect(sock).reterr == RESULT_OK
    assert client.service.reload()
    sock.send(b"goes on")
    write_lists(crl, "server")
    assert client.service.reload()
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.revoked"):
        server.result(SECONDS)
    assert client.receive(sock, 1) == b""

    again, peer = client.connection()
    refused = peer.tls(server_context(), echo_to_the_end, server_side=True)
    assert client.kernel.connect(again).reterr != RESULT_OK
    assert "was revoked" in client.kernel.event("handshake-failed")["reason"]
    with pytest.raises(ssl.SSLError):
        refused.result(SECONDS)


def test_a_client_resumes_until_a_reload_and_not_across_one(client: Harness) -> None:
    context = server_context()

    def one() -> bool:
        sock, peer = client.connection()
        server = peer.tls(context, lambda tls: tls.recv(4), server_side=True)
        assert client.kernel.connect(sock).reterr == RESULT_OK
        # The tickets come before the end of the stream.
        sock.send(b"ping")
        assert server.result(SECONDS) == b"ping"
        assert client.receive(sock, 1) == b""
        return bool(client.kernel.event("handshake")["resumed"])

    assert [one(), one()] == [False, True]
    assert client.service.reload()
    assert [one(), one()] == [False, True]


def test_who_resumes_must_still_be_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed session has no certificate checked by TLS; so it is done here."""
    with daemon("server", tmp_path, "server", mutualverf=True) as server:
        context = client_context("client")
        _, session = session_of(server, context, **NAME)
        _, *above = server.service.sessions.all()[0].chain
        old = certificates().credential("expired-client").certificate
        monkeypatch.setattr(Chains, "of", lambda *_: chain(old, *above))
        second, peer = server.connection()
        answer = peer.tls(context, read, session=session, **NAME)
        assert server.kernel.connect(second).flags == 0
        assert "expired at" in server.kernel.event("handshake-failed")["reason"]
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.expired"):
            answer.result(SECONDS)


def test_many_sessions_are_judged_in_little_time(tmp_path: Path) -> None:
    """1,000 clients of one CA, as many certificates."""
    authority = Authority.create("big CA")
    credentials = [authority.leaf(Leaf(f"c{n}", usage=CLIENT_USAGE)) for n in range(250)]
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem())
    (tmp_path / "crl.pem").write_bytes(authority.crl(credentials[:10]))
    with daemon(
        "server",
        tmp_path,
        "server",
        verifylocs=tmp_path / "ca.pem",
        mutualverf=True,
        crl=tmp_path / "crl.pem",
    ) as server:
        began = time.thread_time()
        problems = [problem_of(server, credential, authority) for credential in credentials * 4]
        assert time.thread_time() - began < patience(2)
    assert problems.count(23) == 40
    assert problems.count(None) == 960


def problem_of(server: Harness, credential: Credential, authority: Authority) -> int | None:
    problem = server.service.problem_with(chain(credential.certificate, authority.certificate))
    return problem.code if problem is not None else None
