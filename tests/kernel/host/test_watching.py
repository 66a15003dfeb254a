"""A host that is watched closely: what its watchers hear, and that nobody pays for it otherwise."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from umktls.errors import CallerError
from umktls.kernel.ground.events import Event, Trace
from umktls.kernel.ground.kinds import KINDS
from umktls.kernel.ground.pace import MOST_STEPS, STEPS_PER_WINDOW, WINDOW_SECONDS, Pace
from umktls.kernel.ground.schema import problems
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.sockets.watching import KEPT_RECORDS, Kept, RecordStore
from umktls.ktls.socket.tap import OpenerTap, SealerTap
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.joined import Joined

Boot = Callable[..., AbstractAsyncContextManager[Joined]]
Clock = trio.testing.MockClock


@contextmanager
def watching(both: Joined) -> Any:
    """The events of both hosts, in their order."""
    seen: list[Event] = []
    with both.client.trace.watched(seen.append), both.server.trace.watched(seen.append):
        yield seen


def named(events: list[Event], side: str, *names: str) -> list[Event]:
    return [e for e in events if e["side"] == side and e["event"] in names]


def taps(sock: KernelSocket) -> tuple[bool, bool]:
    """Whether each half has one."""
    state = sock.state
    return isinstance(state.tx._sealer, SealerTap), isinstance(state.rx._opener, OpenerTap)


async def test_every_event_of_a_connection_is_as_the_schema_says(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined() as both:
        with watching(both) as seen:
            await both.rpc.call(SAY, b"x" * 20_000, NULL_AUTH)
            assert await both.client.rekey(None) == 1
            await both.rpc.call(SAY, b"more", NULL_AUTH)
            await both.kill("server")
    assert [found for event in seen for found in problems(event, KINDS)] == []
    kinds = {event["event"] for event in seen}
    assert {"call-sent", "call-received", "reply-sent", "reply-received"} <= kinds
    assert {"record-sealed", "record-opened", "half-state", "upcall-state", "syscall"} <= kinds
    assert json.loads(json.dumps(seen)) == seen
    for side in ("client", "server"):
        numbers = [event["number"] for event in seen if event["side"] == side]
        assert numbers == sorted(set(numbers))


async def test_a_call_is_followed_through_both_hosts(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"first", NULL_AUTH)
        with watching(both) as seen:
            await both.rpc.call(SAY, b"x" * 40_000, NULL_AUTH)
        told = [(e["side"], e["event"]) for e in seen]
        sealed = named(seen, "client", "record-sealed")
        opened = named(seen, "server", "record-opened")
        xids = {e["xid"] for e in seen if "xid" in e}
    assert told[0] == ("client", "call-sent")
    assert told[-1] == ("client", "reply-received")
    assert len(xids) == 1
    assert len(sealed) == 3  # of 16384 bytes at most
    for one, other in zip(sealed, opened, strict=True):
        same = ("sequence", "length", "bytes", "generation", "type")
        assert [one[name] for name in same] == [other[name] for name in same]
    assert sealed[0]["length"] == sealed[0]["bytes"] + 5 + 1 + 16


async def test_the_bytes_of_a_record(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"first", NULL_AUTH)
        with watching(both) as seen:
            await both.rpc.call(SAY, b"the words", NULL_AUTH)
            (sealed,) = named(seen, "client", "record-sealed")
            (opened,) = named(seen, "server", "record-opened")
            told = both.client.record(sealed["record"])
            other = both.server.record(opened["record"])
        assert told["wire"] == other["wire"]
        assert told["payload"] == other["payload"]
        assert b"the words" in base64.b64decode(told["payload"])
        assert len(base64.b64decode(told["wire"])) == sealed["length"]
        assert (told["tag_length"], told["explicit"], told["version"]) == (16, 0, 0x0304)
        assert "key" not in told
        with pytest.raises(CallerError, match="kept no more"):
            both.client.record(sealed["record"])


async def test_keys_are_told_only_where_the_host_was_started_so(
    umktls_joined: Boot, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMKTLS_SECRETS", "1")
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"first", NULL_AUTH)
        with watching(both) as seen:
            await both.rpc.call(SAY, b"the words", NULL_AUTH)
            told = both.client.record(named(seen, "client", "record-sealed")[0]["record"])
            sock = next(iter(both.client.sockets.values()))
            session = sock.state.session("tx")
            assert session is not None
            assert bytes.fromhex(told["key"]) == bytes(session.key)
            assert bytes.fromhex(told["iv"]) == bytes(session.iv)
            assert told["key"] not in json.dumps(seen)


async def test_sockets_have_taps_only_while_somebody_watches(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"first", NULL_AUTH)
        sock = next(iter(both.client.sockets.values()))
        assert taps(sock) == (False, False)
        with watching(both), watching(both):
            assert taps(sock) == (True, True)
            assert await both.client.rekey(None) == 1  # a new key has one too
            assert taps(sock) == (True, True)
        assert taps(sock) == (False, False)
        assert not both.client.trace.close
        assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"


def test_too_many_steps_are_counted_and_not_told() -> None:
    clock = [10 * WINDOW_SECONDS]
    trace = Trace("h", "client", mono=lambda: clock[0])
    seen: list[Event] = []
    trace.step("half-state", "c1", direction="sent", state="SEALED")
    with trace.watched(seen.append):
        for _ in range(MOST_STEPS + 7):
            trace.step("half-state", "c1", direction="sent", state="SEALED")
        assert len(seen) == MOST_STEPS
        trace.emit("probe", "c1")  # what is always told is told
        clock[0] += WINDOW_SECONDS
        trace.step("half-state", "c1", direction="sent", state="SEALED")
        trace.step("half-state", "c1", direction="sent", state="SEALED")
    assert [event.get("skipped") for event in seen[-3:]] == [None, 7, None]
    assert list(trace.since()) == [seen[MOST_STEPS]]


def test_of_a_host_with_little_to_do_all_is_told() -> None:
    """A handshake or a few calls, every ten seconds."""
    seconds = [1000.0]
    pace = Pace(lambda: seconds[0])
    for _ in range(100):
        assert all(pace.take() for _ in range(50))
        seconds[0] += 10


def test_windows_are_the_same_for_all_hosts() -> None:
    windows = [3.1]
    one, other = (Pace(lambda: windows[0] * WINDOW_SECONDS) for _ in range(2))
    for _ in range(MOST_STEPS):
        assert one.take()
    windows[0] = 3.9
    assert not one.take()
    assert other.take()
    windows[0] = 4.0
    assert other.take()
    assert [one.take() for _ in range(STEPS_PER_WINDOW)].count(True) == 100
    windows[0] = 4.9
    assert not one.take()
    windows[0] = 9.0
    assert one.take()


def test_records_are_kept_within_bounds() -> None:
    store = RecordStore()
    numbers = [
        store.keep(Kept("c1", "tx", 23, n, bytes(10), bytes(5), {}))
        for n in range(KEPT_RECORDS + 3)
    ]
    assert store.get(numbers[2]) is None
    kept = store.get(numbers[3])
    assert kept is not None
    assert kept.sequence == 3
    big = store.keep(Kept("c1", "tx", 23, 0, bytes(9 << 20), b"", {}))
    bigger = store.keep(Kept("c1", "tx", 23, 0, bytes(9 << 20), b"", {}))
    assert store.get(big) is None
    assert store.get(bigger) is not None


def test_as_many_bytes_are_kept_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umktls.kernel.sockets.watching.KEPT_BYTES", 30)
    store = RecordStore()
    first, second = (store.keep(Kept("c1", "tx", 23, 0, bytes(10), bytes(5), {})) for _ in "12")
    assert store.get(first) is not None
    third = store.keep(Kept("c1", "tx", 23, 0, b"1", b"", {}))
    assert [store.get(number) is None for number in (first, second, third)] == [True, False, False]
