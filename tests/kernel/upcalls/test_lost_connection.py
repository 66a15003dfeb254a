"""What a daemon hears of a TCP connection that the peer, or the kernel, has ended."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance.world import ALERT, DATA, ENABLE
from tests.conftest import patience
from tests.kernel.clientworld import world
from tests.kernel.sockets.takensocket import SECONDS, Taken, refusal, taken, tcp_ends
from umktls.abi import freebsd, linux, rpctls
from umktls.abi.freebsd import IPPROTO_TCP
from umktls.errors import WorldError
from umktls.ktls.session import Direction
from umktls.rpc.record import RecordReader, mark
from umktls.upcall import syscalls as wire

ULP = (linux.SOL_TCP, linux.TCP_ULP, linux.TLS_ULP_NAME)
MODE = (IPPROTO_TCP, freebsd.TCP_TXTLS_MODE)
BOTH: tuple[Direction, ...] = ("tx", "rx")


def number(t: Taken, name: int) -> int:
    """An errno as this kernel says it."""
    return t.sock.state.personality.errno(name)


async def ignore(message: memoryview) -> None:
    raise AssertionError("nothing has come")


async def leave() -> None:
    raise AssertionError("no control record has come")


# Keys


@pytest.mark.parametrize("name", ["freebsd14", "umktls"])
async def test_keys_of_freebsd_s_after_a_reset(tmp_path: Path, name: str) -> None:
    """ECONNRESET, before anything else is looked at."""
    async with taken(tmp_path, name) as t:
        await t.reset()
        for direction in BOTH:
            assert await refusal(t.enable, direction) == number(t, errno.ECONNRESET)
            option = (IPPROTO_TCP, ENABLE[direction])
            assert await refusal(t.set, *option, b"short") == number(t, errno.ECONNRESET)
        assert await refusal(t.get, *MODE) == number(t, errno.ECONNRESET)


@pytest.mark.parametrize("name", ["freebsd14", "umktls"])
async def test_keys_of_freebsd_s_after_the_peer_s_end(tmp_path: Path, name: str) -> None:
    """CLOSE_WAIT is a connection; what is there is still read."""
    async with taken(tmp_path, name) as t:
        await t.arrive(b"\1\0", ALERT)
        await t.end()
        for direction in BOTH:
            await t.enable(direction)
        assert await t.get(*MODE) == freebsd.TCP_TLS_MODE_SW.to_bytes(4, "little")
        assert await t.send(b"\1\0", ALERT) == 2
        assert await t.records(1) == [(ALERT, b"\1\0")]


@pytest.mark.parametrize("name", ["linux", "umktls"])
@pytest.mark.parametrize("end", [Taken.end, Taken.reset])
async def test_the_ulp_is_for_established_connections(
    tmp_path: Path, name: str, end: Callable[[Taken], Awaitable[None]]
) -> None:
    async with taken(tmp_path, name) as t:
        await end(t)
        assert await refusal(t.set, *ULP) == errno.ENOTCONN


@pytest.mark.parametrize(("name", "works"), [("freebsd14", False), ("umktls", True)])
async def test_keys_for_what_came_before_a_reset(tmp_path: Path, name: str, works: bool) -> None:
    """Our own kernel takes them: the record may be an alert that says why."""
    async with taken(tmp_path, name) as t, trio.open_nursery() as nursery:
        await t.arrive(b"\2\x28", ALERT)
        await t.reset()
        if not works:
            assert await refusal(t.enable, "rx") == number(t, errno.ECONNRESET)
            return
        await t.enable("rx")
        parked = trio.Event()

        async def control() -> None:
            parked.set()
            await trio.sleep_forever()

        nursery.start_soon(t.sock.rpc.pump, RecordReader(1000), ignore, control)
        await parked.wait()
        assert await t.recv() == b"\2\x28"
        assert await refusal(t.recv) == errno.ECONNRESET
        assert await t.recv() == b""
        assert await refusal(t.enable, "tx") == errno.ECONNRESET
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["freebsd15", "linux"])
async def test_a_connection_that_is_lost_before_it_has_keys_is_no_refusal(
    tmp_path: Path, name: str
) -> None:
    """It may be tried again, whatever the daemon thinks of a kernel that takes no keys."""
    async with world(tmp_path, name) as w:
        with trio.fail_after(patience(SECONDS)):
            daemon = await w.daemon()
            ends = tcp_ends()
            attempt = await w.connect(ends)
            asked = await daemon.asked()
            far = trio.socket.from_stdlib_socket(ends[1])
            t = Taken(w, attempt.sock, await daemon.take(asked), far)
            await t.reset()
            await refusal(t.enable, "tx")
            failed = {"event": "handshake-failed", "fd": t.number, "phase": "ktls", "reason": "no"}
            await t.call(wire.UtraceArgs(json.dumps(failed).encode()))
            await daemon.answer(asked, rpctls.RPCTLSERR_NOSSL)
            await attempt.ended.wait()
            attempt.sock.close("the test is over")
    assert type(attempt.error) is WorldError
    assert attempt.error.errno == errno.ECONNRESET


# Messages


@pytest.mark.parametrize("name", ["freebsd14", "linux", "umktls"])
async def test_a_reset_connection_that_has_keys(tmp_path: Path, name: str) -> None:
    """RPC hears of it, and then nobody hears of it again."""
    async with taken(tmp_path, name) as t:
        for direction in BOTH:
            await t.enable(direction)
        await t.reset()
        with pytest.raises(WorldError) as caught:
            await t.sock.rpc.pump(RecordReader(1000), ignore, leave)
        assert caught.value.errno == errno.ECONNRESET
        assert await t.recv() == b""
        await nothing_more_is_sent(t)


async def nothing_more_is_sent(t: Taken) -> None:
    """Linux says that it was, and loses it."""
    if t.sock.state.personality.sending.over == "lost":
        await t.send(b"\1\0", ALERT)
    else:
        assert await refusal(t.send, b"\1\0", ALERT) == number(t, errno.EPIPE)


@pytest.mark.parametrize(
    ("name", "sent"),
    [("freebsd14", errno.EPIPE), ("linux", errno.ECONNRESET), ("umktls", errno.EPIPE)],
)
async def test_a_daemon_that_hears_of_a_reset_first(tmp_path: Path, name: str, sent: int) -> None:
    async with taken(tmp_path, name) as t:
        for direction in BOTH:
            await t.enable(direction)
        await t.reset()
        assert await refusal(t.send, b"\1\0", ALERT) == number(t, sent)
        assert await refusal(t.recv) == number(t, errno.ECONNRESET)
        assert await t.recv() == b""
        await nothing_more_is_sent(t)
        # RPC sees the end.
        await t.sock.rpc.pump(RecordReader(1000), ignore, leave)


async def test_what_came_before_a_reset_is_for_rpc(tmp_path: Path) -> None:
    """The daemon's call neither takes it nor the error behind it."""
    received: list[bytes] = []

    async def deliver(message: memoryview) -> None:
        received.append(bytes(message))

    async with taken(tmp_path, "freebsd14") as t:
        for direction in BOTH:
            await t.enable(direction)
        await t.arrive(mark(4) + b"call", DATA)
        await t.reset()
        assert await refusal(t.send, b"\1\0", ALERT) == number(t, errno.EPIPE)
        assert await refusal(t.recv) == number(t, errno.EAGAIN)
        with pytest.raises(WorldError) as caught:
            await t.sock.rpc.pump(RecordReader(1000), deliver, leave)
    assert received == [b"call"]
    assert caught.value.errno == errno.ECONNRESET


