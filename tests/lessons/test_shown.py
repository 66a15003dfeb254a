"""KTLS sockets of lessons that have no hosts, as who watches sees them."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from tests.lessons.played import Listener
from tests.passing import elapse
from umktls.kernel.host.host import Host
from umktls.kernel.host.rundir import own_base
from umktls.kernel.host.stepping import WATCHERS
from umktls.lessons.hosts import LOOKED_AT_LONGEST, LOOKED_AT_SECONDS, looked_at
from umktls.lessons.player import play
from umktls.lessons.table import LESSONS, load
from umktls.watch.feed import Feed


async def watched(name: str) -> Feed:
    """What a page has heard of a lesson that was played in front of it."""
    base = own_base()
    path = base / WATCHERS.format(os.getppid())
    path.write_text(json.dumps({"pid": os.getppid(), "hosts": [str(os.getpid())]}))
    feed = Feed(base=base)
    try:
        with trio.fail_after(patience(30)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run)
                await play(name, Listener([]))
                nursery.cancel_scope.cancel()
    finally:
        path.unlink()
    feed.flush()
    return feed


async def test_keys_records_and_refusals_are_events_of_two_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stayed: list[set[str]] = []

    async def looked(*hosts: Host) -> None:
        await looked_at(*hosts)
        stayed.append({host.name for host in hosts})

    monkeypatch.setattr("umktls.lessons.shown.looked_at", looked)
    feed = await watched("sequence")
    events = [event for event in feed.events if f"-{os.getpid()}-" in event["host"]]
    assert {event["side"] for event in events} == {"client", "server"}
    refused = next(event for event in events if event["event"] == "record-refused")
    assert feed.causes.others[refused["here"]].endswith(":c2")
    keys = [event for event in events if event["event"] == "rx-keys"]
    assert [event["sequence"] for event in keys] == [1, *range(16)]
    assert stayed == [{event["host"] for event in events}]


@pytest.mark.parametrize(
    ("watched", "asks", "seconds"),
    [
        (False, 0, 0.0),
        (True, 0, LOOKED_AT_SECONDS),
        (True, 3, 4 * LOOKED_AT_SECONDS),
        (True, 1000, LOOKED_AT_LONGEST),
    ],
)
async def test_hosts_stay_while_their_records_are_asked_for(
    autojump_clock: trio.testing.MockClock, watched: bool, asks: int, seconds: float
) -> None:
    host: Any = SimpleNamespace(
        trace=SimpleNamespace(close=watched), watching=SimpleNamespace(asked=0)
    )

    async def ask() -> None:
        await elapse(LOOKED_AT_SECONDS / 2)
        for _ in range(asks):
            host.watching.asked += 1
            await elapse(LOOKED_AT_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await looked_at(host)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == seconds


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_that_have_hosts_are_not_among_them(name: str) -> None:
    lesson = load(name)
    assert not (lesson.sockets and lesson.captured)
