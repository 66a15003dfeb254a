"""Sessions that one daemon has made, and another one goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_daemons.sessions import records, ways

from tests.daemons.ends import End, assert_refused, connect, forge, talk
from tests.daemons.fakesocket import FakeSocket
from tests.daemons.harness import daemon
from tests.daemons.pki import certificates
from umktls.abi import rpctls
from umktls.errors import CallerError
from umktls.upcall.deposit import Deposit
from umktls.userland.sockets import Socket

KEY_UPDATE = records.key_update_message(False)


@pytest.fixture
def crl(tmp_path: Path) -> Path:
    path = tmp_path / "crl.pem"
    path.write_bytes(revoking())
    return path


def revoking(*names: str) -> bytes:
    """The good CA's revocation list."""
    pki = certificates()
    return pki.authority.crl([pki.credential(name) for name in names])


@pytest.fixture
def ends(tmp_path: Path, crl: Path) -> Iterator[tuple[End, End]]:
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client", crl=crl) as client,
        daemon("server", tmp_path / "server", "server", mutualverf=True, crl=crl) as server,
    ):
        one, other = connect(client, server)
        with contextlib.closing(one.sock.sock), contextlib.closing(other.sock.sock):
            yield one, other


def restart(end: End) -> None:
    end.harness.start_another(end.sock)


both_sides = pytest.mark.parametrize("side", [0, 1])


@both_sides
def test_key_updates_go_on(ends: tuple[End, End], side: int) -> None:
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    for number in range(1, 4):
        restart(one)
        assert one.rekey() == rpctls.RPCTLSERR_OK
        talk(one, other)
        restart(other)
        assert other.rekey() == rpctls.RPCTLSERR_OK
        talk(other, one)
        deposit = Deposit.from_bytes_untrusted(one.sock.deposit)
        assert (deposit.tx_generation, deposit.rx_generation) == (2 * number, 2 * number)
    assert one.updates()[-1] == ("sent", 6, False)
    assert not [event for event in one.kernel.events if event["event"] == "alert"]


@both_sides
def test_keys_that_are_newer_than_the_deposit(ends: tuple[End, End], side: int) -> None:
    """The daemon went between setting the keys and saying so."""
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    old = one.sock.deposit
    one.rekey()
    talk(one, other)
    assert one.sock.deposit != old
    one.sock.deposit = old
    restart(one)
    talk(one, other)
    one.rekey()
    talk(one, other)
    other.rekey()
    talk(other, one)


@pytest.mark.parametrize("followed", [False, True])
def test_a_key_update_that_was_taken_and_not_answered(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch, *, followed: bool
) -> None:
    """It asks for one in return, which comes in front of the next data. `followed`: the daemon has
    set the new key for receiving before it went."""
    one, other = ends
    talk(one, other)
    other.rekey()
    other.sock.send(b"under the new key")

    def take(sock: FakeSocket) -> None:
        """As the daemon does before it goes."""
        old = sock.deposit
        if followed:
            with monkeypatch.context() as patch:
                patch.setattr(ways.PlainSending, "answer_update", lambda sending: None)
                one.kernel.handlerecord(sock)
            sock.deposit = old
        else:
            sock.state.recvmsg(16384, 64, 0)
        restart(one)

    assert one.sock.receive(17, take) == b"under the new key"
    assert one.updates() == [("received", 1, followed), ("sent", 1, False)]
    talk(one, other)
    assert other.updates() == [("sent", 1, True), ("received", 1, False)]


def test_a_key_update_in_two_records_of_which_only_one_was_told_of(ends: tuple[End, End]) -> None:
    client, server = ends
    talk(client, server)
    forge(server, 22, KEY_UPDATE[:3])

    def begun() -> bool:
        return Deposit.from_bytes_untrusted(client.sock.deposit).unfinished == KEY_UPDATE[:3]

    client.sock.pump(begun, client.kernel.handlerecord)
    forge(server, 22, KEY_UPDATE[3:])
    restart(server)  # sets the key behind it

    def take(sock: FakeSocket) -> None:
        sock.state.recvmsg(16384, 64, 0)
        restart(client)

    server.sock.send(b"on!")
    assert client.sock.receive(3, take) == b"on!"
    assert Deposit.from_bytes_untrusted(client.sock.deposit).unfinished == b""
    server.rekey()
    talk(server, client)