# Descriptors


@pytest.mark.parametrize("name", ["freebsd14", "linux"])
async def test_a_connection_that_the_kernel_has_ended(tmp_path: Path, name: str) -> None:
    """The descriptor is the process's until it closes it."""
    async with taken(tmp_path, name) as t:
        await t.enable("tx")
        t.sock.close("the test wants it")
        session = (rpctls.SOL_UMKTLS, rpctls.UMKTLS_SESSION)
        for call in (
            t.enable("rx"),
            t.set(*session, b"secret"),
            t.get(*session),
            t.get(rpctls.SOL_UMKTLS, rpctls.UMKTLS_PEERADDR),
            t.get(rpctls.SOL_UMKTLS, rpctls.UMKTLS_TX_BOUNCE),
            t.recv(),
        ):
            assert await refusal(lambda call=call: call) == number(t, errno.ECONNRESET)
        assert await refusal(t.send, b"\1\0", ALERT) == number(t, errno.EPIPE)
        shutdown = wire.ShutdownArgs(t.number, socket.SHUT_WR)
        assert await refusal(t.call, shutdown) == number(t, errno.ENOTCONN)
        await t.call(wire.CloseArgs(t.number))
        assert await refusal(t.call, wire.CloseArgs(t.number)) == errno.EBADF
        assert await refusal(t.recv) == errno.EBADF
        assert await refusal(t.call, shutdown) == errno.EBADF
