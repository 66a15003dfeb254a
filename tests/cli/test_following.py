"""The events of many hosts in one stream, of hosts that answer as they are told to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fakes import describe, fake_host
from tests.conftest import patience
from umktls.cli import control, following
from umktls.cli.control import Host, find_hosts
from umktls.errors import CallerError, WorldError
from umktls.kernel.host import kept

SECONDS = 20
NO_PROCESS = 1 << 22  # numbers of processes are below it


def event(time: float, text: str) -> bytes:
    return json.dumps({"time": time, "text": text}).encode()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path))
    return tmp_path


def keep(pid: int, *events: bytes, **facts: Any) -> None:
    """Something of a host that has failed."""
    names = {"name": f"client-{pid}", "role": "client", "pid": pid}
    kept.keep(Path("/no/such"), {**names, **facts}, [json.loads(event) for event in events])


def first_texts(count: int, events: Iterator[dict[str, Any]]) -> list[str]:
    """Of a stream without end: the first texts, each within a deadline."""
    texts: list[str] = []

    def read() -> None:
        texts.extend(event["text"] for event in islice(events, count))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(patience(SECONDS))
    assert not thread.is_alive(), texts
    return texts


def test_past_merges_by_time(base: Path) -> None:
    one = {"trace": [event(1, "a"), event(4, "d")]}
    two = {"trace": [event(2, "b"), event(3, "c")]}
    with fake_host(base, "client-1", one), fake_host(base, "server-1", two) as requests:
        events = following.past(find_hosts(base), since=0.5)
    assert [e["text"] for e in events] == ["a", "b", "c", "d"]
    assert requests == [{"op": "trace", "since": 0.5, "follow": False}]


def test_the_past_of_what_has_failed(base: Path) -> None:
    keep(7, event(1, "a"), event(3, "c"))
    with fake_host(base, "server-1", {"trace": [event(2, "b")]}):
        texts = [e["text"] for e in following.past(following.with_failed(None))]
        assert texts == ["a", "b", "c"]
        for name in ("client-7", "7", str(base / "failed" / "client-7")):
            (failed,) = following.with_failed(name)
            assert [e["text"] for e in failed.trace(2)] == ["c"]
    with pytest.raises(CallerError, match="no host is called client-8"):
        following.with_failed("client-8")


def test_follow_ends_with_the_last_host(base: Path) -> None:
    one, two = {"trace": [event(1, "a")]}, {"trace": [event(2, "b")]}
    with fake_host(base, "client-1", one), fake_host(base, "server-1", two) as requests:
        texts = [e["text"] for e in following.follow_hosts(find_hosts(base), 0.0)]
    assert sorted(texts) == ["a", "b"]
    assert requests[0]["follow"] is True


def test_follow_says_when_a_host_does_not_answer(base: Path) -> None:
    describe(base, "server-1")
    (warning,) = following.follow_hosts(find_hosts(base), 0.0)
    assert warning["event"] == "warning"
    assert "server-1 does not answer" in warning["text"]


def test_hosts_that_come_up_later_are_followed(base: Path) -> None:
    """And each one once, though it is found again and again."""
    events = following.follow_all(0.0)
    with fake_host(base, "server-1", {"trace": [event(1, "a")]}) as requests:
        assert first_texts(1, events) == ["a"]
        with fake_host(base, "client-1", {"trace": [event(2, "b"), event(3, "c")]}):
            assert first_texts(2, events) == ["b", "c"]
        assert len(requests) == 1


def test_what_failed_unseen_is_told_once(base: Path) -> None:
    keep(6, event(1, "long ago"))
    events = following.follow_all(2.0)
    with fake_host(base, "server-1", {"trace": [event(2, "a")]}):
        assert first_texts(1, events) == ["a"]
        keep(7, event(3, "b"), event(4, "c"))
        assert first_texts(2, events) == ["b", "c"]
        keep(8, event(5, "d"))
        assert first_texts(1, events) == ["d"]


def test_a_host_that_fails_while_it_is_followed(base: Path) -> None:
    """What it could not say any more is read where it is kept, and nothing comes twice."""
    with fake_host(base, "client-1", {"trace": [event(3, "a")]}):
        (host,) = find_hosts(base)
        keep(host.pid, event(3, "a"), event(4, "b"), name="client-1")
        assert [e["text"] for e in following.follow_hosts([host], 0.0)] == ["a", "b"]


def test_what_nobody_reads_waits_in_its_host(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it was kept, without limit, where the output stood (a pager, for instance)."""
    monkeypatch.setattr(following, "QUEUED", 5)
    many = [event(number, str(number)) for number in range(100)]
    keep(7, *many)
    with fake_host(base, "server-1", {"trace": many}):
        follower = following.Following(0.0, base)
        follower.look()
        told = [follower.events.get(timeout=patience(SECONDS)) for _ in range(201)]
        assert follower.events.maxsize == 5
    texts = sorted(int(each["text"]) for each in told if each is not None)
    assert texts == sorted([*range(100), *range(100)])


def test_a_host_in_whose_place_somebody_else_answers(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This was a traceback, and the command waited for ever."""
    monkeypatch.setattr(control, "peer_credentials", lambda sock: (7, os.geteuid() + 1, 1))
    with fake_host(base, "server-1", {"trace": [event(1, "a")]}):
        events = following.follow_hosts(find_hosts(base), 0.0)
        (text,) = first_texts(2, events)
    assert "process 7 of another user" in text


def test_the_past_of_others_where_one_host_hangs_or_has_just_gone(base: Path) -> None:
    """One that was stopped, or ended at that moment, cost the events of all."""
    keep(7, event(1, "a"))
    describe(base, "client-1")
    with fake_host(base, "server-1", {"trace": [event(2, "b")]}):
        hosts = following.with_failed(None)
        gone = Host(base / "client-9", {"name": "client-9", "pid": NO_PROCESS})
        texts = [e["text"] for e in following.past([gone, *hosts])]
    assert texts[:2] == ["a", "b"]
    (silent,) = texts[2:]
    assert "client-1 does not answer" in silent
    with pytest.raises(WorldError, match="client-1 does not answer"):
        following.past(following.with_failed("client-1"))
