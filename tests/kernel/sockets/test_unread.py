"""What replies may hold that peers do not read, on all connections together."""

from __future__ import annotations

import contextlib
from pathlib import Path

import trio

from tests.kernel.clientworld import Clock
from tests.kernel.sockets.test_budget import MIB, Server, call, reply, serving, settled
from tests.passing import elapse
from umktls.kernel.ground.unread import UNREAD_SECONDS, Unread
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.testing.echo import ECHO, Echo

LONG = call(ECHO, 1, bytes(MIB))


async def send(stream: trio.SocketStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(data)


async def one_too_many(server: Server) -> tuple[KernelSocket, trio.SocketStream]:
    """A client that reads nothing, where all may have nearly nothing waiting."""
    server.host.unread = Unread(MIB // 8)
    sock, stream = server.connect()
    server.nursery.start_soon(send, stream, LONG * 3)
    await settled()
    return sock, stream


async def test_who_does_not_read_has_one_reply_and_ends(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with serving(tmp_path, Echo().service()) as server:
        slow, hers = await one_too_many(server)
        assert slow.rpc.replies == 1
        quick, his = server.connect()
        began = trio.current_time()
        await his.send_all(LONG)
        assert (await reply(his)).endswith(bytes(MIB))
        assert trio.current_time() - began < UNREAD_SECONDS / 2
        await elapse(2 * UNREAD_SECONDS)
        assert slow.closed
        assert "has not read" in slow.rpc.cut_off
        assert not quick.closed
        assert not server.host.unread.full
        await hers.aclose()
        await his.aclose()


async def test_who_reads_in_time_goes_on(tmp_path: Path, autojump_clock: Clock) -> None:
    async with serving(tmp_path, Echo().service()) as server:
        sock, stream = await one_too_many(server)
        await elapse(UNREAD_SECONDS / 2)
        assert sock.rpc.replies == 1
        await reply(stream)
        await settled()
        assert sock.rpc.replies == 2
        await elapse(UNREAD_SECONDS / 2 + 1)
        assert not sock.closed
        await stream.aclose()


async def test_where_there_is_room_nobody_need_read(tmp_path: Path, autojump_clock: Clock) -> None:
    async with serving(tmp_path, Echo().service()) as server:
        sock, stream = server.connect()
        await stream.send_all(LONG * 3)
        await elapse(3 * UNREAD_SECONDS)
        assert sock.rpc.replies == 3
        assert not sock.closed
        await stream.aclose()
