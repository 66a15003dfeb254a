"""Pairs of hosts with engines of all kinds, real daemons and RPC between them."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.engines.talking import TICKETS, engine, halves, talk
from tests.passing import expire
from tests.tlsworld import AUTHORITY
from umktls.certs.pki import Authority
from umktls.errors import UmktlsError
from umktls.kernel.upcalls import tls
from umktls.ktls.engines.choice import parse_engines
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE
from umktls.rpc.message import NULL_AUTH
from umktls.testing.certificates import directory
from umktls.testing.echo import COUNT, SAY
from umktls.testing.hosts import pair

BOUNCES = ["bounce", "tx=software,rx=bounce", "tx=bounce,rx=software"]


@pytest.mark.parametrize("server", ["software", "bounce"])
@pytest.mark.parametrize("client", BOUNCES)
async def test_bounced_calls(certs: Path, tmp_path: Path, client: str, server: str) -> None:
    with trio.fail_after(patience(30)):
        async with (
            pair(certs, tmp_path, engine(client), engine(server)) as both,
            trio.open_nursery() as nursery,
        ):
            for number in range(4):
                nursery.start_soon(talk, both, number, 300_000, 5)
    for text, host in ((client, both.client), (server, both.server)):
        chosen = parse_engines(text)
        for name, (engine_name, mode) in zip((chosen.tx, chosen.rx), halves(host), strict=True):
            assert engine_name == name
            assert mode == ("SW" if name == "software" else "NONE")


async def test_ssl_read_swallows_the_tickets(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("bounce"), {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            swallowed = both.events("client", "swallowed")
            tickets = both.events("client", "ticket")
            (early,) = both.events("client", "post-handshake")
            (mode,) = both.events("client", "mode")
    assert [event["type"] for event in swallowed] == [22] * TICKETS
    assert "RPC never sees it" in swallowed[0]["text"]
    assert len(tickets) == TICKETS
    assert (early["records"], early["bytes"]) == (0, 0)
    assert mode["text"] == "kernel TLS: sending NONE (bounce), receiving NONE (bounce)"


@pytest.mark.parametrize("client", BOUNCES)
async def test_a_bounced_connection_is_resumed(certs: Path, tmp_path: Path, client: str) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine(client), engine("bounce")) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
    assert resumed == [False, True]


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("client", BOUNCES)
async def test_new_keys_for_a_bounced_connection(
    certs: Path, tmp_path: Path, client: str, side: str
) -> None:
    with trio.fail_after(patience(40)):
        async with pair(certs, tmp_path, engine(client), {}) as both:
            host = both.client if side == "client" else both.server
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(talk, both, number, 50_000, 20)
                await both.event("client", "first-rpc", 2)
                for _ in range(3):
                    assert await host.rekey(None) == 1
            # The side that began has asked for the other's new keys, too.
            await both.rpc.call(SAY, b"once more", NULL_AUTH)
            for name in ("client", "server"):
                directions = [event["direction"] for event in both.events(name, "key-update")]
                assert directions.count("received") == 3
                assert directions.count("sent") >= 1


@pytest.mark.parametrize("closing", ["client", "server"])
@pytest.mark.parametrize("client", BOUNCES)
async def test_the_close_of_a_bounced_connection_is_announced(
    certs: Path, tmp_path: Path, client: str, closing: str
) -> None:
    other = {"client": "server", "server": "client"}[closing]
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine(client), engine("bounce")) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            host = both.client if closing == "client" else both.server
            (sock,) = host.sockets.values()
            await tls.disconnect(host, sock, "the test wants it")
            alert = await both.event(other, "alert")
            await both.event(other, "closed")
            # Nothing is wrong with the hosts: the next call makes a new connection.
            assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"
    assert alert["description"] == "close_notify"


async def test_what_was_sent_before_the_end_arrives(certs: Path, tmp_path: Path) -> None:
    """A reply that the kernel has sent when it disconnects is not lost in the daemon."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("bounce"), engine("bounce")) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            (sock,) = both.client.sockets.values()
            # More than waits in a pair, and little for the seconds that a daemon has for it.
            sock.rpc.send([b"\0\x05\0\0" + bytes(0x50000)])
            await tls.disconnect(both.client, sock, "the test wants it")
            await both.event("server", "closed")
            (connection,) = both.server.stat()["connections"]
    assert connection["rx"]["bytes"] > 0x50000


