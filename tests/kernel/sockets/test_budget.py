"""What all the connections of a server may hold together, and that it goes when they go."""

from __future__ import annotations

import errno
import gc
import socket
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.kernel.clientworld import Clock
from tests.passing import elapse
from umktls.errors import WorldError
from umktls.kernel.ground.budget import (
    ARRIVAL_SECONDS,
    MUCH,
    QUIET_SECONDS,
    Budget,
    Share,
    afterwards,
)
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.connections import REMEMBERED
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.server import BLOCKING_JOBS, JOB_BYTES, Connection
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc import xdr
from umktls.rpc.message import NULL_AUTH, encode_call
from umktls.rpc.program import Program
from umktls.rpc.record import mark
from umktls.rpc.server import CallContext, Dispatcher, Service
from umktls.rpc.xdr import Buffer
from umktls.testing.echo import ECHO, Echo

MIB = 1 << 20
DISK = Program(0x20000002, 1, "DISK")
DISK.add(0, "NULL", xdr.VOID, xdr.VOID)
DISK.add(1, "WRITE", xdr.opaque(1 << 21), xdr.VOID)
LARGEST = bytes.fromhex("80200000")


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


# ---- the budget


async def take(budget: Budget, size: int, log: list[int]) -> None:
    await budget.take(size)
    log.append(size)


async def test_who_wants_more_than_is_left_waits_in_turn(autojump_clock: Clock) -> None:
    budget, log = Budget(100), list[int]()
    async with trio.open_nursery() as nursery:
        await budget.take(60)
        nursery.start_soon(take, budget, 50, log)
        await settled()
        nursery.start_soon(take, budget, 40, log)  # would fit, but is not the first
        await settled()
        assert log == []
        budget.give(60)
        await settled()
        assert log == [50, 40]
    assert budget.used == 90


async def test_who_waits_for_all_gets_it(autojump_clock: Clock) -> None:
    budget, log = Budget(100), list[int]()
    async with trio.open_nursery() as nursery:
        await budget.take(1)
        nursery.start_soon(take, budget, 100, log)
        await settled()
        assert log == []
        budget.give(1)
        await settled()
        assert (log, budget.used) == ([100], 100)
        nursery.cancel_scope.cancel()


async def test_who_gives_up_lets_the_next_one_go_on(autojump_clock: Clock) -> None:
    budget, log = Budget(100), list[int]()
    await budget.take(60)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(take, budget, 40, log)
            scope.cancel()
            await budget.take(50)
        await settled()
    assert log == [40]
    assert budget.used == 100


async def test_a_request_larger_than_all_has_all() -> None:
    budget = Budget(100)
    assert await budget.take(1000) == 100
    budget.give(100)
    assert budget.used == 0


async def test_what_arrives_slowly_is_dropped_when_others_wait(autojump_clock: Clock) -> None:
    budget = Budget(100)
    dropped: list[str] = []
    first, second = (Share(budget, lambda name=name: dropped.append(name)) for name in "ab")  # type: ignore[misc]
    await first.receive(50)
    await elapse(1)
    await second.receive(50)
    await elapse(5 * ARRIVAL_SECONDS)
    assert dropped == []  # nobody waits
    await budget.take(20)
    assert dropped == ["a"]
    assert budget.used == 70
    assert second.arrived() == 50


async def test_who_has_had_its_message_is_not_dropped(autojump_clock: Clock) -> None:
    budget = Budget(100)
    share = Share(budget, lambda: pytest.fail("dropped"))
    await share.receive(100)
    held = share.arrived()
    with trio.move_on_after(5 * ARRIVAL_SECONDS) as scope:
        await budget.take(1)
    assert scope.cancelled_caught
    budget.give(held)
    assert await budget.take(1) == 1


