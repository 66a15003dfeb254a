"""KTLS sockets of lessons that have no hosts, as who watches sees them."""

from __future__ import annotations

import json
import os

import pytest
import trio

from tests.conftest import patience
from tests.lessons.played import Listener
from umktls.kernel.host.rundir import own_base
from umktls.kernel.host.stepping import WATCHERS
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


async def test_keys_records_and_refusals_are_events_of_two_hosts() -> None:
    feed = await watched("sequence")
    events = [event for event in feed.events if f"-{os.getpid()}-" in event["host"]]
    assert {event["side"] for event in events} == {"client", "server"}
    refused = next(event for event in events if event["event"] == "record-refused")
    assert feed.causes.others[refused["here"]].endswith(":c2")
    keys = [event for event in events if event["event"] == "rx-keys"]
    assert [event["sequence"] for event in keys] == [1, *range(16)]


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_that_have_hosts_are_not_among_them(name: str) -> None:
    lesson = load(name)
    assert not (lesson.sockets and lesson.captured)
