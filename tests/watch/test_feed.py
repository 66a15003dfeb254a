"""Events of hosts in one order, with their causes; records fetched from hosts that run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.cli.control import ANSWER_SECONDS, Host
from umktls.errors import CallerError, PeerError, WorldError
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.host.stepping import WATCHERS
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import Joined
from umktls.watch.causes import RULES, Causes
from umktls.watch.feed import Feed
from umktls.watch.recording import Recorder

Boot = Callable[..., AbstractAsyncContextManager[Joined]]


def event(kind: str, number: int, mono: float, host: str = "client-1", **more: Any) -> Any:
    base = {"event": kind, "number": number, "mono": mono, "host": host, "connection": None}
    return {**base, "side": host.partition("-")[0], "time": mono, "text": kind, **more}


def test_order_is_by_the_clock_that_all_share() -> None:
    feed = Feed()
    feed.take(event("probe", 1, 5.0, connection="c1"))
    feed.take(event("probe", 1, 4.0, "server-1", connection="s1"))
    feed.take(event("starttls", 2, 9.0, connection="c1"))
    feed.flush(6.0)
    assert [each["id"] for each in feed.events] == ["server-1/1", "client-1/1"]
    feed.flush()
    assert [each["id"] for each in feed.events][2:] == ["client-1/2"]


def test_no_event_comes_twice() -> None:
    feed = Feed()
    for _ in range(2):
        feed.take(event("probe", 1, 5.0))
        feed.flush()
    assert len(feed.events) == 1


@pytest.mark.parametrize("mono", [None, "soon", float("nan"), True])
def test_a_host_that_tells_nonsense(mono: Any) -> None:
    feed = Feed(mono=lambda: 3.0)
    feed.take(event("probe", 1, mono))
    feed.take({"event": "x", "number": "y"})
    feed.flush()
    assert [each["id"] for each in feed.events] == ["client-1/1"]


def test_rules_are_about_kinds_that_there_are() -> None:
    assert set(RULES) <= set(KINDS)
    made = {word.partition(" ")[0] for rule in RULES.values() for word in rule.leaves}
    wanted = {word.partition(" ")[0] for rule in RULES.values() for word in rule.after}
    assert wanted - {"{procedure}"} <= made


@pytest.mark.parametrize("first", ["client", "server"])
def test_both_ends_of_a_connection_find_each_other(first: str) -> None:
    causes = Causes()
    connect = event("tcp-connect", 1, 1.0, connection="c1", local="[::1]:700", peer="[::1]:2049")
    accept = event("tcp-accept", 1, 1.0, "server-1", connection="s1", peer="[::1]:700")
    for each in (connect, accept) if first == "client" else (accept, connect):
        causes.of({**each, "id": each["host"], "here": f"{each['host']}:{each['connection']}"})
    assert causes.others["client-1:c1"] == "server-1:s1"
    assert causes.others["server-1:s1"] == "client-1:c1"


def test_two_connections_of_one_host_are_not_one() -> None:
    causes = Causes()
    for number in (1, 2):
        peer = {"peer": "127.0.0.1:700", "connection": f"s{number}"}
        accept = event("tcp-accept", number, 1.0, "server-1", **peer)
        causes.of({**accept, "id": str(number), "here": f"server-1:s{number}"})
    assert causes.others == {}


@contextmanager
def followed(both: Joined, feed: Feed) -> Iterator[None]:
    """The feed has the events of both hosts while the block runs."""
    for host in (both.client, both.server):
        feed.hosts[host.name] = Host(host.rundir.path, host.describe())
    with both.client.trace.watched(feed.take), both.server.trace.watched(feed.take):
        yield


async def test_a_call_from_one_end_to_the_other(umktls_joined: Boot, autojump_clock: Any) -> None:
    feed = Feed()
    async with umktls_joined() as both:
        with followed(both, feed):
            await both.rpc.call(SAY, b"x", NULL_AUTH)
            await both.rpc.call(SAY, b"y", NULL_AUTH)
        feed.flush()
        client, server = both.client.name, both.server.name
    assert feed.causes.others[f"{client}:c1"] == f"{server}:s1"
    by_id = {each["id"]: each for each in feed.events}
    last = [each for each in feed.events if each["event"] == "reply-received"][-1]
    way = []
    while last["causes"]:
        last = by_id[last["causes"][0]]
        way.append((last["side"], last["event"]))
    assert way[:7] == [
        ("client", "record-opened"),
        ("server", "record-sealed"),
        ("server", "reply-sent"),
        ("server", "call-received"),
        ("server", "record-opened"),
        ("client", "record-sealed"),
        ("client", "call-sent"),
    ]


async def test_records_are_fetched_and_taken_apart(umktls_joined: Boot) -> None:
    feed = Feed()
    recorder = Recorder(feed)
    async with umktls_joined() as both:
        with followed(both, feed), trio.fail_after(patience(20)):
            await both.rpc.call(SAY, b"x" * 40_000, NULL_AUTH)
            feed.flush()
            await recorder.keep(list(feed.events))
            with pytest.raises(PeerError, match="kept no more"):
                await feed.record(both.client.name, 9999)
        with pytest.raises(CallerError, match="does not run"):
            await feed.record("nobody", 1)
    found = recorder.recording()["records"]
    sealed = [
        found[f"{each['host']}/{each['record']}"]
        for each in feed.events
        if each["event"] == "record-sealed" and each["side"] == "client" and each["type"] == 23
    ]
    assert [one["records"] for one in sealed] == [3, 3, 3]
    assert [one["part"][0] for one in sealed] == [0, 16384, 32768]
    assert all(one["tree"][1]["name"] == "RPC call" for one in sealed)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("told", [False, True])
async def test_keys_are_shown_where_both_host_and_viewer_want_it(
    umktls_joined: Boot, monkeypatch: pytest.MonkeyPatch, told: bool, asked: bool
) -> None:
    if told:
        monkeypatch.setenv("UMKTLS_SECRETS", "1")
    feed = Feed(secrets=asked)
    recorder = Recorder(feed)
    async with umktls_joined() as both:
        with followed(both, feed), trio.fail_after(patience(20)):
            await both.rpc.call(SAY, b"x", NULL_AUTH)
            feed.flush()
            await recorder.keep(list(feed.events))
    shown = {bool(one["secrets"]) for one in recorder.recording()["records"].values()}
    assert shown == {told and asked}


async def test_hosts_are_found_and_followed(umktls_joined: Boot, umktls_rundir: Path) -> None:
    feed = Feed(base=umktls_rundir)
    async with umktls_joined() as both, trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        with feed.listening() as messages, trio.fail_after(patience(20)):
            kinds = set()
            await both.rpc.call(SAY, b"x", NULL_AUTH)
            called, told = False, []
            async for message in messages:
                kinds.add(message["t"])
                told += message.get("events", [])
                if both.client.trace.close and not called:
                    called = True
                    await both.rpc.call(SAY, b"y", NULL_AUTH)
                if {"stat", "events", "pairs"} <= kinds and any("record" in e for e in told):
                    break
        nursery.cancel_scope.cancel()
    assert {each["host"] for each in feed.events} == {both.client.name, both.server.name}


async def test_hosts_of_a_lesson_are_shown_whatever_was_chosen(
    umktls_joined: Boot, umktls_rundir: Path
) -> None:
    feed = Feed(("another",), base=umktls_rundir)
    announced = umktls_rundir / WATCHERS.format(os.getpid())
    async with umktls_joined() as both, trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        with feed.showing(os.getpid()), trio.fail_after(patience(20)):
            assert json.loads(announced.read_text())["hosts"] == [str(os.getpid())]
            for host in (both.client, both.server):
                await host.trace.seen.wait()
        nursery.cancel_scope.cancel()
    assert not announced.exists()
    feed.flush()
    assert {each["host"] for each in feed.events} == {both.client.name, both.server.name}
    assert all(map(feed.is_guest, feed.events))
    assert not feed.is_guest(event("probe", 1, 5.0, "another"))


async def test_a_recorder_that_is_left_behind_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, asked = Feed(), set()

    async def fetched(host: str, number: int) -> dict[str, str]:
        asked.add((host, number))
        return {"wire": "", "plain": ""}

    monkeypatch.setattr(feed, "record", fetched)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Recorder(feed).run, lambda each: each["host"] == "client-1")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 600):
            for host in ("client-1", "server-1"):
                facts = {"connection": "c1", "record": number, "direction": "sent"}
                facts |= {"generation": 1, "sequence": number}
                feed.take(event("record-sealed", number, float(number), host, **facts))
            feed.flush()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert asked == {("client-1", number) for number in range(1, 600)}


async def test_who_listens_too_slowly_is_left_behind() -> None:
    feed = Feed()
    with feed.listening() as messages:
        for number in range(1, 600):
            feed.take(event("probe", number, float(number)))
            feed.flush()
        count = 0
        async for _ in messages:
            count += 1
    assert count == 500
    assert len(feed.events) == 599


def silent_server(monkeypatch: pytest.MonkeyPatch, feed: Feed) -> list[str]:
    """A client that answers, and a server that was stopped; who was asked."""
    asked: list[str] = []

    async def answer(host: Host, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(host.name)
        if host.name == "server-1":
            await trio.sleep(ANSWER_SECONDS)
            raise WorldError("host server-1 does not answer")
        return {"host": {"name": host.name}, "connections": []}

    monkeypatch.setattr("umktls.watch.hosts.answer", answer)
    for name in ("server-1", "client-1"):
        feed.hosts[name] = Host(Path("/nowhere"), {"name": name, "pid": 1})
    return asked


async def test_a_host_that_hangs_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, autojump_clock: Any
) -> None:
    """The boxes of all stood still as long as one was stopped, and a page that came was empty."""
    feed = Feed(base=tmp_path)
    asked = silent_server(monkeypatch, feed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        with feed.listening() as messages, trio.fail_after(ANSWER_SECONDS - 1):
            told = [await messages.receive() for _ in range(5)]
        assert asked.count("server-1") == 1
        nursery.cancel_scope.cancel()
    assert [[one["host"]["name"] for one in each["hosts"]] for each in told] == [["client-1"]] * 5


async def test_a_recording_does_not_wait_for_each_record_of_a_host_that_hangs(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A hundred records were a quarter of an hour, in which those of others were lost."""
    feed, came = Feed(), {}
    recorder = Recorder(feed)

    async def fetched(host: str, number: int) -> dict[str, str]:
        if host == "server-1":
            await trio.sleep(ANSWER_SECONDS)
            raise WorldError("host server-1 does not answer")
        came[number] = trio.current_time()
        return {"wire": "", "plain": ""}

    monkeypatch.setattr(feed, "record", fetched)
    begun = trio.current_time()
    both = ("server-1", "client-1")
    await recorder.keep(
        [event("record-sealed", n, 1.0, host, record=n) for n in range(9) for host in both]
    )
    assert trio.current_time() - begun == ANSWER_SECONDS
    assert set(came.values()) == {begun}
    assert len(recorder.recording()["records"]) == 9


async def test_what_many_hosts_are_at_is_kept_for_less_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twenty minutes of it were gigabytes where there were many connections."""
    monkeypatch.setattr("umktls.watch.feed.KEPT_STATES", 40)
    monkeypatch.setattr("umktls.watch.feed.KEPT_STATS", 30)
    many = [0]

    async def answer(host: Host, request: dict[str, Any]) -> dict[str, Any]:
        ends = [{"id": f"c{n}", "local": str(n), "peer": ""} for n in range(many[0])]
        return {"host": {"name": host.name}, "connections": ends}

    monkeypatch.setattr("umktls.watch.hosts.answer", answer)
    feed = Feed(base=tmp_path)
    feed.hosts["client-1"] = Host(Path("/nowhere"), {"name": "client-1", "pid": 1})
    for many[0], kept in ((0, 30), (9, 4), (99, 1), (0, 30)):
        for _ in range(50):
            await feed.ask_stat()
        assert len(feed.stats) == kept
