"""How keys are renewed: by a KeyUpdate where the peer is known to follow one, else by a new
connection, in time and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.host.host import Host
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import renewal, tls
from umktls.kernel.upcalls.renewal import REMEMBERED
from umktls.ktls.session.suites import Suite
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT, SAY, WAIT, Echo
from umktls.testing.hosts import Pair, pair

SIDES = ["client", "server"]
LIMIT = 100
MESSAGE = bytes(range(256)) * 192  # three records and a bit
CALLS = 40


@pytest.fixture(autouse=True)
def _answers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is."""
    monkeypatch.setattr(renewal, "ANSWER_SECONDS", patience(20))


@asynccontextmanager
async def hosts(
    certs: Path, tmp_path: Path, client: dict[str, Any], server: dict[str, Any]
) -> AsyncIterator[Pair]:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, server) as both:
            assert await both.rpc.call(SAY, b"", NULL_AUTH) == b""
            yield both


def host_of(both: Pair, side: str) -> Host:
    return both.client if side == "client" else both.server


@pytest.mark.parametrize("side", SIDES)
async def test_near_its_limit_a_key_is_left_with_its_connection(
    certs: Path, tmp_path: Path, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this peer nothing is known: no KeyUpdate is sent, no call fails or is done twice, and no
    key reaches its limit."""
    monkeypatch.setattr(Suite, "record_limit", property(lambda suite: LIMIT), raising=False)
    without = {"personality": PERSONALITIES["linux"]}
    options = ({}, without) if side == "client" else (without, {})
    async with hosts(certs, tmp_path, *options) as both:

        async def talk(lane: int) -> None:
            for number in range(CALLS):
                data = bytes((lane, number)) + MESSAGE
                assert await both.rpc.call(SAY, data, NULL_AUTH) == data
                await both.rpc.call(COUNT, lane, NULL_AUTH)

        async with trio.open_nursery() as nursery:
            for lane in range(2):
                nursery.start_soon(talk, lane)
        assert await both.rpc.call(COUNT, 9, NULL_AUTH) == 2 * CALLS + 1
        host = host_of(both, side)
        retired = both.events(side, "retire")
        assert len(retired) >= 3
        assert "not known that the peer follows a KeyUpdate" in retired[0]["reason"]
        assert both.events("client", "key-update") == both.events("server", "key-update") == []
        said = both.events("client", "alert", "warning", "garbage")
        assert {event.get("description") for event in said} <= {"close_notify"}
        if side == "client":
            assert both.events("client", "reconnect") == []
        for one in host.stat()["connections"]:
            assert max(one["tx"]["records"], one["rx"]["records"]) < LIMIT


@pytest.mark.parametrize("side", SIDES)
async def test_a_peer_that_has_followed_once_gets_key_updates(
    certs: Path, tmp_path: Path, side: str
) -> None:
    """On this connection and on later ones."""
    async with hosts(certs, tmp_path, {}, {}) as both:
        host = host_of(both, side)
        assert await host.renew(None) == {"rekeyed": 0, "reconnected": 1}
        await both.event(side, "closed")
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert await host.renew(None, "keyupdate") == {"rekeyed": 1, "reconnected": 0}
        await both.rpc.call(SAY, b"", NULL_AUTH)
        await both.event(side, "key-update", 2)  # ours, and the peer's
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert await host.renew(None) == {"rekeyed": 1, "reconnected": 0}
        await both.rpc.call(SAY, b"", NULL_AUTH)
        await both.event(side, "key-update", 4)
        assert await host.renew(None, "reconnect") == {"rekeyed": 0, "reconnected": 1}
        await both.event(side, "closed", 2)
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert await host.renew(None) == {"rekeyed": 1, "reconnected": 0}


@pytest.mark.parametrize("side", SIDES)
async def test_a_peer_that_has_sent_one_itself_follows_them(
    certs: Path, tmp_path: Path, side: str
) -> None:
    other = SIDES[1 - SIDES.index(side)]
    async with hosts(certs, tmp_path, {}, {}) as both:
        await host_of(both, other).rekey(None)
        await both.rpc.call(SAY, b"", NULL_AUTH)
        await both.event(other, "key-update", 2)
        assert await host_of(both, side).renew(None) == {"rekeyed": 1, "reconnected": 0}


async def test_a_key_update_that_is_not_answered_speaks_against_the_peer(
    certs: Path, tmp_path: Path
) -> None:
    """As of a server in whose place there is another one now: it breaks the connection once."""
    linux = {"personality": PERSONALITIES["linux6.12"]}
    async with hosts(certs, tmp_path, {}, linux) as both:
        (sock,) = both.client.sockets.values()
        both.client.renewals.update_received(sock)
        ended = {"rekeyed": 1, "reconnected": 0, "ended": 1}
        assert await both.client.renew(None) == ended
        await both.event("client", "closed")
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert await both.client.renew(None) == {"rekeyed": 0, "reconnected": 1}
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert both.events("client", "reconnect") == []  # no call was under way


async def test_the_answers_of_a_client_s_connection_are_waited_for(
    certs: Path, tmp_path: Path
) -> None:
    """Calls that are made meanwhile wait for the new one; each is made once."""
    async with waiting_call(certs, tmp_path) as (both, echo, answers):
        assert await both.client.renew(None) == {"rekeyed": 0, "reconnected": 1}
        assert await both.client.renew(None) == {"rekeyed": 0, "reconnected": 1}

        async def ask() -> None:
            assert await both.rpc.call_counted(SAY, b"new", NULL_AUTH) == (b"new", 1)
            answers.append("SAY")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert answers == []
            echo.go_on.set()
        assert sorted(answers) == ["SAY", "WAIT"]
        assert echo.counted == [7]
        assert both.events("client", "reconnect") == []
        assert len(both.events("server", "tcp-accept")) == 2


async def test_a_server_answers_what_it_has_begun_and_says_goodbye(
    certs: Path, tmp_path: Path
) -> None:
    async with waiting_call(certs, tmp_path) as (both, echo, answers):
        assert await both.server.renew(None) == {"rekeyed": 0, "reconnected": 1}
        echo.go_on.set()
        await both.event("client", "closed")
        assert await both.rpc.call_counted(SAY, b"new", NULL_AUTH) == (b"new", 1)
        assert answers == ["WAIT"]
        assert echo.counted == [7]
        (alert,) = both.events("client", "alert")
        assert alert["description"] == "close_notify"


@asynccontextmanager
async def waiting_call(
    certs: Path, tmp_path: Path, sends: int = 1
) -> AsyncIterator[tuple[Pair, Echo, list[str]]]:
    """Two hosts with a call under way that the server answers when the echo may go on."""
    echoes: list[Echo] = []
    answers: list[str] = []

    class Watched(Echo):
        def __init__(self) -> None:
            super().__init__()
            echoes.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("umktls.testing.hosts.Echo", Watched)
        async with hosts(certs, tmp_path, {}, {}) as both, trio.open_nursery() as nursery:
            (echo,) = echoes

            async def wait() -> None:
                assert await both.rpc.call_counted(WAIT, 7, NULL_AUTH) == (7, sends)
                answers.append("WAIT")

            nursery.start_soon(wait)
            assert await trio.to_thread.run_sync(echo.waiting.wait, patience(20))
            try:
                yield both, echo, answers
            finally:
                echo.go_on.set()


async def test_a_server_that_never_answers_is_left_all_the_same(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is sent again on the new connection, as after a loss."""
    monkeypatch.setattr("umktls.kernel.krpc.rpc_client.RETIRE_SECONDS", 0.0)
    async with waiting_call(certs, tmp_path, sends=2) as (both, echo, answers):
        await both.client.renew(None)
        assert await both.rpc.call(SAY, b"new", NULL_AUTH) == b"new"
        assert len(both.events("server", "tcp-accept")) == 2
        assert answers == []
        echo.go_on.set()
    assert echo.counted == [7]
    assert answers == ["WAIT"]


async def test_never_and_what_there_is_not(certs: Path, tmp_path: Path) -> None:
    async with hosts(certs, tmp_path, {"rekey": "never"}, {}) as both:
        with pytest.raises(CallerError, match="rekey=never"):
            await both.client.renew(None)
        (sock,) = both.client.sockets.values()
        await both.client.renewals.at_limit(sock)
        assert both.events("client", "rekey", "retire") == []
        with pytest.raises(CallerError, match="no way 'soon' to renew keys; there are: auto, key"):
            await both.client.renew(None, "soon")
        assert await both.client.renew(None, "reconnect") == {"rekeyed": 0, "reconnected": 1}


async def test_a_kernel_that_takes_no_second_key(certs: Path, tmp_path: Path) -> None:
    """It says so, as ever; a new connection it can make."""
    async with hosts(certs, tmp_path, {"personality": PERSONALITIES["freebsd14"]}, {}) as both:
        for how in (None, "keyupdate"):
            with pytest.raises(UnsupportedError, match="takes no second key: --how reconnect"):
                await both.client.renew(None, how)
        assert await both.client.renew(None, "reconnect") == {"rekeyed": 0, "reconnected": 1}


async def test_so_many_peers_are_remembered(certs: Path, tmp_path: Path) -> None:
    async with hosts(certs, tmp_path, {}, {}) as both:
        (sock,) = both.client.sockets.values()
        renewals = both.client.renewals
        renewals.update_received(sock)
        own = sock.peer
        for number in range(REMEMBERED):
            sock.peer = own
            assert renewals.follows(sock)
            sock.peer = f"10.0.{number // 256}.{number % 256}:2049"
            renewals.update_received(sock)
        assert renewals.follows(sock)
        sock.peer = own
        assert not renewals.follows(sock)


@pytest.fixture
def may_answer(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Servers answer no KeyUpdate before this event."""
    hand_up, may = tls.upcall_session, trio.Event()

    async def in_its_time(host: tls.TlsHost, sock: KernelSocket, procedure: str, *rest: Any) -> int:
        if procedure == "HANDLERECORD" and host.config.role == "server":
            await may.wait()
        return await hand_up(host, sock, procedure, *rest)

    monkeypatch.setattr(tls, "upcall_session", in_its_time)
    return may


async def test_a_peer_that_takes_its_time_to_answer(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_answer: trio.Event
) -> None:
    """It may, until it has something to send (RFC 8446 section 4.6.3): nobody waits for ever."""
    monkeypatch.setattr(renewal, "ANSWER_SECONDS", 0.0)
    async with hosts(certs, tmp_path, {}, {}) as both:
        unanswered = {"rekeyed": 1, "reconnected": 0, "unanswered": 1}
        assert await both.client.renew(None, "keyupdate") == unanswered
        may_answer.set()
        await both.event("client", "key-update", 2)
        await both.rpc.call(SAY, b"", NULL_AUTH)


async def test_each_answer_is_waited_for(certs: Path, tmp_path: Path) -> None:
    """The second one as the first, which has come already."""
    async with hosts(certs, tmp_path, {}, {}) as both:
        answered = {"rekeyed": 1, "reconnected": 0}
        assert await both.client.renew(None, "keyupdate") == answered
        (sock,) = both.client.sockets.values()
        sock.update_unanswered = True

        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            both.client.renewals.update_received(sock)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await both.client.renewals.outcomes([sock]) == {}