async def test_refused_unless_allowed(certs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from umktls.ktls.engines.software import SoftwareEngine

    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            monkeypatch.setattr(SoftwareEngine, "supports", lambda *args: "not for the test")
            with pytest.raises(UmktlsError, match=r"kernel TLS does not work .* bounce=allow"):
                await both.rpc.call(SAY, b"secret", NULL_AUTH)


async def test_bounced_where_allowed(certs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from umktls.ktls.engines.software import SoftwareEngine

    def only_rx(self: SoftwareEngine, session: Any, direction: str) -> str | None:
        return None if direction == "rx" else "not for the test"

    monkeypatch.setattr(SoftwareEngine, "supports", only_rx)
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"bounce": True}, {"bounce": True}) as both:
            await talk(both, 1, 100_000, 3)
            for host in (both.client, both.server):
                assert halves(host) == (("bounce", "NONE"), ("software", "SW"))


async def test_null_goes_in_clear_and_says_so(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("null"), engine("null")) as both:
            await talk(both, 1, 100_000, 3)
            warnings = both.events("client", "warning")
            dropped = both.events("client", "dropped-record")
            (early,) = both.events("client", "post-handshake")
            (handshake,) = both.events("client", "handshake")
            first = both.events("client", "first-rpc")
            assert await both.client.rekey(None) == 0
            assert halves(both.client) == halves(both.server) == (("null", "NONE"),) * 2
            (connection,) = both.client.stat()["connections"]
    assert handshake["version"] == "TLSv1.3"
    assert any("CLEAR TEXT" in event["reason"] for event in warnings)
    assert all("the other side needs engine null, too" in event["reason"] for event in warnings)
    # The tickets are sealed by the server's TLS library, whatever comes behind them.
    assert len(dropped) == TICKETS
    assert (early["records"], early["bytes"]) == (TICKETS, sum(event["bytes"] for event in dropped))
    assert {event["text"] for event in first} == {
        "first clear-text RPC sent",
        "first clear-text RPC received",
    }
    assert connection["rx"]["bytes"] > 300_000
    assert connection["tx"]["bytes"] > 300_000


ENDS = "ends every connection before it answers a call: "
ALERT = "the peer ended the session with the alert "


@pytest.mark.parametrize(
    ("client", "server", "reason", "seen_by_server"),
    [
        ("null", "software", ENDS, "garbage"),
        ("software", "null", ENDS, "garbage"),
        ("null", "bounce", ENDS, "alert"),
        ("bounce", "null", ENDS, "garbage"),
        ("tx=null,rx=software", "software", ALERT + "protocol_version", "garbage"),
        ("software", "tx=null,rx=software", ENDS + ".*a record says version", "alert"),
        ("software", "tx=software,rx=null", ENDS + ".*" + ALERT + "unexpected_message", "garbage"),
    ],
)
async def test_null_does_not_talk_to_tls(
    certs: Path, tmp_path: Path, client: str, server: str, reason: str, seen_by_server: str
) -> None:
    """The first call fails after a few connections, whatever its deadline is, and both sides name
    the likely cause."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine(client, deadline=1000), engine(server)) as both:
            with pytest.raises(UmktlsError, match=reason) as failed:
                await both.rpc.call(SAY, b"", NULL_AUTH)
            seen = await both.event("server", seen_by_server)
    assert str(failed.value).count(NULL_ON_ONE_SIDE) == 1
    assert NULL_ON_ONE_SIDE in seen["reason"]
    assert "phase ?" not in seen["text"]


async def test_null_that_receives_names_itself_when_the_deadline_passes(
    certs: Path, tmp_path: Path
) -> None:
    """What is sealed is taken for tickets there, and dropped."""
    client = engine("tx=software,rx=null", deadline=1000)
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, engine("software")) as both:

            async def expire_unheard() -> None:
                await both.event("client", "dropped-record", TICKETS + 1)
                expire(both.rpc)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(expire_unheard)
                with pytest.raises(UmktlsError, match="no answer") as failed:
                    await both.rpc.call(SAY, b"", NULL_AUTH)
    assert NULL_ON_ONE_SIDE in str(failed.value)


@pytest.mark.parametrize("client", BOUNCES)
async def test_new_keys_from_both_sides_in_turn(certs: Path, tmp_path: Path, client: str) -> None:
    """An own KeyUpdate, and answers to the peer's, on one connection."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine(client), engine("bounce")) as both:
            for turn in range(3):
                for host in (both.server, both.client):
                    await talk(both, turn, 20_000, 2)
                    assert await host.rekey(None) == 1
            await talk(both, 9, 100_000, 3)
            for side in ("client", "server"):
                received = [
                    event
                    for event in both.events(side, "key-update")
                    if event["direction"] == "received"
                ]
                assert len(received) == 6
                assert both.events(side, "reconnect") == []


