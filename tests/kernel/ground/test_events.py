"""The trace: lines for people, the ring, subscribers."""

from __future__ import annotations

import pytest

from umktls.kernel.ground.events import TEXTS, Event, Trace, describe


def test_an_event_says_when_where_and_what() -> None:
    trace = Trace("client-1", "client", clock=lambda: 12.5, mono=lambda: 3.5)
    trace.emit("tcp-connect", "c1", peer="127.0.0.1:2049", local="127.0.0.1:700")
    (event,) = trace.since()
    assert event == {
        "time": 12.5,
        "mono": 3.5,
        "number": 1,
        "host": "client-1",
        "side": "client",
        "connection": "c1",
        "event": "tcp-connect",
        "text": "TCP connection to 127.0.0.1:2049 from 127.0.0.1:700",
        "peer": "127.0.0.1:2049",
        "local": "127.0.0.1:700",
    }


@pytest.mark.parametrize("event", sorted(TEXTS))
def test_a_line_survives_missing_and_wrong_fields(event: str) -> None:
    assert describe(event, {})
    assert describe(event, {"seconds": "soon", "pid": None})


def test_the_line_is_made_once_and_only_for_somebody_who_reads_it() -> None:
    made: list[str] = []

    class Reason:
        def __format__(self, _: str) -> str:
            made.append("made")
            return "too late"

    trace = Trace("h", "client")
    trace.emit("warning", "c1", reason=Reason())
    assert made == []
    assert [[event["text"] for event in trace.since()] for _ in range(2)] == [["too late"]] * 2
    assert made == ["made"]
    seen: list[Event] = []
    with trace.subscribed(seen.append):
        trace.emit("warning", "c1", reason=Reason())
    assert [event["text"] for event in seen] == ["too late"]
    assert len(made) == 2


def test_what_a_daemon_sends_cannot_pretend_to_be_somebody_else() -> None:
    trace = Trace("client-1", "client", clock=lambda: 1.0)
    fields = {"time": 0, "host": "server-9", "side": "server", "text": "lies"}
    trace.emit("warning", "c1", **fields, reason="true")
    (event,) = trace.since()
    assert (event["time"], event["host"], event["side"]) == (1.0, "client-1", "client")
    assert event["text"] == "true"


def test_the_ring_keeps_the_newest_and_since_filters() -> None:
    times = iter([1.0, 2.0, 3.0])
    trace = Trace("h", "client", clock=lambda: next(times), size=2)
    for name in ("a", "b", "c"):
        trace.emit(name)
    assert [event["event"] for event in trace.since()] == ["b", "c"]
    assert [event["event"] for event in trace.since(2.5)] == ["c"]


def test_subscribers_get_events_while_they_are_subscribed() -> None:
    trace = Trace("h", "client")
    seen: list[Event] = []
    with trace.subscribed(seen.append):
        trace.emit("inside")
    trace.emit("outside")
    assert [event["event"] for event in seen] == ["inside"]
