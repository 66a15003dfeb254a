"""A client of RPC at its limits: replies, silence, a connection that is to be replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.krpc.rpcworld import calling
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.pending import PendingCall
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.record import mark
from umktls.testing.echo import SAY

MIB = 1 << 20


def waiting() -> tuple[RpcClient, Trace]:
    """A client with a connection, on which a call waits since now."""
    none: Any = None
    trace = Trace("h", "client")
    client = RpcClient(none, none, none, trace, 60.0, "server")
    client.socket = cast(KernelSocket, object())
    now, task = trio.current_time(), trio.lowlevel.current_task()
    pending = PendingCall("SAY", [], task, now, now + 60.0, client._table)
    pending.sent_on = client.socket
    client._table.add(1, pending)
    return client, trace


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
    client, trace = waiting()
    client._watch_silence(trio.current_time() + 4.75)
    assert list(trace.since()) == []
    client._watch_silence(trio.current_time() + 5.0)
    (event,) = trace.since()
    assert (event["event"], event["reason"]) == (
        "server-away",
        "connected, and no answer for 5 s",
    )


async def test_what_is_never_answered_keeps_no_connection_that_is_to_be_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client, _ = waiting()
    client.retire("its keys are to be renewed")
    await elapse(1)
    client._leave()
    assert not client._reading.cancel_called
    await elapse(100)
    client._leave()
    assert client._reading.cancel_called


async def test_a_connection_that_cannot_be_sent_on_is_hung_up() -> None:
    """So that what reads from it sees that it is broken, and makes another one."""

    def broken(parts: object) -> None:
        raise WorldError("cannot send: Broken pipe")

    client, _ = waiting()
    hung_up: list[bool] = []
    sock = SimpleNamespace(
        rpc=SimpleNamespace(send=broken, calls=0), hang_up=lambda: hung_up.append(True)
    )
    client.socket = cast(KernelSocket, sock)
    client._send(client._table.waiting()[0])
    assert hung_up == [True]
    assert client.waiting == 1


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
