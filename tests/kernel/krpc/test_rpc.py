"""RPC between two hosts in one process, over real TCP: calls, loss, deadlines, garbage."""

from __future__ import annotations

import dataclasses
import errno
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.conftest import patience
from tests.kernel.krpc.rpcworld import calling, held, serving
from tests.ports import silent_port
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.kernel.sockets.stream import SEND_QUEUE_LIMIT
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.record import mark
from umktls.rpc.server import CallContext, Service
from umktls.testing.echo import BREAK, COUNT, SAY, SLOW, WAIT, Echo


async def test_calls_of_all_sizes_and_many_at_once(tmp_path: Path) -> None:
    sizes = [0, 1, 4095, 4096, 70_000, 1 << 20, 3, (1 << 20) + 1] * 3
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, calling(tmp_path, server.port) as rpc:
            answers: dict[int, bytes] = {}

            async def say(number: int, size: int) -> None:
                data = bytes([number]) * size
                answers[number] = await rpc.call(SAY, data, NULL_AUTH)

            async with trio.open_nursery() as nursery:
                for number, size in enumerate(sizes):
                    nursery.start_soon(say, number, size)
    assert answers == {n: bytes([n]) * size for n, size in enumerate(sizes)}


async def test_blocking_jobs_run_beside_others(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, calling(tmp_path, server.port) as rpc:
            assert await rpc.call(SLOW, 7, NULL_AUTH) == 7


class Hasty(Echo):
    """Has threads for its larger numbers only. `threads`: of whom who was called."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def wait(self, number: int, context: CallContext) -> int:
        self.threads.append(threading.get_ident())
        return number

    def service(self) -> Service:
        def brief(number: int, context: CallContext) -> int | None:
            return self.wait(number, context) if number < 10 else None

        return dataclasses.replace(super().service(), brief={"WAIT": brief})


async def test_what_may_block_and_is_short_has_no_thread(tmp_path: Path) -> None:
    hasty = Hasty()
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, hasty) as server, calling(tmp_path, server.port) as rpc:
            assert await rpc.call(WAIT, 7, NULL_AUTH) == 7
            assert await rpc.call(WAIT, 70, NULL_AUTH) == 70
    short, long = hasty.threads
    assert short == threading.get_ident() != long


async def test_a_handler_that_fails_costs_one_call(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, calling(tmp_path, server.port) as rpc:
            with pytest.raises(UmktlsError, match="failed while it executed"):
                await rpc.call(BREAK, None, NULL_AUTH)
            assert await rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"


async def test_a_lost_connection_is_made_anew_and_nothing_is_done_twice(tmp_path: Path) -> None:
    echo = Echo()
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, echo) as server, calling(tmp_path, server.port) as rpc:
            assert await rpc.call(COUNT, 1, NULL_AUTH) == 1
            assert rpc.socket is not None
            first = rpc.socket.name
            rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await rpc.call(COUNT, 2, NULL_AUTH) == 2
            assert rpc.socket is not None
            assert rpc.socket.name != first
    assert echo.counted == [1, 2]


async def test_a_call_tells_how_often_it_was_sent(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, calling(tmp_path, server.port) as rpc:
            assert await rpc.call_counted(COUNT, 1, NULL_AUTH) == (1, 1)
            assert rpc.socket is not None
            rpc.socket.shutdown(socket.SHUT_RDWR)
            assert await rpc.call_counted(COUNT, 2, NULL_AUTH) == (2, 2)


async def test_a_job_runs_to_its_end_when_its_connection_is_lost(tmp_path: Path) -> None:
    """And the call that is sent again gets its reply."""
    echo = Echo()
    with trio.fail_after(patience(20)):
        async with (
            serving(tmp_path, echo) as server,
            calling(tmp_path, server.port) as rpc,
            held(rpc, echo) as answers,
        ):
            assert rpc.socket is not None
            lost = rpc.socket
            lost.shutdown(socket.SHUT_RDWR)
            while rpc.socket in (None, lost):
                await trio.lowlevel.checkpoint()
            echo.go_on.set()
    assert answers == [(7, 2)]
    assert echo.counted == [7]


async def test_calls_wait_for_a_server_that_comes_back(tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with trio.open_nursery() as nursery:
            port = 0
            up = trio.Event()
            down = trio.Event()
            gone = trio.Event()

            async def first_life() -> None:
                nonlocal port
                async with serving(tmp_path, Echo()) as server:
                    port = server.port
                    up.set()
                    await down.wait()
                gone.set()

            nursery.start_soon(first_life)
            await up.wait()
            async with calling(tmp_path, port) as rpc:
                assert await rpc.call(SAY, b"one", NULL_AUTH) == b"one"
                down.set()
                answered = trio.Event()

                async def ask() -> None:
                    assert await rpc.call(SAY, b"two", NULL_AUTH) == b"two"
                    answered.set()

                nursery.start_soon(ask)
                await gone.wait()
                async with serving(tmp_path, Echo(), port, "second"):
                    await answered.wait()


async def fails_at_the_deadline(
    rpc: RpcClient, clock: trio.testing.MockClock, when: Callable[[], object], text: str
) -> int:
    """A call that fails with that text when the deadline passes, which it does when `when` is true
    and not before; its errno."""

    async def let_it_pass() -> None:
        while not when():
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()  # the call, and whoever looks after deadlines
        clock.jump(rpc.deadline)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_it_pass)
        with pytest.raises(WorldError, match=text) as caught:
            await rpc.call(SAY, b"anybody?", NULL_AUTH)
    return caught.value.errno


async def test_no_answer_is_an_error_at_the_deadline(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with calling(tmp_path, listener.getsockname()[1]) as rpc:
            number = await fails_at_the_deadline(
                rpc, mock_clock, lambda: rpc.socket, "SAY: no answer from"
            )
    assert number == errno.ETIMEDOUT


async def test_no_server_is_an_error_at_the_deadline_and_says_why(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    with silent_port() as port:
        async with calling(tmp_path, port) as rpc:
            number = await fails_at_the_deadline(
                rpc, mock_clock, lambda: rpc.facts()["tries"], "nothing listens there"
            )
    assert number == errno.ECONNREFUSED


GARBAGE = {
    "no record": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10,
    "too long": mark(0x7FFFFFFF) + b"x" * 100,
    "no rpc": mark(8) + b"\xff" * 8,
    "a reply": mark(24) + bytes(7) + b"\x01" + bytes(16),
    "half a message": mark(1000) + bytes(10),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_costs_its_connection_and_the_host_lives(tmp_path: Path, name: str) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(GARBAGE[name])
                await stream.send_eof()
                assert await ended(stream.receive_some)
            garbage = [e for e in server.host.trace.since() if e["event"] == "garbage"]
            assert len(garbage) == (0 if name == "half a message" else 1)
            async with calling(tmp_path, server.port) as rpc:
                assert await rpc.call(SAY, b"fine", NULL_AUTH) == b"fine"


async def ended(receive: Callable[[int], Awaitable[bytes | bytearray]]) -> bool:
    """Whether the stream ends, in order or broken."""
    try:
        while await receive(4096):
            pass
    except trio.BrokenResourceError:
        return True
    return True


async def test_stat_counts_what_happened(tmp_path: Path) -> None:
    with trio.fail_after(patience(20)):
        async with serving(tmp_path, Echo()) as server, calling(tmp_path, server.port) as rpc:
            for number in range(5):
                await rpc.call(COUNT, number, NULL_AUTH)
            stat = server.host.stat()
    (connection,) = stat["connections"]
    assert connection["rpc"] == {"calls": 5, "replies": 5, "rejected": 0}
    assert connection["tls"] is None
    assert stat["totals"]["rpcs"] == 5


@pytest.mark.parametrize("how", ["released", "cut off"])
async def test_what_is_held_for_a_key_is_bounded(tmp_path: Path, how: str) -> None:
    """A client goes on calling while a daemon has sent a KeyUpdate and set no key yet."""
    echo, said, size = Echo(), list[bytes](), 1 << 20
    calls = 3 * SEND_QUEUE_LIMIT // size
    with trio.fail_after(patience(30)):
        async with serving(tmp_path, echo) as server, calling(tmp_path, server.port) as rpc:
            assert await rpc.call(SAY, b"", NULL_AUTH) == b""
            (sock,) = server.host.sockets.values()
            sock.rpc.hold()

            async def say() -> None:
                said.append(await rpc.call(SAY, bytes(size), NULL_AUTH))

            async with trio.open_nursery() as nursery:
                for _ in range(calls):
                    nursery.start_soon(say)
                while sock.rpc.calls <= SEND_QUEUE_LIMIT // size:
                    await trio.lowlevel.checkpoint()
                for _ in range(100):
                    await wait_all_tasks_blocked()
                assert sock.rpc.calls <= SEND_QUEUE_LIMIT // size + 2
                if how == "released":
                    sock.rpc.release()
                else:
                    server.host.handover.cut_off(sock, "the test wants it")
    assert said == [bytes(size)] * calls
