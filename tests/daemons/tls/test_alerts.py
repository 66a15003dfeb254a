"""What RFC 8446 demands of alerts, by daemons: each in both directions, by both kinds of sessions.

The kernel's part is in tests/kernel/upcalls/test_faults.py; docs/alerts.md has the whole table.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_daemons.tls.alerts import Alert, advice_for
from umktls_daemons.tls.failure import VERIFY_ALERTS, alert_received
from umktls_daemons.tls.identity import Identity, Trust
from umktls_daemons.tls.tlsadapter import ClientCertificates, TlsContext, TlsError, Versions

from tests.daemons.ends import End, connect, forge, talk
from tests.daemons.fakesocket import SECONDS, FakeSocket
from tests.daemons.harness import client_context, daemon
from tests.daemons.pki import certificates
from tests.daemons.tls.handshakes import pass_on
from umktls.abi import rpctls
from umktls.abi.alerts import TlsAlert, alert_name
from umktls.certs.pki import Authority
from umktls.ktls.session.suites import TLS_1_2, TLS_1_3

WARNING, FATAL = 1, 2
KEY_UPDATE = b"\x18\0\0\1\0"


@pytest.fixture(params=["live", "adopted"])
def ends(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[End, End]]:
    """A session; the first end's daemon has made it, or has adopted it."""
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client") as client,
        daemon("server", tmp_path / "server", "server", mutualverf=True) as server,
    ):
        one, other = connect(client, server)
        talk(one, other)
        if request.param == "adopted":
            client.start_another(one.sock)
        with contextlib.closing(one.sock.sock), contextlib.closing(other.sock.sock):
            yield one, other


def listen(end: End, length: int) -> bytes:
    """Application data; the daemon is asked about all else, whatever it answers."""

    def control(sock: FakeSocket) -> None:
        end.kernel.about(sock, "HANDLERECORD")

    return end.sock.receive(length, control)


# What we do when one comes.


@pytest.mark.parametrize("level", [WARNING, FATAL])
@pytest.mark.parametrize("description", [10, 20, 22, 40, 46, 49, 80, 100, 112, 116, 250])
def test_all_but_closures_end_the_session(
    ends: tuple[End, End], level: int, description: int
) -> None:
    """Section 6: whatever the level, those that nobody knows too. And nothing is read behind one
    (section 6.2: the connection is closed at once)."""
    one, other = ends
    forge(other, 21, bytes((level, description)))
    other.sock.send(b"later")
    assert listen(one, 5) == b""
    event = one.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", alert_name(description))
    # No answer: an alert is not answered by an alert.
    other.sock.sock.settimeout(SECONDS)
    assert other.sock.sock.recv(100) == b""


def test_nothing_counts_behind_a_close_notify(ends: tuple[End, End]) -> None:
    """Section 6.1: any data received after a closure alert MUST be ignored."""
    one, other = ends
    forge(other, 21, bytes((WARNING, 0)))
    other.sock.send(b"later")
    assert listen(one, 5) == b""
    assert one.kernel.event("alert")["description"] == "close_notify"
    # Each party sends one before it closes its side.
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "close_notify"


def test_user_canceled_waits_for_its_close_notify(ends: tuple[End, End]) -> None:
    """Section 6.1: it is a closure alert, and followed by close_notify."""
    one, other = ends
    forge(other, 21, bytes((WARNING, 90)))
    other.sock.send(b"still")
    assert listen(one, 5) == b"still"
    event = one.kernel.event("alert")
    assert (event["level"], event["description"]) == ("warning", "user_canceled")
    talk(one, other)
    forge(other, 21, bytes((WARNING, 0)))
    assert listen(one, 1) == b""


def test_no_end_of_warnings(ends: tuple[End, End]) -> None:
    """The SSL object counts them, and at some time has enough: then that is told too."""
    one, other = ends
    for _ in range(8):
        forge(other, 21, bytes((WARNING, 90)))
    other.sock.send(b"still")
    if listen(one, 5) == b"still":
        return  # an adopted one has no such object
    assert one.kernel.event("alert")["description"] == "unexpected_message"
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "unexpected_message"


@pytest.mark.parametrize(
    ("version", "level", "description", "ends"),
    [
        (TLS_1_3, FATAL, 90, False),
        (TLS_1_3, WARNING, 112, True),
        (TLS_1_3, WARNING, 0, True),
        # RFC 5246 section 7.2: as the level says.
        (TLS_1_2, WARNING, 100, False),
        (TLS_1_2, WARNING, 112, False),
        (TLS_1_2, FATAL, 90, True),
        (TLS_1_2, FATAL, 20, True),
        (TLS_1_2, WARNING, 0, True),
    ],
)
def test_which_alerts_end_a_session(version: int, level: int, description: int, ends: bool) -> None:
    assert Alert(level, description).ends(version) is ends


