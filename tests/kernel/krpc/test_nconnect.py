"""Several connections for one mount: who gets which call, and what becomes of those that fail."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.krpc.rpcworld import held, serving
from tests.passing import elapse
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig, calls_to
from umktls.kernel.krpc.nconnect import Connections
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.krpc.server import Listening
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls.tls import TlsRefused
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT, ECHO, SAY, WAIT, Echo


@asynccontextmanager
async def connected(
    path: Path, server: Listening, count: int = 3
) -> AsyncIterator[tuple[Host, Connections]]:
    config = MountConfig("127.0.0.1", "/", server.port, security="none")
    async with (
        booted(HostConfig("client", path / "client")) as host,
        calls_to(host, config, ECHO, connections=count) as rpc,
    ):
        yield host, rpc


def calls_of(rpc: Connections) -> list[int]:
    return [client.calls for client in rpc.clients]


def events(host: Host, name: str) -> list[dict[str, object]]:
    return [event for event in host.trace.since() if event["event"] == name]


async def gone(server: Listening, client: RpcClient, others: int) -> None:
    """Cut a client's connection; wait until the server has only so many left."""
    assert client.socket is not None
    client.socket.shutdown(socket.SHUT_RDWR)
    while len(server.host.sockets) > others or client.facts()["connected"]:
        await trio.lowlevel.checkpoint()


async def test_all_are_made_with_the_mount(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, connected(tmp_path, server) as (_, rpc):
            await rpc.make_all(ECHO)
            assert all(client.socket is not None for client in rpc.clients)
            assert len(server.host.sockets) == 3
            assert calls_of(rpc) == [0, 1, 1]


async def test_calls_one_after_the_other_go_in_turn(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, connected(tmp_path, server) as (_, rpc):
            for number in range(9):
                assert await rpc.call(SAY, bytes([number]), NULL_AUTH) == bytes([number])
            assert calls_of(rpc) == [3, 3, 3]


async def test_who_has_fewest_calls_waiting_gets_the_next(tmp_path: Path) -> None:
    """Here one waits for its answer until the others have had all the rest."""
    echo = Echo()
    with trio.fail_after(patience(20)):
        async with (
            serving(tmp_path, echo) as server,
            connected(tmp_path, server) as (_, rpc),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(rpc.call, WAIT, 7, NULL_AUTH)
            await trio.testing.wait_all_tasks_blocked()
            (slow,) = [client for client in rpc.clients if client.waiting]
            for _ in range(8):
                await rpc.call(SAY, b"", NULL_AUTH)
            assert slow.calls == 1
            assert rpc.facts()["waiting"] == 1
            echo.go_on.set()


async def test_ids_are_never_the_same(tmp_path: Path) -> None:
    """Each counts, though each client sends its first call with the same argument: a server knows
    a repeated call by host, id and arguments."""
    echo = Echo()
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, echo) as server, connected(tmp_path, server) as (_, rpc):
            assert [await rpc.call(COUNT, 5, NULL_AUTH) for _ in range(6)] == [1, 2, 3, 4, 5, 6]


async def test_a_lost_connection_is_made_anew_and_nothing_is_done_twice(tmp_path: Path) -> None:
    echo = Echo()
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, echo) as server, connected(tmp_path, server) as (host, rpc):
            await rpc.make_all(ECHO)
            async with held(rpc, echo) as answers:
                (one,) = [client for client in rpc.clients if client.waiting]
                lost = one.socket
                assert lost is not None
                lost.shutdown(socket.SHUT_RDWR)
                while one.socket in (None, lost):
                    await trio.lowlevel.checkpoint()
                echo.go_on.set()
            assert answers == [(7, 2)]
            assert echo.counted == [7]
            assert not events(host, "server-away")


@pytest.mark.parametrize("kind", [WorldError, TlsRefused])
async def test_who_gets_no_connection_hands_its_calls_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], UmktlsError]
) -> None:
    """And is left alone for a while: the calls behind it do not wait for it."""

    async def refuse(*arguments: object) -> None:
        raise kind("no place is left there")

    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, connected(tmp_path, server, 2) as both:
            host, rpc = both
            assert await rpc.call(SAY, b"one", NULL_AUTH) == b"one"
            assert await rpc.call(SAY, b"two", NULL_AUTH) == b"two"
            one, other = rpc.clients
            await gone(server, one, others=1)
            monkeypatch.setattr("umktls.kernel.krpc.client.make_connection", refuse)
            for number in range(6):
                assert await rpc.call(SAY, bytes([number]), NULL_AUTH) == bytes([number])
            assert (one.socket, one.waiting) == (None, 0)
            assert other.socket is not None
            (event,) = events(host, "handed-on")
            assert event["reason"] == "no place is left there"
            assert not events(host, "server-away")


async def test_who_was_left_alone_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    none: Any = None
    rpc = Connections(none, none, none, Trace("h", "client"), 60.0, "server", 2)
    one, other = rpc.clients
    other.socket = cast(KernelSocket, object())
    assert rpc._relief(one) is other
    assert {rpc._next() for _ in range(4)} == {other}
    await elapse(60)
    assert {rpc._next() for _ in range(4)} == {one, other}


async def test_one_tries_while_the_server_is_away(tmp_path: Path) -> None:
    """The others' calls wait with it, and all are answered when it is back."""
    attempts: list[str] = []
    with trio.fail_after(patience(30)):
        async with serving(tmp_path, Echo()) as server, connected(tmp_path, server) as (host, rpc):
            await rpc.make_all(ECHO)

            async def refuse(*arguments: object) -> None:
                attempts.append("")
                raise WorldError("nobody listens")

            answers: list[bytes] = []

            async def say(number: int) -> None:
                answers.append(await rpc.call(SAY, bytes([number]), NULL_AUTH))

            async with trio.open_nursery() as nursery:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("umktls.kernel.krpc.client.make_connection", refuse)
                    for left, client in zip((2, 1, 0), rpc.clients, strict=True):
                        await gone(server, client, left)
                    for number in range(6):
                        nursery.start_soon(say, number)
                    while len(attempts) < 5:
                        await trio.lowlevel.checkpoint()
                    assert [client.waiting for client in rpc.clients] == [6, 0, 0]
                    assert rpc.facts()["waiting"] == 6
            assert sorted(answers) == [bytes([number]) for number in range(6)]
            (away,) = events(host, "server-away")
            assert away["reason"] == "nobody listens"
            assert len(events(host, "server-back")) == 1
