"""What the page's buttons do to a host on purpose, and what becomes of calls then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from umktls.errors import CallerError
from umktls.kernel.ground.events import Event
from umktls.kernel.host.meddling import MEDDLINGS
from umktls.kernel.sockets.watching import ALTERATIONS
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import Joined

Boot = Callable[..., AbstractAsyncContextManager[Joined]]
Clock = trio.testing.MockClock


def kinds(events: list[Event], side: str) -> list[str]:
    return [event["event"] for event in events if event["side"] == side]


@pytest.mark.parametrize("what", [*ALTERATIONS, "cut"])
async def test_calls_are_made_again_where_a_connection_is_spoilt(
    umktls_joined: Boot, autojump_clock: Clock, what: str
) -> None:
    """No byte that was altered comes through, and no call is lost or done with other bytes."""
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"before", NULL_AUTH)
        seen: list[Event] = []
        with both.client.trace.watched(seen.append), both.server.trace.watched(seen.append):
            assert both.client.meddle(what, "c1") == 1
            answers: list[bytes] = []

            async def say(text: bytes) -> None:
                answers.append(await both.rpc.call(SAY, text, NULL_AUTH))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(say, b"one")
                nursery.start_soon(say, b"two")
            assert sorted(answers) == [b"one", b"two"]
        if what != "cut":
            (refused,) = [event for event in seen if event["event"] == "record-refused"]
            assert refused["side"] == "server"
            assert refused["sequence"] == {"flip": 1, "replay": 2, "drop": 1, "hold": 1}[what]
    assert "meddled" in kinds(seen, "client")
    assert "reconnect" in kinds(seen, "client")
    assert MEDDLINGS[what][0] in next(e["text"] for e in seen if e["event"] == "meddled")


async def test_a_key_that_is_used_up_is_renewed(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"before", NULL_AUTH)
        both.client.renewals.policy = "keyupdate"
        assert both.client.meddle("expire", None) == 1
        await both.rpc.call(SAY, b"the last under this key", NULL_AUTH)
        await both.event("client", "rekey")
        await both.event("client", "tx-keys", 2)
        assert await both.rpc.call(SAY, b"after", NULL_AUTH) == b"after"


async def test_records_are_altered_only_while_somebody_watches(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"before", NULL_AUTH)
        with pytest.raises(CallerError, match="only while somebody watches"):
            both.client.meddle("flip", "c1")
        with pytest.raises(CallerError, match="nobody knows how to do 'sing'"):
            both.client.meddle("sing", None)
        with pytest.raises(CallerError, match="no connection"):
            both.client.meddle("cut", "c9")


async def test_daemons_are_killed_by_their_host(
    umktls_joined: Boot, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append(pid))
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"before", NULL_AUTH)
        assert both.client.meddle("kill-daemon", None) == 1
        assert killed == [both.client.handles["rpctlscd"][0].pid]