# What we send.


@pytest.mark.parametrize("record_type", [20, 21, 24])
def test_nothing_comes_in_the_middle_of_a_handshake_message(
    ends: tuple[End, End], record_type: int
) -> None:
    """Section 5.1, where the kernel passes it on as Linux's does: a close_notify there would have
    the end taken for one in order."""
    one, other = ends
    one.sock.state.rx.interleaves = True
    forge(other, 22, KEY_UPDATE[:3])
    forge(other, record_type, b"\1\0")
    assert listen(one, 5) == b""
    event = one.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", "unexpected_message")


@pytest.mark.parametrize(
    ("record_type", "content", "alert"),
    [
        (22, b"\x18\0\0\1\2", "illegal_parameter"),  # 4.6.3: request_update is 0 or 1
        (22, b"\x18\0\0\2\0\0", "decode_error"),  # 6.2: the length of a message is wrong
        (22, b"\x18\0\0\0", "decode_error"),
        (22, KEY_UPDATE + b"\x04", "unexpected_message"),  # 5.1: a message across two keys
        (22, b"", "unexpected_message"),  # 5.4: no content
        (21, b"", "unexpected_message"),  # 5.4
        (21, b"\1", "decode_error"),  # 5.1: an alert is not cut
        (21, b"\1\0\1\0", "decode_error"),  # 5.1: nor are two in one record
        (22, b"\1\0\0\0", "unexpected_message"),  # 4.1.2: a ClientHello after the handshake
        (22, b"\x0d\0\0\0", "unexpected_message"),  # 4.6.2: CertificateRequest, not offered
        (22, b"\x14\0\0\0", "unexpected_message"),  # Finished, once more
        (22, b"\xc8\0\0\0", "unexpected_message"),  # a type that nobody knows
        (20, b"\1", "unexpected_message"),  # 5: change_cipher_spec behind the Finished
        (24, b"heartbeat", "unexpected_message"),  # 5: a type of record that was not agreed
        (99, b"?", "unexpected_message"),
    ],
)
def test_what_is_answered_by_which_alert(
    ends: tuple[End, End], record_type: int, content: bytes, alert: str
) -> None:
    one, other = ends
    forge(other, record_type, content)
    other.sock.send(b"later")
    assert listen(one, 5) == b""
    event = one.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", alert)
    assert other.receive(1) == b""
    event = other.kernel.event("alert")
    assert (event["level"], event["description"]) == ("fatal", alert)