async def test_a_daemon_that_dies_takes_its_bounced_connections_along(
    certs: Path, tmp_path: Path
) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("bounce"), {}) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            pid = both.client.children[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await both.event("client", "closed")
            await both.event("client", "daemon-registered", 2)
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2


async def test_a_daemon_keeps_nothing_of_bounced_connections(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("bounce"), engine("bounce")) as both:
            held: list[list[int]] = []
            for _ in range(10):
                await both.rpc.call(SAY, b"", NULL_AUTH)
                (*_, sock) = both.client.sockets.values()
                await tls.disconnect(both.client, sock, "the test wants it")
                await both.event("server", "closed", len(held) + 1)
                pids = [host.children[0].pid for host in (both.client, both.server)]
                held.append([number for pid in pids for number in in_use(pid)])
    # A thread that has answered may take a moment to end; one per connection would be nine more.
    assert all(late - early < 4 for early, late in zip(held[0], held[-1], strict=True))


def in_use(pid: int | None) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    process = Path(f"/proc/{pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("name", ["bounce", "toe", "ifnet", "null"])
async def test_a_failed_handshake_is_explained_with_every_engine(
    certs: Path, tmp_path: Path, name: str, side: str
) -> None:
    """The alerts get through, whatever is between the daemon and the network."""
    stranger = directory(tmp_path / "other", Authority.create("another CA"), trusted=AUTHORITY)
    client, server = engine(name, security="mtls", deadline=1000), engine(name, security="mtls")
    # A server refuses a client behind the handshake; without TLS nobody understands its alert.
    clear = (name, side) == ("null", "server")
    reason = "before it answers a call" if clear else r"certificate|unknown"
    if side == "client":
        client["certs"] = directory(tmp_path / "third", AUTHORITY, trusted=Authority.create("x"))
    else:
        client["certs"] = stranger
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, server) as both:
            with pytest.raises(UmktlsError, match=reason):
                await both.rpc.call(SAY, b"", NULL_AUTH)
            await both.event("server", "closed")
            for connection in both.server.stat()["connections"]:
                assert connection["rpc"]["calls"] <= 1


SPOILT = b"\x17\x03\x03\x00\x30" + bytes(48)


@pytest.mark.parametrize("server", ["software", "ifnet", *BOUNCES])
async def test_a_spoilt_record_is_told_and_survived(
    certs: Path, tmp_path: Path, server: str
) -> None:
    """RFC 8446 section 5.2: bad_record_mac, whoever opens the records and whoever seals them. To
    the client it is no refusal: it makes a new connection and goes on."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, engine(server)) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert both.rpc.socket is not None
            both.rpc.socket.sock.send(SPOILT)
            heard = await both.event("client", "alert")
            assert (heard["level"], heard["description"]) == ("fatal", "bad_record_mac")
            said = await both.event("server", "alert")
            assert said["description"] == "bad_record_mac"
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2
