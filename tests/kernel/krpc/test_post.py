"""A worker's end of the line to its supervisor."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import trio

from tests.conftest import patience
from umktls.kernel.krpc.post import Inlet, Post


async def test_a_message_that_has_lost_its_descriptor() -> None:
    """Where there is none left, the system drops it: that costs this connection, or this reload."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def serve(sock: socket.socket, mount: bool) -> None:
        raise AssertionError("there is no connection")

    with theirs:
        inlet = Inlet(Post(1, 1, 1, 1, "h", Path("/"), 1, theirs.fileno(), -1))
    with ours, inlet._channel, trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inlet.run, serve)
            ours.send(b'{"connection": 5, "mount": false}')
            ours.send(b'{"reload": true}')
            ours.send(b'{"ping": true}')
            told = list[dict[str, object]]()
            while len(told) < 3:
                await trio.lowlevel.wait_readable(ours)
                told.append(json.loads(ours.recv(100)))
            nursery.cancel_scope.cancel()
    lacking = "no descriptors are left to a worker (ulimit -n)"
    assert told == [{"ended": 5}, {"reloaded": lacking}, {"pong": True}]


async def test_a_connection_s_end_is_told_and_all_end_with_the_supervisor() -> None:
    """Also that of a connection which fails; none outlives whoever has accepted it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    begun, ended = trio.Event(), list[bool]()

    async def serve(sock: socket.socket, mount: bool) -> None:
        with sock:
            if not mount:
                return
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.append(mount)

    def hand(number: int, mount: bool) -> None:
        message = json.dumps({"connection": number, "mount": mount}).encode()
        near, far = socket.socketpair()
        with near, far:
            socket.send_fds(ours, [message], [near.fileno()])

    with theirs:
        inlet = Inlet(Post(1, 1, 1, 1, "h", Path("/"), 1, theirs.fileno(), -1))
    with inlet._channel, trio.fail_after(patience(20)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inlet.run, serve)
            with ours:
                hand(5, False)
                await trio.lowlevel.wait_readable(ours)
                assert json.loads(ours.recv(100)) == {"ended": 5}
                hand(6, True)
                await begun.wait()
        assert ended == [True]
        with pytest.raises(trio.EndOfChannel):
            await inlet.orders.receive()
