"""Both daemons against each other: key updates from either side, and what must not be accepted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_daemons.tls.tlsadapter import Endpoint, Progress, TlsError

from tests.daemons.ends import End, assert_refused, connect, forge, talk
from tests.daemons.harness import Harness, daemon
from umktls.abi import rpctls


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[tuple[Harness, Harness]]:
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client") as client,
        daemon("server", tmp_path / "server", "server", mutualverf=True) as server,
    ):
        yield client, server


@pytest.fixture
def ends(daemons: tuple[Harness, Harness]) -> Iterator[tuple[End, End]]:
    client, server = connect(*daemons)
    with contextlib.closing(client.sock.sock), contextlib.closing(server.sock.sock):
        yield client, server


def test_sequence_numbers_and_tickets(ends: tuple[End, End]) -> None:
    client, server = ends
    talk(client, server)
    assert server.sock.state.tx.sequence == 3  # two tickets and one record
    assert client.sock.state.rx.sequence == 3
    assert client.kernel.names().count("ticket") == 2


TOOK = ["rpctls_syscall", *["getsockopt"] * 3]  # with what was asked for, and the time left
SET_KEYS = ["setsockopt"] * 2 + ["getsockopt"] * 2
ADDRESS = ["getsockopt"]  # which TCP has itself, and these sockets have not
LAST_WORDS = ["sendmsg", "shutdown"]


def test_how_often_the_daemons_go_to_the_kernel(ends: tuple[End, End]) -> None:
    """Each trip is two wake-ups: what does not depend on an answer goes along."""
    client, server = ends
    assert client.kernel.trips[-3:] == [
        [*TOOK, "getsockopt"],  # the server's name
        ADDRESS,
        ["utrace", "setsockopt", *SET_KEYS],  # what it leaves for the next daemon
    ]
    certificate = ["setsockopt"]
    assert server.kernel.trips[-3:] == [
        TOOK,
        ADDRESS,
        ["utrace", *certificate, "setsockopt", *SET_KEYS],
    ]
    talk(client, server)
    for end in ends:
        end.kernel.trips.clear()
    assert client.kernel.about(client.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert client.kernel.trips == [[*LAST_WORDS, "close"]]
    assert server.receive(1) == b""
    assert server.kernel.about(server.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert server.kernel.trips == [["recvmsg"], ["utrace", *LAST_WORDS, "shutdown"], ["close"]]
    assert server.kernel.event("alert")["description"] == "close_notify"


@pytest.mark.parametrize("initiator", [0, 1])
def test_a_key_update(ends: tuple[End, End], initiator: int) -> None:
    one, other = ends[initiator], ends[1 - initiator]
    talk(one, other)
    before = one.sock.state.tx.sequence
    assert one.rekey() == rpctls.RPCTLSERR_OK
    assert (before > 0, one.sock.state.tx.sequence) == (True, 0)
    # Application data glued to the KeyUpdate, under the new key.
    talk(one, other)
    assert one.updates() == [("sent", 1, True), ("received", 1, False)]
    assert other.updates() == [("received", 1, True), ("sent", 1, False)]
    talk(other, one)


UPDATED = ["sendmsg", "setsockopt", "utrace"]  # nobody waits for the key behind the KeyUpdate


def test_new_keys_take_one_trip_where_they_are_asked_for_and_two_where_they_are_answered(
    ends: tuple[End, End],
) -> None:
    one, other = ends
    talk(one, other)
    for end in ends:
        end.kernel.trips.clear()
    assert one.rekey() == rpctls.RPCTLSERR_OK
    asked = [*UPDATED, "setsockopt"]  # the last is what it leaves for the next daemon
    assert one.kernel.trips == [asked]
    talk(one, other)
    assert other.kernel.trips == [["recvmsg"], ["setsockopt", "utrace", *UPDATED, "setsockopt"]]
    assert one.kernel.trips == [asked, ["recvmsg"], ["setsockopt", "utrace", "setsockopt"]]


def test_data_does_not_wait_for_the_ssl_object(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its part in a KeyUpdate when the keys are set."""
    one, other = ends
    talk(one, other)
    process, trips = Endpoint.process, []

    def noted(endpoint: Endpoint) -> Progress:
        trips.append([*other.kernel.trips[-1]])
        return process(endpoint)

    assert one.rekey() == rpctls.RPCTLSERR_OK
    monkeypatch.setattr(Endpoint, "process", noted)
    one.sock.send(b"there")
    assert other.receive(5) == b"there"
    assert trips == [["setsockopt", "utrace", *UPDATED, "setsockopt"]]


