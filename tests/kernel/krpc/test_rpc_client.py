"""A client of RPC at its limits: replies, silence, a connection that is to be replaced."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.kernelsocket import kernel_socket
from tests.kernel.krpc.replypeer import answered
from tests.kernel.krpc.rpcworld import calling
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.record import mark
from umktls.testing.echo import SAY

MIB = 1 << 20


@dataclass
class Silent:
    """A server that takes connections and answers nothing; the client's ends of them."""

    trace: Trace = field(default_factory=lambda: Trace("h", "client"))
    ends: list[socket.socket] = field(default_factory=list)

    async def disconnect(self, sock: KernelSocket, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        sock.close(reason)


@asynccontextmanager
async def waiting(deadline: float = 300.0) -> AsyncIterator[tuple[RpcClient, Silent]]:
    """A client with a connection, on which a call waits since now."""
    none: Any = None
    server = Silent()
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:

            async def connect() -> KernelSocket:
                await trio.lowlevel.checkpoint()
                near, far = socket.socketpair()
                stack.enter_context(far)
                near.setblocking(False)
                server.ends.append(near)
                return kernel_socket(near, nursery.start_soon, trace=server.trace)

            made = RpcClient(connect, server.disconnect, none, server.trace, deadline, "server")
            nursery.start_soon(made.run)
            nursery.start_soon(made.call, SAY, b"", NULL_AUTH)
            while not made.socket:
                await trio.lowlevel.checkpoint()
            yield made, server
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("length", "reason"),
    [(2 * MIB, "the server closed the connection"), (2 * MIB + 1, "over the limit of 2097152")],
)
async def test_how_long_a_reply_may_be(tmp_path: Path, length: int, reason: str) -> None:
    """READ and READDIRPLUS have 1 MiB. No more is ever kept of what a server announces."""

    async def announce(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(mark(length))
        await stream.send_eof()
        while await stream.receive_some():
            pass

    with trio.fail_after(patience(20)):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with (
            calling(tmp_path, listeners[0].socket.getsockname()[1]) as rpc,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(trio.serve_listeners, announce, listeners)
            with pytest.raises(WorldError, match=f"before it answers a call: .*{reason}"):
                await rpc.call(SAY, b"", NULL_AUTH)
            nursery.cancel_scope.cancel()


async def test_a_server_that_says_nothing_is_away_after_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with waiting() as (_, server):
        await elapse(4.75)
        assert list(server.trace.since()) == []
        await elapse(20)
        (event,) = server.trace.since()
    assert (event["event"], event["reason"]) == (
        "server-away",
        "connected, and no answer for 5 s",
    )


async def test_a_server_is_silent_since_its_last_answer_and_not_since_the_oldest_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with answered() as peer:
        await peer.asked(b"never answered")
        await elapse(4)
        await peer.answer(*await peer.asked(b"answered"))
        await elapse(4.5)
        assert list(peer.trace.since()) == []
        await elapse(1)
        assert [event["event"] for event in peer.trace.since()] == ["server-away"]


async def test_what_is_never_answered_keeps_no_connection_that_is_to_be_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with waiting() as (client, server):
        client.retire("its keys are to be renewed")
        await elapse(1)
        assert len(server.ends) == 1
        await elapse(100)
        assert len(server.ends) == 2
        assert client.waiting == 1


async def test_a_connection_that_cannot_be_sent_on_is_hung_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """So that what reads from it sees that it is broken, and makes another one."""
    async with waiting() as (client, server):
        server.ends[0].shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, SAY, b"", NULL_AUTH)
            await trio.testing.wait_all_tasks_blocked()
            assert len(server.ends) == 2
            assert client.waiting == 2
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_call_that_has_ended_waits_no_more(
    gives_up: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """By its deadline, or with its task: it would be sent again on each new connection."""
    none: Any = None
    client = RpcClient(trio.sleep_forever, none, none, Trace("h", "client"), 10.0, "server")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        if gives_up:
            with trio.move_on_after(5):
                await client.call(SAY, b"", NULL_AUTH)
        else:
            with pytest.raises(WorldError, match="no answer from server within 10 s"):
                await client.call(SAY, b"", NULL_AUTH)
        assert client.waiting == 0
        nursery.cancel_scope.cancel()