async def test_memory_is_given_back_when_it_is_over(autojump_clock: Clock) -> None:
    """Not after little, not while more comes, and each time once."""
    budget, given = Budget(2 * MUCH), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(afterwards, budget, lambda: given.append(trio.current_time()))
        budget.give(await budget.take(MUCH - 1))
        await elapse(10 * QUIET_SECONDS)
        assert given == []
        for expected in (1, 2):
            first, second = await budget.take(MUCH // 2), await budget.take(MUCH // 2)
            budget.give(first)
            await elapse(10 * QUIET_SECONDS)
            assert len(given) == expected - 1
            budget.give(second)
            held = await budget.take(1)
            await elapse(10 * QUIET_SECONDS)
            assert len(given) == expected - 1
            budget.give(held)
            over = trio.current_time()
            await elapse(10 * QUIET_SECONDS)
            assert given[expected - 1 :] == [pytest.approx(over + QUIET_SECONDS)]
        nursery.cancel_scope.cancel()


GIVING = """
import os
from umktls.memory import give_back, keep_large_buffers

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

assert keep_large_buffers()
before = resident()
buffers = [bytearray(b"x") * (2 << 20) for _ in range(100)]
kept = [buffers[-1], bytearray(b"y") * 4096]
del buffers
print(before, resident(), give_back(), resident())
"""


def test_pages_below_what_stays_are_given_back() -> None:
    run = [sys.executable, "-c", GIVING]
    done = subprocess.run(run, capture_output=True, text=True, timeout=patience(30), check=True)
    before, held, given, after = done.stdout.split()
    assert int(held) - int(before) > 190
    assert given == "True"
    assert int(after) - int(before) < 40


# ---- a server


@dataclass
class Disk:
    """A disk that is stalled until it may go on."""

    go_on: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    writes: int = 0

    def write(self, data: memoryview, context: CallContext) -> None:
        with self.lock:
            self.writes += 1
        assert self.go_on.wait(20)

    def service(self) -> Service:
        return Service(DISK, {"WRITE": self.write}, blocking={"WRITE": lambda args: True})


@dataclass
class Server:
    host: Host
    dispatcher: Dispatcher
    nursery: trio.Nursery

    def connect(self) -> tuple[KernelSocket, trio.SocketStream]:
        """A connection in clear, and the client's end of it."""
        near, far = socket.socketpair()
        sock = self.host.adopt(near)
        serve = Connection(self.host, sock, ()).serve
        self.nursery.start_soon(serve, self.dispatcher, False)
        return sock, trio.SocketStream(trio.socket.from_stdlib_socket(far))


@asynccontextmanager
async def serving(path: Path, *services: Service) -> AsyncIterator[Server]:
    async with booted(HostConfig("server", path / "s")) as host, trio.open_nursery() as nursery:
        yield Server(host, Dispatcher(services), nursery)
        nursery.cancel_scope.cancel()


def call(program: Program, number: int, argument: Any = None) -> bytes:
    procedure = program.procedures[number]
    parts = procedure.encode_args(argument)
    head = encode_call(7, program.number, 1, number, NULL_AUTH, NULL_AUTH)
    message = b"".join([head, *parts])
    return mark(len(message)) + message


async def reply(stream: trio.SocketStream) -> bytes:
    """The next one."""
    head = await stream.receive_some(4)
    rest = b""
    while len(rest) < int.from_bytes(head) & 0x7FFFFFFF:
        rest += await stream.receive_some((int.from_bytes(head) & 0x7FFFFFFF) - len(rest))
    return rest


async def test_marks_that_announce_much_cost_little(tmp_path: Path, autojump_clock: Clock) -> None:
    """400 of them cost 800 MiB once."""
    async with serving(tmp_path, Echo().service()) as server:
        ends = [server.connect() for _ in range(20)]
        await settled()
        tracemalloc.start()
        try:
            for _, stream in ends:
                await stream.send_all(LARGEST)
            await settled()
            assert tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()
        for _, stream in ends:
            await stream.aclose()


async def test_large_messages_wait_for_each_other(tmp_path: Path, autojump_clock: Clock) -> None:
    """None is read any further; one that stays where it is gives way to the others."""
    data = bytes(MIB)
    async with serving(tmp_path, Echo().service()) as server:
        server.host.requests = Budget(MIB + 1000)
        slow, hers = server.connect()
        quick, his = server.connect()
        await hers.send_all(call(ECHO, 1, data)[: MIB // 2])
        await settled()
        assert server.host.requests.used > MIB
        answered = trio.Event()
        began = trio.current_time()

        async def receive() -> None:
            assert (await reply(his)).endswith(data)
            answered.set()

        server.nursery.start_soon(receive)
        await his.send_all(call(ECHO, 1, data))
        await answered.wait()
        assert trio.current_time() - began == pytest.approx(ARRIVAL_SECONDS, abs=0.5)
        await settled()
        assert slow.closed
        assert not quick.closed
        assert "others have to wait" in slow.rpc.cut_off
        assert server.host.requests.used == 0
        # Small ones need not wait for anything.
        await server.host.requests.take(MIB + 1000)
        await his.send_all(call(ECHO, 1, b"small"))
        assert (await reply(his)).endswith(b"small\0\0\0")
        await hers.aclose()
        await his.aclose()


async def test_a_connection_whose_jobs_wait_is_not_read(tmp_path: Path) -> None:
    disk, sent = Disk(), BLOCKING_JOBS + 20
    async with serving(tmp_path, disk.service(), Echo().service()) as server:
        sock, stream = server.connect()
        _, neighbour = server.connect()
        with trio.fail_after(patience(20)):
            await stream.send_all(call(DISK, 1, b"data") * sent)
            await settled()
            while disk.writes < BLOCKING_JOBS:
                await trio.lowlevel.checkpoint()
            await settled()
            assert disk.writes == BLOCKING_JOBS
            assert sock.rpc.calls == BLOCKING_JOBS + 1
            await neighbour.send_all(call(ECHO, 0))
            await reply(neighbour)
            disk.go_on.set()
            for _ in range(sent):
                await reply(stream)
        assert disk.writes == sent
        assert server.host.requests.used == 0
        await stream.aclose()
        await neighbour.aclose()


async def test_a_connection_ends_behind_its_jobs(tmp_path: Path) -> None:
    """Also when one has its place, and waits for memory."""
    disk = Disk()
    async with serving(tmp_path, disk.service()) as server:
        server.host.requests = Budget(JOB_BYTES)
        sock, stream = server.connect()
        with trio.fail_after(patience(20)):
            await stream.send_all(call(DISK, 1, b"data") * 2)
            while disk.writes < 1:
                await trio.lowlevel.checkpoint()
            await settled()
            assert sock.rpc.retire is not None
            sock.rpc.retire("there is a better one")
            await settled()
            assert sock.name in server.host.sockets
            disk.go_on.set()
            await reply(stream)
            assert await stream.receive_some() == b""
        assert sock.name in server.host.closed
        assert disk.writes == 1
        assert server.host.requests.used == 0
        await stream.aclose()


async def test_a_job_whose_reply_cannot_be_sent_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    async with serving(tmp_path, disk.service()) as server:
        sock, stream = server.connect()

        def send(parts: list[Buffer]) -> None:
            raise WorldError("cannot send: Broken pipe", errno.EPIPE)

        monkeypatch.setattr(sock.rpc, "send", send)
        with trio.fail_after(patience(20)):
            await stream.send_all(call(DISK, 1, b"data"))
            while disk.writes < 1:
                await trio.lowlevel.checkpoint()
            disk.go_on.set()
            assert await stream.receive_some() == b""
        (closed,) = (event for event in server.host.trace.since() if event["event"] == "closed")
        assert closed["reason"] == "cannot send: Broken pipe"
        assert server.host.requests.used == 0
        await stream.aclose()


async def test_one_bound_for_the_requests_of_all(tmp_path: Path) -> None:
    disk, connections = Disk(), 5
    async with serving(tmp_path, disk.service()) as server:
        budget = server.host.requests = Budget(2 * MIB + 3 * JOB_BYTES)
        ends = [server.connect() for _ in range(connections)]
        with trio.fail_after(patience(20)):
            async with trio.open_nursery() as nursery:
                for _, stream in ends:
                    nursery.start_soon(stream.send_all, call(DISK, 1, bytes(MIB)))
                while disk.writes < 2:
                    await trio.lowlevel.checkpoint()
                await settled()
                assert disk.writes == 2
                assert budget.used <= budget.limit
                disk.go_on.set()
                for _, stream in ends:
                    await reply(stream)
        assert disk.writes == connections
        assert budget.used == 0
        for _, stream in ends:
            await stream.aclose()


async def test_what_a_connection_held_goes_with_it(tmp_path: Path, autojump_clock: Clock) -> None:
    """At once, whether or not anything looks for cycles."""
    gc.collect()
    async with serving(tmp_path, Echo().service()) as server:
        tracemalloc.start()
        gc.disable()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(3):
                sock, stream = server.connect()
                await stream.send_all(LARGEST)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, bytes(MIB))
                await settled()
                assert tracemalloc.get_traced_memory()[0] > before + MIB
                await stream.aclose()
                await settled()
                assert sock.closed
            assert tracemalloc.get_traced_memory()[0] < before + MIB // 2
        finally:
            gc.enable()
            tracemalloc.stop()
        assert server.host.requests.used == 0


async def test_closed_sockets_are_told_of_and_not_kept(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with serving(tmp_path, Echo().service()) as server:
        socks = []
        for _ in range(REMEMBERED + 2):
            sock, stream = server.connect()
            await stream.send_all(call(ECHO, 0))
            await reply(stream)
            await stream.aclose()
            await settled()
            socks.append(weakref.ref(sock))
        name = sock.name
        del sock, stream
        gc.collect()
        assert [ref() for ref in socks] == [None] * len(socks)
        stat = server.host.stat()
        assert [each["id"] for each in stat["connections"]][-1] == name
        assert {each["state"] for each in stat["connections"]} == {"closed"}
        assert len(stat["connections"]) == REMEMBERED
        assert stat["totals"]["rpcs"] == REMEMBERED + 2


async def test_all_that_there_is_can_be_taken() -> None:
    budget = Budget(100)
    with trio.fail_after(patience(10)):
        assert await budget.take(60) == 60
        assert await budget.take(40) == 40
    assert budget.used == 100