def test_an_ssl_object_that_does_not_take_a_key_update(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are set by then, and the alert comes under the new one."""
    one, other = ends
    talk(one, other)
    process, objects = Endpoint.process, []

    def refused(endpoint: Endpoint) -> Progress:
        objects.append(endpoint)
        if len(objects) == 1:
            raise TlsError("too many of them")
        return process(endpoint)

    assert one.rekey() == rpctls.RPCTLSERR_OK
    monkeypatch.setattr(Endpoint, "process", refused)
    one.sock.send(b"there")
    assert_refused(other, one, "internal_error")
    assert other.updates() == [("received", 1, True), ("sent", 1, False)]


def test_key_updates_that_cross(ends: tuple[End, End]) -> None:
    one, other = ends
    assert one.rekey() == rpctls.RPCTLSERR_OK
    assert other.rekey() == rpctls.RPCTLSERR_OK
    talk(one, other)
    talk(other, one)
    assert sorted(one.updates()) == [
        ("received", 1, True),
        ("received", 2, False),
        ("sent", 1, True),
        ("sent", 2, False),
    ]


def test_many_key_updates_then_goodbye(ends: tuple[End, End]) -> None:
    one, other = ends
    for _ in range(5):
        one.rekey()
        talk(one, other)
        other.rekey()
        talk(one, other)
    assert one.kernel.about(one.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "close_notify"


def test_a_session_made_new_after_key_updates(daemons: tuple[Harness, Harness]) -> None:
    client, server = connect(*daemons)
    talk(client, server)
    client.rekey()
    talk(client, server)
    assert client.kernel.about(client.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert server.receive(1) == b""
    again = connect(*daemons)
    talk(*again)
    assert client.kernel.event("handshake")["resumed"]
    assert server.kernel.event("handshake")["resumed"]
    for end in (client, server, *again):
        end.sock.sock.close()


def test_a_kernel_that_does_not_rekey(daemons: tuple[Harness, Harness]) -> None:
    client, server = connect(*daemons, personality="freebsd14")
    talk(client, server)
    assert client.rekey() == rpctls.RPCTLSERR_NOSSL
    for end in (client, server):
        end.sock.sock.close()


@pytest.mark.parametrize(
    ("record_type", "content", "alert"),
    [
        (22, b"\x18\x00\x00\x01\x02", "illegal_parameter"),  # KeyUpdate with neither 0 nor 1
        (22, b"\x18\x00\x00\x02\x00\x00", "decode_error"),  # KeyUpdate of two bytes
        (22, b"\x01\x00\x00\x00", "unexpected_message"),  # ClientHello
        (22, b"\x04\xff\xff\xff", "decode_error"),  # a ticket of 16 MiB
        (21, b"\x02", "decode_error"),  # half an alert
        (24, b"heartbeat", "unexpected_message"),
    ],
)
def test_what_must_not_be_said(
    ends: tuple[End, End], record_type: int, content: bytes, alert: str
) -> None:
    client, server = ends
    talk(client, server)
    forge(server, record_type, content)
    assert_refused(client, server, alert)
    assert server.kernel.event("alert")["level"] == "fatal"


def test_messages_cut_across_records(ends: tuple[End, End]) -> None:
    client, server = ends
    talk(client, server)
    # lifetime, age_add, nonce, ticket, extensions: RFC 8446 section 4.6.1
    body = b"\0\0\1\0" + b"\0\0\0\0" + b"\x01\x09" + b"\0\x08" + b"t" * 8 + b"\0\0"
    ticket = bytes((4, 0, 0, len(body))) + body
    forge(server, 22, ticket[:9])
    forge(server, 22, ticket[9:])
    server.sock.send(b"on!")
    assert client.receive(3) == b"on!"
    assert client.kernel.event("ticket")["lifetime"] == 256


@pytest.mark.parametrize("description", [40, 80, 20, 250])
def test_fatal_alerts(ends: tuple[End, End], description: int) -> None:
    client, server = ends
    talk(client, server)
    forge(client, 21, bytes((2, description)))
    client.sock.sock.shutdown(socket.SHUT_WR)
    assert server.receive(1) == b""
    event = server.kernel.event("alert")
    assert event["level"] == "fatal"
    assert "the peer ended the session with the alert" in event["reason"]


def test_warnings_that_are_too_many(ends: tuple[End, End]) -> None:
    """OpenSSL takes four (MAX_WARN_ALERT_COUNT; it does not see the data between them), and what it
    says of the fifth counts."""
    client, server = ends
    talk(client, server)
    for _ in range(4):
        forge(client, 21, b"\x01\x5a")  # user_canceled, which by itself ends nothing
    talk(client, server)
    assert "alert" in server.kernel.names()
    forge(client, 21, b"\x01\x5a")
    server.kernel.events.clear()
    assert_refused(server, client, "unexpected_message")


def test_nothing_is_parked(ends: tuple[End, End]) -> None:
    client, _ = ends
    assert client.kernel.about(client.sock, "HANDLERECORD") == rpctls.RPCTLSERR_OK
