"""Nobody is waited for, for ever, when a session ends: neither a peer nor a daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import handover, tls
from umktls.ktls.engines import Route

Clock = trio.testing.MockClock


async def test_a_peer_that_reads_nothing_does_not_keep_a_session_that_is_cut(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async def for_ever(sock: KernelSocket) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(handover, "say_goodbye", for_ever)
    done: list[Any] = []
    sock: Any = SimpleNamespace(
        detours=SimpleNamespace(shut=lambda: done.append("detours")), shutdown=done.append
    )
    with trio.move_on_after(30) as limit:
        await handover.cut(sock)
    assert not limit.cancelled_caught
    assert done == ["detours", 2]


async def test_a_daemon_that_hangs_up_and_lives_has_not_left(
    autojump_clock: Clock,
) -> None:
    handle: Any = SimpleNamespace(gone=trio.Event())
    has_left: Any = handover.Handover.has_left
    with trio.move_on_after(30) as limit:
        assert not await has_left(None, handle)
    assert not limit.cancelled_caught
    handle.gone.set()
    assert await has_left(None, handle)


async def test_a_daemon_that_says_nothing_does_not_keep_a_session_that_ends(
    autojump_clock: Clock,
) -> None:
    closed: list[str] = []
    sock: Any = SimpleNamespace(
        name="c1",
        closed=False,
        phase="established",
        session=object(),
        rpc=SimpleNamespace(fault=None),
        detours=SimpleNamespace(
            finish_sending=trio.sleep_forever, route=lambda direction: Route.BOUNCE
        ),
        close=closed.append,
    )

    async def never(sock: object, until: float) -> None:
        await trio.sleep_forever()

    handover = SimpleNamespace(end=lambda sock: None, attended=never)
    host: Any = SimpleNamespace(trace=Trace("h", "client"), handover=handover, upcall_seconds=15.0)
    began = trio.current_time()
    await tls.disconnect(host, sock, "the mount ended")  # which nothing cancels
    assert trio.current_time() - began < 60
    assert closed == ["the mount ended"]
