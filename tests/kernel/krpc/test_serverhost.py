"""Connections that a server does not take, or has done with: each ends, and the host lives."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.errors import UmktlsError, UnsupportedError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc import incoming, serverhost
from umktls.kernel.krpc.listening import listen
from umktls.kernel.krpc.serverhost import ServerConfig, boot_listening, serve_client
from umktls.kernel.upcalls import tls


async def attend(*of: object) -> None:
    raise AssertionError("it was not taken")


@pytest.mark.parametrize(
    ("admits", "refusal", "said"),
    [
        (False, None, []),
        (True, OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)), []),
        (
            True,
            UnsupportedError("the engine is not here"),
            ["a connection was not accepted: the engine is not here"],
        ),
    ],
)
async def test_a_connection_that_is_not_taken_is_closed(
    admits: bool, refusal: Exception | None, said: list[str]
) -> None:
    def adopt(*of: object, **named: object) -> None:
        assert refusal is not None, "who is not admitted is not looked at"
        raise refusal

    trace = Trace("h", "server")
    listening: Any = SimpleNamespace(
        host=SimpleNamespace(adopt=adopt, trace=trace),
        admission=SimpleNamespace(admits=lambda: admits),
        engine_for=lambda address: None,
        security="tls",
    )
    near, far = socket.socketpair()
    with far:
        await serve_client(listening, attend, near)
        assert near.fileno() == -1
        assert far.recv(1) == b""
    assert [event["reason"] for event in trace.since()] == said


async def test_a_connection_that_is_done_with_does_not_wait_for_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[str] = []

    async def disconnect(host: object, sock: object, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        told.append(reason)

    monkeypatch.setattr(tls, "disconnect", disconnect)
    connection: Any = SimpleNamespace(
        host=SimpleNamespace(unread=SimpleNamespace(forget=lambda debt: told.append("unread"))),
        sock=SimpleNamespace(queue=SimpleNamespace(emptied=trio.sleep_forever)),
        _life=trio.CancelScope(),
        _ending="a new key is wanted",
        _retired=True,
        _share=SimpleNamespace(close=lambda: told.append("share")),
        _reader=SimpleNamespace(close=lambda: told.append("reader")),
    )
    with trio.move_on_after(100) as limit:
        await incoming.Incoming.live(connection, trio.lowlevel.checkpoint)
    assert not limit.cancelled_caught
    assert trio.current_time() == pytest.approx(incoming.RETIRE_SECONDS)
    assert told == ["unread", "share", "reader", "a new key is wanted"]


@pytest.mark.parametrize("comes_up", [True, False])
async def test_nothing_listens_behind_a_server(
    comes_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where it could not come up."""
    opened: list[trio.socket.SocketType] = []

    async def noted(*of: Any) -> list[trio.socket.SocketType]:
        opened.extend(await listen(*of))
        return opened

    monkeypatch.setattr(serverhost, "listen", noted)
    place = tmp_path / "s"
    if not comes_up:
        place.write_text("in its place")
    hosts = ("127.0.0.1", "127.0.0.2")
    config = ServerConfig(hosts, 0, no_daemon=True, rundir=place)
    with nullcontext() if comes_up else pytest.raises(UmktlsError):
        async with boot_listening(config, attend) as listening:
            assert comes_up
            assert listening.listeners == opened
    assert [listener.fileno() for listener in opened] == [-1, -1]
