"""What a connection keeps when nothing comes any more."""

from __future__ import annotations

import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from tests.conformance.world import DATA, ENGINE, keys
from tests.kernel.kernelsocket import kernel_socket
from tests.passing import elapse
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.rpcside import IDLE_SECONDS
from umktls.rpc.record import RecordReader, mark

MESSAGE = bytes(1 << 20)
SECONDS = 1000  # of the mock clock
Clock = trio.testing.MockClock


@dataclass
class Reading:
    """A socket that RPC reads from, and its peer."""

    sock: KernelSocket
    far: trio.socket.SocketType
    arrived: trio.MemoryReceiveChannel[weakref.ref[memoryview]]

    async def message(self) -> weakref.ref[memoryview]:
        """A large one comes, and goes to RPC, which does not keep it."""
        sealer = ENGINE.sealer(keys(sequence=self.sock.state.rx.sequence))
        view = memoryview(sealer.seal(DATA, (mark(len(MESSAGE)), MESSAGE)))
        while len(view):
            view = view[await self.far.send(view) :]
        message = await self.arrived.receive()
        await trio.testing.wait_all_tasks_blocked()
        return message


async def refuse_control() -> None:
    raise AssertionError("there is only data")


@asynccontextmanager
async def reading() -> AsyncIterator[Reading]:
    near, far = socket.socketpair()
    far.setblocking(False)
    into, arrived = trio.open_memory_channel[weakref.ref[memoryview]](1)
    with trio.fail_after(SECONDS), trio.socket.from_stdlib_socket(far) as end:
        async with trio.open_nursery() as nursery:
            sock = kernel_socket(near, nursery.start_soon)
            sock.state.rx.enable(ENGINE.opener(keys()), keys().suite)

            async def deliver(message: memoryview) -> None:
                assert len(message) == len(MESSAGE)
                await into.send(weakref.ref(message))

            nursery.start_soon(sock.rpc.pump, RecordReader(2 << 20), deliver, refuse_control)
            try:
                yield Reading(sock, end, arrived)
            finally:
                nursery.cancel_scope.cancel()
                sock.close("the test is over")


async def test_an_idle_connection_keeps_no_large_buffer(autojump_clock: Clock) -> None:
    async with reading() as r:
        for _ in range(2):
            await r.message()
            assert r.sock.state.rx.spacious
            await elapse(3 * IDLE_SECONDS)
            assert not r.sock.state.rx.spacious


async def test_it_does_not_keep_its_last_message(autojump_clock: Clock) -> None:
    async with reading() as r:
        last = await r.message()
        assert last() is None


async def test_a_busy_one_keeps_it(autojump_clock: Clock) -> None:
    async with reading() as r:
        for _ in range(6):
            await r.message()
            await elapse(0.6 * IDLE_SECONDS)
            assert r.sock.state.rx.spacious
