"""A handshake that fails while the daemon has the socket: what is said of it, and what it reads."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.kernel.clientworld import Asked, Clock, Daemon, world
from umktls.abi import rpctls
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.upcalls.tls import CONNECTION_LOST, TlsRefused
from umktls.upcall import syscalls as wire

End = Callable[[Daemon, Asked], Awaitable[None]]


async def refuse(daemon: Daemon, asked: Asked) -> None:
    await daemon.answer(asked, rpctls.RPCTLSERR_NOSSL)


async def go(daemon: Daemon, asked: Asked) -> None:
    await daemon.leave()


async def hang(daemon: Daemon, asked: Asked) -> None:
    """The upcall's deadline passes."""


@pytest.mark.parametrize("fail", [refuse, go, hang])
@pytest.mark.parametrize(
    ("phase", "error", "number"),
    [("certificate", TlsRefused, errno.EACCES), (CONNECTION_LOST, WorldError, errno.ECONNRESET)],
)
async def test_the_daemon_s_reason_is_told(
    tmp_path: Path,
    autojump_clock: Clock,
    fail: End,
    phase: str,
    error: type[UmktlsError],
    number: int,
) -> None:
    """However the upcall ends then. Only a connection that was lost is worth another try."""
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        fd = await daemon.take(asked)
        told = {"event": "handshake-failed", "fd": fd, "phase": phase, "reason": "so it is"}
        await w.calls.call(wire.UtraceArgs(json.dumps(told).encode()))
        await fail(daemon, asked)
        await attempt.ended.wait()
    assert attempt.error is not None
    assert (type(attempt.error), attempt.error.errno) == (error, number)
    assert "so it is" in str(attempt.error)


@pytest.mark.parametrize("fail", [refuse, hang])
async def test_the_daemon_reads_the_end(tmp_path: Path, autojump_clock: Clock, fail: End) -> None:
    """As in FreeBSD, where the daemon's socket is shut for reading, and left to it to close."""
    async with world(tmp_path) as w:
        daemon, attempt, asked = await w.asked()
        take = wire.SocketCookieArgs(asked.argument.socookie)
        _, (descriptor,) = await w.calls.call_with_descriptors(take)
        with socket.socket(fileno=descriptor) as sock:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            await fail(daemon, asked)
            await attempt.ended.wait()
            assert sock.recv(1) == b""