def test_nothing_follows_a_fatal_alert_of_ours(ends: tuple[End, End]) -> None:
    """Section 6.2. The close_notify at DISCONNECT neither."""
    one, other = ends
    forge(other, 24, b"heartbeat")
    assert listen(one, 1) == b""
    assert one.kernel.about(one.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert other.receive(1) == b""
    descriptions = [e["description"] for e in other.kernel.events if e["event"] == "alert"]
    assert descriptions == ["unexpected_message"]


def test_close_notify_before_the_end(ends: tuple[End, End]) -> None:
    """Section 6.1: before it closes its side, each party sends one."""
    one, other = ends
    assert one.kernel.about(one.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "close_notify"


# In the handshake: what is no record.


@pytest.mark.parametrize(
    ("side", "head", "alert"),
    [
        ("server", b"\x16\x03\x01\x41\x01", "RECORD_OVERFLOW"),
        ("server", b"\x17\x03\x03\x00\x20" + bytes(32), "UNEXPECTED_MESSAGE"),
        ("client", b"\x16\x03\x03\x41\x01", "RECORD_OVERFLOW"),
        ("client", b"\x63\x03\x03\x00\x20", "UNEXPECTED_MESSAGE"),
        ("client", b"\x17\x03\x03\x00\x20" + bytes(32), "UNEXPECTED_MESSAGE"),
    ],
)
def test_what_is_no_record_of_a_handshake(
    tmp_path: Path, side: str, head: bytes, alert: str
) -> None:
    with daemon(side, tmp_path, side) as one:
        sock, peer = one.connection()

        def work(raw: socket.socket) -> bytes:
            if side == "client":
                raw.recv(5 + int.from_bytes(raw.recv(5)[3:], "big"))
            raw.sendall(head)
            return raw.recv(100)

        said = peer.run(work)
        one.kernel.connect(sock)
        answer = said.result(SECONDS)
    assert answer[:1] == b"\x15"
    assert (answer[5], TlsAlert(answer[6]).name) == (FATAL, alert)
    assert one.kernel.event("handshake-failed")["phase"] == "tls"


def test_who_does_not_begin_a_handshake_gets_no_answer(tmp_path: Path) -> None:
    """RFC 9289 section 5.1.1: spurious traffic behind the probe is discarded without response."""
    with daemon("server", tmp_path, "server") as one:
        sock, peer = one.connection()

        def work(raw: socket.socket) -> bytes:
            raw.sendall(b"\x80\0\0\x28" + bytes(40))
            return raw.recv(100)

        said = peer.run(work)
        one.kernel.connect(sock)
        assert said.result(SECONDS) == b""


# Certificates.


def shaken(
    server: TlsContext, client: TlsContext, certificates: ClientCertificates
) -> tuple[int | None, int | None]:
    """A handshake that fails: the alert that the client has sent, and the one that the server
    has."""
    ends = client.client("localhost"), server.server(certificates)
    failed = False
    for _ in range(4):
        for one, other in (ends, ends[::-1]):
            try:
                one.handshake()
                one.read()
            except TlsError:
                failed = True
            pass_on(one, other)
    assert failed
    return ends[0].findings.alert_sent, ends[1].findings.alert_sent


def context_of(
    name: str | None, side: str, versions: Versions, crl: Path | None = None
) -> TlsContext:
    pki = certificates()
    identity = Identity(pki.certificate(name), pki.key(name)) if name else None
    return TlsContext(
        server=side == "server",
        trust=Trust(pki.ca, crl=crl),
        identity=identity,
        passphrase=lambda: b"",
        versions=versions,
    )


@pytest.mark.parametrize("versions", [Versions.TLS12, Versions.TLS13])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("fault", ["missing", "out of date"])
def test_a_missing_list_is_not_an_unknown_ca(
    tmp_path: Path, fault: str, side: str, versions: Versions
) -> None:
    """Nor an expired certificate: the list is ours. So certificate_unknown, "some other issue"."""
    authority, lasts = certificates().authority, datetime.timedelta(minutes=-1)
    made = Authority.create().crl() if fault == "missing" else authority.crl(lasts=lasts)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(made)
    client = context_of("client", "client", versions, crl if side == "client" else None)
    server = context_of("server", "server", versions, crl if side == "server" else None)
    sent = shaken(server, client, ClientCertificates.DEMAND)
    assert sent[side == "server"] == TlsAlert.CERTIFICATE_UNKNOWN


@pytest.mark.parametrize("versions", [Versions.TLS12, Versions.TLS13])
@pytest.mark.parametrize(
    ("name", "alert"),
    [
        ("foreign-client", "UNKNOWN_CA"),
        ("expired-client", "CERTIFICATE_EXPIRED"),
        ("server", "UNSUPPORTED_CERTIFICATE"),
        (None, "CERTIFICATE_REQUIRED"),
    ],
)
def test_what_a_client_is_told_of_its_certificate(
    name: str | None, alert: str, versions: Versions
) -> None:
    client = context_of(name, "client", versions)
    server = context_of("server", "server", versions)
    if name is None and versions is Versions.TLS12:
        alert = "HANDSHAKE_FAILURE"  # RFC 5246 section 7.4.6
    _, sent = shaken(server, client, ClientCertificates.DEMAND)
    assert sent == TlsAlert[alert]


@pytest.mark.parametrize("code", sorted(VERIFY_ALERTS))
def test_only_a_ca_that_is_not_known_is_told_so(code: int) -> None:
    about_cas = {2, 18, 19, 20, 21, 30}
    assert (VERIFY_ALERTS[code] == TlsAlert.UNKNOWN_CA) == (code in about_cas)


def test_access_denied_is_explained() -> None:
    """Linux's tlshd says it of any certificate that it does not like."""
    assert "tlshd" in advice_for(TlsAlert.ACCESS_DENIED)
    assert "whatever the reason" in str(alert_received(TlsAlert.ACCESS_DENIED))


def test_a_clients_alert_in_the_handshake_is_told(tmp_path: Path) -> None:
    """Section 6.2: nobody answers it, and the reason is the alert's."""
    with daemon("server", tmp_path, "foreign") as server:
        sock, peer = server.connection()
        client = peer.tls(client_context(), lambda tls: tls.recv(1), server_hostname="localhost")
        server.kernel.connect(sock)
        with pytest.raises(ssl.SSLCertVerificationError):
            client.result(SECONDS)
        assert "unknown_ca" in server.kernel.event("handshake-failed")["reason"]


def test_the_table_names_tests_that_there_are() -> None:
    root = Path(__file__).parents[3]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "alerts.md").read_text()))
    files = (
        "daemons/tls/test_alerts.py",
        "daemons/sessions/test_large_certificates.py",
        "kernel/upcalls/test_faults.py",
        "engines/test_hosts.py",
    )
    defined = "".join((root / "tests" / file).read_text() for file in files)
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in defined] == []