def test_a_key_update_that_was_sent_and_not_followed(ends: tuple[End, End]) -> None:
    one, other = ends
    talk(one, other)
    forge(one, 22, KEY_UPDATE)
    restart(one)
    assert one.updates() == [("sent", 1, False)]
    talk(one, other)
    other.rekey()
    talk(other, one)


@both_sides
def test_a_daemon_that_runs_is_told_of_sessions_that_were_left(
    ends: tuple[End, End], side: int
) -> None:
    """By the NULL procedure."""
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    kernel = one.kernel
    kernel.upcall(kernel.program["NULL"], None)
    kernel.orphans.append(one.sock)
    kernel.upcall(kernel.program["NULL"], None)
    assert kernel.orphans == []
    assert one.rekey() == rpctls.RPCTLSERR_OK
    talk(one, other)


def test_tickets_are_of_no_use(ends: tuple[End, End]) -> None:
    client, server = ends
    restart(client)
    talk(server, client)
    assert client.kernel.names().count("ticket-dropped") == 2
    assert "ticket" not in client.kernel.names()


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("before", [0, 1])
def test_a_message_that_was_half_there(
    ends: tuple[End, End], before: int, *, adopted: bool
) -> None:
    """`before`: so many whole ones are in its record too. `adopted`: its beginning, too, comes to a
    daemon that has adopted the session."""
    client, server = ends
    talk(client, server)
    if adopted:
        restart(client)
    body = b"\0\0\1\0" + b"\0\0\0\0" + b"\x01\x09" + b"\0\x08" + b"t" * 8 + b"\0\0"
    ticket = bytes((4, 0, 0, len(body))) + body
    forge(server, 22, before * ticket + ticket[:9])

    def half_there() -> bool:
        return Deposit.from_bytes_untrusted(client.sock.deposit).unfinished == ticket[:9]

    client.sock.pump(half_there, client.kernel.handlerecord)
    restart(client)
    assert half_there()
    forge(server, 22, ticket[9:])
    server.sock.send(b"on!")
    assert client.receive(3) == b"on!"
    assert client.kernel.event("ticket-dropped")["lifetime"] == 256
    assert Deposit.from_bytes_untrusted(client.sock.deposit).unfinished == b""


