"""What may stand in the middle of a handshake message, with a session that judges nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from umktls_daemons.sessions.established import EstablishedSession
from umktls_daemons.sessions.records import ALERT, HANDSHAKE, HandshakeMessage, Ratchet
from umktls_daemons.sessions.ways import PlainReceiving, PlainSending
from umktls_daemons.tls.tlsadapter import NOBODY

from umktls.abi.alerts import AlertLevel, TlsAlert
from umktls.ktls.session.suites import SUITES, TLS_1_2, TLS_1_3
from umktls.userland.libc import Record

BEGUN = Record(HANDSHAKE, b"\x04\x00\x00\x09")
WARNING = Record(ALERT, bytes((AlertLevel.WARNING, TlsAlert.USER_CANCELED)))


class Sock:
    """Gives records to the daemon."""

    number = 3
    closed = False

    def __init__(self, *records: Record) -> None:
        self.records = list(records)
        self.shut: list[int] = []

    def receive_record(self) -> Record:
        return self.records.pop(0)

    def settle(self, answer: int | None = None) -> None: ...

    def shutdown_later(self, how: int) -> None:
        self.shut.append(how)

    def connection_name(self) -> str:
        return "c1"

    def close_later(self) -> None:
        self.closed = True


class Sending:
    """Keeps the alerts."""

    def __init__(self) -> None:
        self.alerts: list[bytes] = []

    def alert(self, alert: bytes) -> None:
        self.alerts.append(alert)


class Session(EstablishedSession):
    """Any handshake message may come."""

    def _judge_of(self, record: Record, messages: list[HandshakeMessage]) -> Callable[[], None]:
        def judge() -> None:
            assert not messages

        return judge

    def _send_close_notify(self) -> None: ...


def test_the_end_of_a_session_wipes_its_secrets() -> None:
    sock: Any = Sock()
    session = Session(sock, lambda event: None, TLS_1_3, "", NOBODY)
    ratchets = [Ratchet(SUITES["TLS_AES_128_GCM_SHA256"], b"secret" * 8) for _ in range(2)]
    session._sending = PlainSending(sock, ratchets[0], lambda request: None)
    session._receiving = PlainReceiving(sock, ratchets[1])
    session.disconnect()
    assert [ratchet.secret for ratchet in ratchets] == [bytes(48)] * 2
    assert sock.closed
    assert sock.shut == [socket.SHUT_WR]


@pytest.mark.parametrize(("version", "goes_on"), [(TLS_1_2, True), (TLS_1_3, False)])
def test_an_alert_in_the_middle_of_a_handshake_message(version: int, goes_on: bool) -> None:
    """TLS 1.3 forbids it (RFC 8446 section 5.1), TLS 1.2 does not (RFC 5246 section 6.2.1)."""
    sock: Any = Sock(BEGUN, WARNING)
    events: list[dict[str, Any]] = []
    session = Session(sock, events.append, version, "", NOBODY)
    sending: Any = Sending()
    session._sending = session._receiving = sending
    assert session.handle_record()
    assert session.handle_record() is goes_on
    unexpected = bytes((AlertLevel.FATAL, TlsAlert.UNEXPECTED_MESSAGE))
    assert sending.alerts == [unexpected] * (not goes_on)
    assert bool(sock.shut) is not goes_on
