"""One handshake: from a fresh socket to traffic keys with proven sequence numbers.

Theory of operation
===================

The SSL object lives in memory. What it puts out is written to the socket; when it wants input, the
whole TLS records that have come are shown to it, and those that it has used are read then (a flight
of seven records costs one step of the object in place of seven). Where there is none, one is waited
for and read. So at the end not one byte has been read too far, and the first unread byte is the
first one that kernel TLS will have to open (design case S5).

At that moment some records may already have gone under the application keys: a server's tickets
have. They are what it sends when the object has finished; each is opened under its number, and the
count is where the kernel's sequence numbers begin. Nothing else can have gone under these keys: a
client says nothing behind its Finished, and the last record that was read is the one in which the
peer's Finished ends, since no message may span a change of keys (RFC 8446 section 5.1). In TLS 1.2
all records behind a ChangeCipherSpec are counted that way.

What TLS itself does not insist on is checked afterwards: ALPN (RFC 9289 does not allow to leave it
out, and real kernels' daemons do) and, for a resumed session, the peer's certificate: whether there
is one, and whether it is still good. The keys are there by then, so the peer is told by a proper
alert.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Literal, Protocol

from umktls.abi.alerts import TlsAlert, alert_name
from umktls.dataclass import dataclass
from umktls.errors import PeerError, UmktlsError
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.userland.libc import Record
from umktls.userland.streams import (
    CONTENT_TYPES,
    Deadline,
    DeadlinePassed,
    EndOfStream,
    NotTls,
)

from ..tls import tls12
from ..tls.alerts import OLDER_TLS, Alert
from ..tls.certtexts import UNREADABLE
from ..tls.failure import (
    HandshakeFailure,
    VerifyProblem,
    alert_received,
    lost,
    unreadable,
    verify_failure,
)
from ..tls.tlsadapter import ALPN, Endpoint, TlsError
from .records import ALERT, proven_count, seal_record, split_records

# What of a peer that does not speak ALPN: go on and tell, turn it down, or go on and be silent.
Alpn = Literal["auto", "strict", "compat"]
# How that is said to a client and to a server.
ALPN_OPTION = ("-o alpn={0} (rpctlscd --alpn {0})", "--alpn {0} (of serve, or of rpctlssd)")
# The header of an alert record in clear.
IN_CLEAR = bytes((ALERT, 3, 3, 0, 2))
# What OpenSSL says in TLS 1.2, which has no alert of its own for it.
NO_CERTIFICATE = "peer did not return a certificate"
# And of a message that is longer than any may be; the longest have certificates in them.
TOO_LONG = "excessive message size"
CERTIFICATES_LIMIT = 100 * 1024  # SSL_MAX_CERT_LIST_DEFAULT

__all__ = [
    "Alpn",
    "Expectations",
    "Look",
    "RecordStream",
    "TrafficKeys",
    "handshake",
    "refusal",
    "remark",
]


# Is told of the records of a flight, "sent" or "received".
Look = Callable[[str, Sequence[bytes]], None]


class RecordStream(Protocol):
    """The connection, as `umktls.userland.libc.Socket` has it."""

    def read_record(self, deadline: Deadline) -> bytes: ...

    def records_ahead(self, deadline: Deadline | None = None) -> bytes: ...

    def take_ahead(self, records: bytes) -> None: ...

    def write_all(self, data: bytes, deadline: Deadline) -> None: ...


@dataclass(frozen=True, slots=True)
class Expectations:
    """Whom we want to talk to; the texts are for the failure's reason.

    `server`: this side is the server. `name`: the server's name as asked for. `trust`: where the
    trusted CAs come from. `certificate_demanded`: the client must have shown a certificate.
    `alpn`: what of a peer that does not say ``sunrpc``; one that says something else is refused.
    """

    server: bool
    name: str
    trust: str
    certificate_demanded: bool = False
    alpn: Alpn = "auto"


@dataclass(frozen=True, slots=True)
class TrafficKeys:
    """The application traffic secrets, and for each direction what the kernel needs.

    The sequence numbers in `tx` and `rx` are those of the next records.
    """

    tx_secret: bytes = field(repr=False)
    rx_secret: bytes = field(repr=False)
    tx: Session
    rx: Session


def handshake(
    stream: RecordStream,
    endpoint: Endpoint,
    deadline: Deadline,
    expected: Expectations,
    look: Look | None = None,
) -> TrafficKeys:
    """Shake hands over `stream`. `look` is told of each flight: of one of ours before it goes.

    Raises `HandshakeFailure`; the peer then has its alert.
    """
    attempt = _Attempt(stream, endpoint, deadline, expected, look)
    try:
        attempt.run()
    except TlsError as error:
        attempt.flush_quietly()
        raise _explain(error, endpoint, expected) from error
    except (EndOfStream, DeadlinePassed, NotTls) as error:
        if isinstance(error, NotTls):
            attempt.answer(error.head)
        raise lost(error, len(records_in(attempt.received))) from error
    keys = attempt.keys()
    found = refusal(endpoint, expected)
    if found is not None:
        description, failure = found
        attempt.send_alert(keys, description)
        raise failure
    return keys


class _Attempt:
    """The bytes of one handshake."""

    def __init__(
        self,
        stream: RecordStream,
        endpoint: Endpoint,
        deadline: Deadline,
        expected: Expectations,
        look: Look | None,
    ) -> None:
        self._stream = stream
        self._look = look
        self._looked = 0  # at so much of what was received
        self._endpoint = endpoint
        self._deadline = deadline
        self._expected = expected
        self.sent: list[bytes] = []  # one whole record or several each, as in what was received
        self.received: list[bytes] = []
        self._ahead = b""  # records that were shown to the object and are in the socket still
        self._behind = b""  # what was sent when the object had finished

    def run(self) -> None:
        if self._expected.server:  # the client speaks first
            self._feed_what_comes()
        while True:
            try:
                finished = self._endpoint.handshake()
            finally:
                self._take_what_was_used()
            flight = self.flush()
            if finished:
                self._behind = flight
                self._look_at_received()
                return
            self._feed_what_comes()

    def _feed_what_comes(self) -> None:
        records = self._ahead = self._stream.records_ahead(self._deadline)
        if not records:  # the beginning of one, or its end
            records = self._stream.read_record(self._deadline)
            self.received.append(records)
        self._endpoint.feed(records)

    def _take_what_was_used(self) -> None:
        """Read those of the records ahead that the object has used."""
        ahead, self._ahead = self._ahead, b""
        if ahead and (used := ahead[: len(ahead) - self._endpoint.take_back()]):
            self._stream.take_ahead(used)
            self.received.append(used)

    def flush(self) -> bytes:
        """Send what the object has to say, and return it."""
        output = self._endpoint.output()
        if output:
            self.sent.append(output)
            self._look_at_received()
            if self._look is not None:
                self._look("sent", split_records(output))
            self._stream.write_all(output, self._deadline)
        return output

    def _look_at_received(self) -> None:
        """What has come since the last flight: now there are the secrets to open it with."""
        if self._look is not None and self._looked < len(self.received):
            self._look("received", records_in(self.received[self._looked :]))
            self._looked = len(self.received)

    def flush_quietly(self) -> None:
        """The last words of a handshake that has failed: an alert, if the peer still listens."""
        with contextlib.suppress(UmktlsError):
            self.flush()

    def answer(self, head: bytes) -> None:
        """What is no record gets the alert that OpenSSL has for its header: unexpected_message,
        record_overflow and so on (RFC 8446 sections 5, 5.1 and 5.2).

        A client that does not begin a handshake gets no answer (RFC 9289 section 5.1.1).
        """
        unknown = head[0] not in CONTENT_TYPES
        if unknown and self._expected.server and not self.received:
            return
        self._endpoint.feed(head)
        with contextlib.suppress(TlsError):
            self._endpoint.handshake()
        self.flush_quietly()
        if unknown and not self.received and self._endpoint.findings.alert_sent is None:
            # OpenSSL waits for the rest of it.
            self._write_quietly(IN_CLEAR + Alert.fatal(TlsAlert.UNEXPECTED_MESSAGE).encode())

    def _write_quietly(self, data: bytes) -> None:
        with contextlib.suppress(UmktlsError):
            self._stream.write_all(data, self._deadline)

    def keys(self) -> TrafficKeys:
        """The keys; the sequence numbers proven by opening what they count."""
        if self._endpoint.version == "TLSv1.2":
            return self._keys_of_tls12()
        secrets = self._endpoint.findings.secrets
        suite = SUITES.get(self._endpoint.suite)
        ours, theirs = "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"
        if self._expected.server:
            ours, theirs = theirs, ours
        if suite is None or ours not in secrets or theirs not in secrets:
            raise self._no_secrets()
        tx = Session.from_secret(suite, secrets[ours])
        rx = Session.from_secret(suite, secrets[theirs])
        if self._expected.server and self._behind:
            tx = _numbered(tx, split_records(self._behind))
        keys = TrafficKeys(secrets[ours], secrets[theirs], tx, rx)
        secrets.clear()
        return keys

    def _keys_of_tls12(self) -> TrafficKeys:
        """The secrets are empty: nothing follows from them in TLS 1.2."""
        suite = tls12.suite_of(self._endpoint.suite)
        master = self._endpoint.findings.secrets.get("CLIENT_RANDOM")
        if suite is None or master is None:
            raise self._no_secrets()
        client, server = tls12.sessions(suite, master, *self._endpoint.randoms)
        tx, rx = (server, client) if self._expected.server else (client, server)
        self._endpoint.findings.secrets.clear()
        sent, received = records_in(self.sent), records_in(self.received)
        return TrafficKeys(b"", b"", _numbered(tx, sent), _numbered(rx, received))

    def _no_secrets(self) -> HandshakeFailure:
        return HandshakeFailure(
            "keys",
            f"OpenSSL gave no secrets for the suite {self._endpoint.suite} that kernel TLS knows",
            "choose another suite with -C of the daemon; or this pyOpenSSL has no usable key log",
        )

    def send_alert(self, keys: TrafficKeys, description: int) -> None:
        """Tell the peer, under the application keys, why we hang up."""
        alert = Record(ALERT, Alert.fatal(description).encode())
        self._write_quietly(seal_record(keys.tx, alert))


def records_in(pieces: Sequence[bytes]) -> list[bytes]:
    """The single records of pieces that are whole ones."""
    return split_records(b"".join(pieces))


def _numbered(keys: Session, records: Sequence[bytes]) -> Session:
    """The keys with the number of the next record, behind `records`."""
    try:
        return keys.at(proven_count(records, keys))
    except PeerError as error:
        raise HandshakeFailure(
            "keys",
            f"the sequence numbers cannot be proven: {error}",
            "the peer sends records that no TLS library sends; look into its log",
        ) from error


def refusal(endpoint: Endpoint, expected: Expectations) -> tuple[int, HandshakeFailure] | None:
    """Why a finished handshake is not good enough, with the alert for it."""
    try:
        _ = endpoint.chain  # which is verified, and asked for again and again
    except UNREADABLE as error:
        return TlsAlert.UNSUPPORTED_CERTIFICATE, unreadable(
            f"verifies ({error})", of_server=not expected.server
        )
    if endpoint.alpn != ALPN and (expected.alpn == "strict" or endpoint.alpn):
        return TlsAlert.NO_APPLICATION_PROTOCOL, _not_sunrpc(endpoint.alpn, expected.server)
    if expected.certificate_demanded and endpoint.peer_certificate is None:
        return TlsAlert.CERTIFICATE_REQUIRED, _no_client_certificate()
    # A full handshake has verified the certificate just now.
    problem = endpoint.problem() if endpoint.resumed else None
    return (problem.alert, _unverified(problem, expected)) if problem is not None else None


def _not_sunrpc(spoken: bytes, server: bool) -> HandshakeFailure:
    """`spoken`: the protocol that was agreed upon, empty for none."""
    whose, verb = ("client", "offered") if server else ("server", "chose")
    if spoken:
        what = f"the application protocol {spoken.decode('ascii', 'backslashreplace')}"
        advice = f"the {whose} is no RPC-with-TLS endpoint: check the address and the port"
    else:
        what = "no application protocol"
        advice = (
            f"the {whose} predates RFC 9289, or is a kernel's whose daemon does not say it: update "
            f"it, or accept it with {ALPN_OPTION[server].format('auto')}"
        )
    return HandshakeFailure(
        "alpn", f"the {whose} {verb} {what}; it must be sunrpc (RFC 9289)", advice
    )


def remark(endpoint: Endpoint, expected: Expectations) -> str:
    """What people should know of a handshake that is good enough; empty where there is nothing."""
    if endpoint.alpn == ALPN or expected.alpn != "auto":
        return ""
    whose = "client" if expected.server else "server"
    option = "--alpn " if expected.server else "alpn="
    return (
        f"the {whose} does not say sunrpc by ALPN, as RFC 9289 says it MUST ({option}strict turns "
        f"it down, {option}compat says nothing of it)"
    )


def _unverified(problem: VerifyProblem, expected: Expectations) -> HandshakeFailure:
    return verify_failure(
        problem, of_server=not expected.server, trust=expected.trust, asked=expected.name
    )


def _no_client_certificate() -> HandshakeFailure:
    return HandshakeFailure(
        "client-certificate",
        "the client showed no certificate, and one is required here",
        "on the client, mount with -o mtls, with cert.pem and certkey.pem in client/ of --certs "
        "(rpctlscd: -m, and -D for their directory)",
    )


def _explain(error: TlsError, endpoint: Endpoint, expected: Expectations) -> HandshakeFailure:
    """Why OpenSSL gave up, in words for a person."""
    findings = endpoint.findings
    if findings.problem is not None:
        return _unverified(findings.problem, expected)
    if findings.alert_received is not None:
        return alert_received(findings.alert_received)
    if findings.alert_sent == TlsAlert.NO_APPLICATION_PROTOCOL:
        return HandshakeFailure(
            "alpn",
            f"{error}; only sunrpc is spoken here (RFC 9289)",
            "the client is no RPC-with-TLS client",
        )
    if findings.alert_sent == TlsAlert.CERTIFICATE_REQUIRED or NO_CERTIFICATE in str(error):
        return _no_client_certificate()
    if findings.alert_sent == TlsAlert.PROTOCOL_VERSION:
        return HandshakeFailure(
            "tls",
            f"the peer cannot do {endpoint.oldest}",
            f"RPC-with-TLS requires TLS 1.3: update the peer; {OLDER_TLS}",
        )
    if TOO_LONG in str(error):
        return HandshakeFailure(
            "certificate",
            "the peer sends a message that is too long, as certificates of more than "
            f"{CERTIFICATES_LIMIT} bytes together are (SSL_get_max_cert_list(3))",
            "have the peer show fewer or smaller certificates: its own, and intermediate ones",
        )
    if findings.alert_sent == TlsAlert.INTERNAL_ERROR and endpoint.certificate_too_long_for_ticket:
        return HandshakeFailure(
            "client-certificate",
            f"the client's certificate has more bytes than fit into a ticket of TLS 1.2 ({error})",
            "have the client show a smaller certificate, or speak TLS 1.3, which does without",
        )
    reason = f"TLS failed: {error}"
    if findings.alert_sent is not None:
        reason += f" (alert {alert_name(findings.alert_sent)} sent)"
    return HandshakeFailure("tls", reason, "look into the peer's log for its side of it")
