"""TLS between a client host and a server host, by upcall, with the real daemons as processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from tests.tlsworld import AUTHORITY, MTLS
from umktls.errors import UmktlsError
from umktls.kernel.upcalls import tls
from umktls.rpc.message import NULL_AUTH
from umktls.testing.certificates import directory
from umktls.testing.echo import COUNT, SAY
from umktls.testing.hosts import pair, serving

TICKETS = 2


async def test_the_life_of_a_connection(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            assert await both.rpc.call(SAY, b"hello there", NULL_AUTH) == b"hello there"
            order = [event["event"] for event in both.client.trace.since()]
            handshake = both.events("client", "handshake")[0]
            (server_keys,) = both.events("server", "tx-keys")
            (mode,) = both.events("client", "mode")
            (early,) = both.events("client", "post-handshake")
    story = ["tcp-connect", "probe", "starttls", "upcall", "socket-taken", "tx-keys", "rx-keys"]
    places = [order.index(name) for name in [*story, "upcall-answered", "mode", "first-rpc"]]
    assert places == sorted(places)
    assert (handshake["version"], handshake["alpn"]) == ("TLSv1.3", "sunrpc")
    assert handshake["resumed"] is False
    assert (mode["tx"], mode["rx"]) == ("SW", "SW")
    # The server's two tickets used up its first two sequence numbers, and waited at the client.
    assert server_keys["sequence"] == TICKETS
    assert early["records"] == TICKETS
    waited = both.events("client", "control-record")
    assert early["bytes"] == sum(event["bytes"] for event in waited)


async def test_the_server_sees_who_calls(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            (connection,) = both.server.stat()["connections"]
    assert "umktls client" in connection["tls"]["peer"]
    assert connection["upcalls"]["connect"] == 1


async def test_a_lost_connection_resumes_with_a_ticket(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, MTLS, MTLS) as both:
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert both.rpc.socket is not None
            both.rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await both.rpc.call(COUNT, 2, NULL_AUTH) == 2
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
            totals = both.client.stat()["totals"]
    assert resumed == [False, True]
    assert (totals["handshakes"], totals["resumed"]) == (2, 1)


async def test_it_resumes_too_where_there_are_several_daemons(certs: Path, tmp_path: Path) -> None:
    """Each has keys of its own for its tickets, so the one that gave the ticket is to be asked."""
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, MTLS, {**MTLS, "daemons": 3}) as both:
            await both.event("server", "daemon-registered", 3)
            for number in range(4):
                assert await both.rpc.call(COUNT, number, NULL_AUTH) == number + 1
                assert both.rpc.socket is not None
                both.rpc.socket.shutdown(socket.SHUT_RDWR)
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
            took = {event["pid"] for event in both.events("server", "socket-taken")}
    assert resumed == [False, True, True, True]
    assert len(took) == 1


@pytest.mark.parametrize("side", ["client", "server"])
async def test_new_keys_while_calls_are_in_flight(certs: Path, tmp_path: Path, side: str) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            host = both.client if side == "client" else both.server
            answers: list[bytes] = []

            async def talk(number: int) -> None:
                for _ in range(20):
                    data = bytes([number]) * 20_000
                    answers.append(await both.rpc.call(SAY, data, NULL_AUTH))

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(talk, number)
                await both.event("client", "first-rpc", 2)
                for _ in range(3):
                    assert await host.rekey(None) == 1
            for name in ("tx-keys", "rx-keys"):
                await both.event("client", name, 4)
                await both.event("server", name, 4)
    assert len(answers) == 160
    assert sum(map(len, answers)) == 160 * 20_000


async def test_a_close_is_announced(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            assert both.rpc.socket is not None
            await tls.disconnect(both.client, both.rpc.socket, "the test wants it")
            alert = await both.event("server", "alert")
            await both.event("server", "closed")
    assert alert["description"] == "close_notify"


async def test_wrong_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = directory(tmp_path / "locked", AUTHORITY, passphrase=b"open sesame")
    monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", "wrong")
    with trio.fail_after(patience(30)):
        with pytest.raises(UmktlsError, match="passphrase"):
            async with serving(tmp_path / "s", certs=locked):
                raise AssertionError("a server came up without its key")
        monkeypatch.setenv("UMKTLS_KEY_PASSPHRASE", "open sesame")
        async with serving(tmp_path / "s", certs=locked):
            pass


async def test_no_process_and_no_file_is_left(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            await both.rpc.call(SAY, b"", NULL_AUTH)
            pids = [both.client.children[0].pid, both.server.children[0].pid]
    for pid in pids:
        assert not alive(pid)
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "c").exists()


def alive(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()