@both_sides
def test_goodbye(ends: tuple[End, End], side: int) -> None:
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    restart(one)
    restart(other)
    assert one.kernel.about(one.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
    assert one.sock.closed_by_daemon
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "close_notify"
    assert other.kernel.about(other.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK


@pytest.mark.parametrize(
    ("to", "record_type", "content", "alert"),
    [
        (0, 22, b"\x18\x00\x00\x01\x02", "illegal_parameter"),  # KeyUpdate with neither 0 nor 1
        (0, 22, b"\x18\x00\x00\x02\x00\x00", "decode_error"),  # KeyUpdate of two bytes
        (0, 22, b"\x01\x00\x00\x00", "unexpected_message"),  # ClientHello
        (1, 22, b"\x04\x00\x00\x00", "unexpected_message"),  # a ticket for a server
        (0, 22, KEY_UPDATE + b"\x04", "unexpected_message"),  # a message across two keys
        (0, 22, b"\x04\xff\xff\xff", "decode_error"),  # a ticket of 16 MiB
        (0, 21, b"\x02", "decode_error"),  # half an alert
        (0, 24, b"heartbeat", "unexpected_message"),
    ],
)
def test_what_must_not_be_said(
    ends: tuple[End, End], to: int, record_type: int, content: bytes, alert: str
) -> None:
    one, other = ends[to], ends[1 - to]
    talk(one, other)
    restart(one)
    forge(other, record_type, content)
    assert_refused(one, other, alert)


def test_a_fatal_alert(ends: tuple[End, End]) -> None:
    client, server = ends
    talk(client, server)
    restart(server)
    forge(client, 21, b"\x02\x28")
    client.sock.sock.shutdown(socket.SHUT_WR)
    assert server.receive(1) == b""
    assert server.kernel.event("alert")["description"] == "handshake_failure"


@both_sides
def test_who_is_revoked_is_expelled(ends: tuple[End, End], crl: Path, side: int) -> None:
    """By a reload of the daemon that has adopted the session."""
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    restart(one)
    assert one.harness.service.reload()
    talk(one, other)
    crl.write_bytes(revoking("server" if side == 0 else "client"))
    assert one.harness.service.reload()
    assert one.receive(1) == b""
    assert one.kernel.event("alert")["description"] == "certificate_revoked"
    assert other.receive(1) == b""


@both_sides
def test_who_was_revoked_meanwhile_is_expelled(ends: tuple[End, End], crl: Path, side: int) -> None:
    one, other = ends[side], ends[1 - side]
    talk(one, other)
    crl.write_bytes(revoking("server" if side == 0 else "client"))
    restart(one)
    assert one.receive(1) == b""
    assert other.receive(1) == b""
    assert other.kernel.event("alert")["description"] == "certificate_revoked"


@pytest.mark.parametrize(
    "damage",
    [
        {"layout": 7},
        {"suite": b"TLS_SM4_GCM_SM3_OF_TOMORROW"},
        {"chain": (b"no certificate",)},
    ],
)
def test_a_deposit_that_is_not_understood(
    ends: tuple[End, End], damage: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = ends
    talk(one, other)
    deposit = Deposit.from_bytes_untrusted(one.sock.deposit)
    one.sock.deposit = dataclasses.replace(deposit, **damage).to_bytes()  # type: ignore[arg-type]
    restart(one)
    assert one.sock.closed_by_daemon
    assert len(one.harness.service.sessions) == 0
    assert "cannot be gone on with" in caplog.text
    assert other.receive(1) == b""


def test_nothing_is_left_behind_if_so_wished(tmp_path: Path) -> None:
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client", handover=False) as client,
        daemon("server", tmp_path / "server", "server", mutualverf=True) as server,
    ):
        one, other = connect(client, server)
        talk(one, other)
        one.rekey()
        talk(one, other)
        assert one.sock.deposit == b""
        assert other.sock.deposit != b""
        one.sock.sock.close()
        other.sock.sock.close()


def test_what_is_adopted_can_be_the_last(ends: tuple[End, End]) -> None:
    """By a daemon that leaves nothing behind."""
    one, other = ends
    talk(one, other)
    one.harness.options["handover"] = False
    restart(one)
    assert one.sock.deposit == b""
    assert one.rekey() == rpctls.RPCTLSERR_OK
    talk(one, other)
    assert one.sock.deposit == b""


def test_tls_1_2(tmp_path: Path) -> None:
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
    with (
        daemon("client", tmp_path / "client", "client", tls1_2=True) as client,
        daemon("server", tmp_path / "server", "server", mutualverf=True, tls1_2=True) as server,
    ):
        one, other = connect(client, server)
        talk(one, other)
        restart(one)
        restart(other)
        talk(one, other)
        assert one.rekey() == rpctls.RPCTLSERR_NOSSL
        forge(other, 22, b"\0\0\0\0")  # HelloRequest
        talk(other, one)
        assert one.kernel.about(one.sock, "DISCONNECT") == rpctls.RPCTLSERR_OK
        assert other.receive(1) == b""
        assert other.kernel.event("alert")["description"] == "close_notify"
        one.sock.sock.close()
        other.sock.sock.close()


def test_a_session_whose_kernel_refuses_at_the_end_is_not_kept(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ends
    talk(one, other)

    def refuse(self: Socket, name: object) -> None:
        raise CallerError("it is not yours")

    monkeypatch.setattr(Socket, "adopted", refuse)
    restart(one)
    assert len(one.harness.service.sessions) == 0
