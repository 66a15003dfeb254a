"""Whose turn it is when somebody asks for new keys of many connections. In memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from umktls.kernel.host.host import Host
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import renewal
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.server import Dispatcher
from umktls.testing.echo import SAY, Echo
from umktls.testing.joined import Joined, client_of
from umktls.testing.standin import Live, StandIn

Boot = Callable[..., AbstractAsyncContextManager[Joined]]
Clock = trio.testing.MockClock

# Virtual seconds that a daemon takes for an upcall where it is late.
LATE = 5.0
OTHER = {"client": "server", "server": "client"}
both_sides = pytest.mark.parametrize("side", ["client", "server"])
patient = pytest.mark.usefixtures("_patient")


@pytest.fixture(autouse=True)
def _daemons_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A played daemon tells the kernel of the peer's KeyUpdates, as the real ones do."""
    handle_record = StandIn._handle_record

    async def told(self: StandIn, session: Live) -> None:
        await handle_record(self, session)
        event = {"event": "key-update", "fd": session.fd, "direction": "received"}
        await self._trace(event)

    monkeypatch.setattr(StandIn, "_handle_record", told)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is as patient as can be."""
    for name in ("TURN_SECONDS", "LINE_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(renewal, name, 100 * LATE)


def another(both: Joined) -> Callable[[], Awaitable[None]]:
    """A client whose connection leads over the same wire; returns what makes its first call."""
    config = MountConfig("localhost", "/", security="tls", deadline=60.0)
    dispatcher = Dispatcher([Echo().service()])
    rpc = client_of(both.client, both.server, config, dispatcher, both.wire, both.nursery)
    both.nursery.start_soon(rpc.run)

    async def say() -> None:
        assert await rpc.call(SAY, b"", NULL_AUTH) == b""

    return say


async def connections(both: Joined, number: int) -> None:
    """So many in all, one after another."""
    assert await both.rpc.call(SAY, b"", NULL_AUTH) == b""
    for _ in range(1, number):
        await another(both)()


def host_of(both: Joined, side: str) -> Host:
    return both.client if side == "client" else both.server


def in_turn(both: Joined, side: str) -> list[KernelSocket]:
    """The connections of a side in the order of their turns."""
    sockets = list(host_of(both, side).sockets.values())
    return sockets if side == "client" else sockets[::-1]


def of_peer(both: Joined, side: str, sock: KernelSocket) -> str:
    """The name that the other side has for a connection of this one."""
    number = list(host_of(both, side).sockets.values()).index(sock)
    return list(host_of(both, OTHER[side]).sockets)[number]


def times(sock: KernelSocket) -> tuple[int, int]:
    return sock.state.keys_set["tx"], sock.state.keys_set["rx"]


async def ask(both: Joined, side: str, counts: dict[str, int]) -> None:
    """Ask for new keys of all connections of that side, with this outcome."""
    assert await host_of(both, side).renew(None, "keyupdate") == counts


@asynccontextmanager
async def asking(both: Joined, side: str, *expected: int) -> AsyncIterator[None]:
    """Somebody asks for new keys of all connections; in the end so many have them, and of so many
    the peer has not answered."""
    counts = {"rekeyed": expected[0], "reconnected": 0}
    if expected[1:]:
        counts["unanswered"] = expected[1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, both, side, counts)
        await trio.testing.wait_all_tasks_blocked()
        yield


def story(both: Joined, side: str) -> list[tuple[str, str]]:
    """What the trace has of new keys, with the connection's name."""
    events = both.events(side, "rekey", "key-update")
    return [(event["event"], event["connection"]) for event in events]


@both_sides
@patient
async def test_one_after_the_other(umktls_joined: Boot, autojump_clock: Clock, side: str) -> None:
    """A call waits for new keys of its own connection only: the others go on under their old ones
    until it is their turn."""
    async with umktls_joined() as both:
        await connections(both, 3)
        both.daemon(OTHER[side]).late = LATE
        names = [sock.name for sock in in_turn(both, side)]
        async with asking(both, side, 3):
            assert story(both, side) == [("rekey", names[0])]
        assert story(both, side) == [
            (what, each) for each in names for what in ("rekey", "key-update")
        ]
        assert [times(sock) for sock in in_turn(both, side)] == [(2, 2)] * 3


async def test_an_answer_is_looked_for_where_no_call_is_out(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    """A client looks at such a connection now and then only, otherwise."""
    async with umktls_joined() as both:
        await connections(both, 2)
        start = trio.current_time()
        await ask(both, "client", {"rekeyed": 2, "reconnected": 0})
        assert trio.current_time() == start


@pytest.mark.parametrize("seconds", [2.5, 100.0])
async def test_a_peer_that_takes_its_time_costs_the_others_a_moment(
    umktls_joined: Boot, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It may answer when it has something to send (RFC 8446 section 4.6.3). So each wait that was
    in vain makes the next one shorter, and all together have an end."""
    one = renewal.TURN_SECONDS
    monkeypatch.setattr(renewal, "LINE_SECONDS", seconds * one)
    began: list[float] = []
    async with umktls_joined() as both:
        await connections(both, 6)
        rest = in_turn(both, "client")[2:]
        both.server_daemon.late = LATE
        start = trio.current_time()

        def look(event: dict[str, Any]) -> None:
            if event["event"] == "rekey":
                began.append((trio.current_time() - start) / one)
                if event["connection"] == rest[1].name:
                    both.server_daemon.late = 0.0
                elif event["connection"] == rest[2].name:
                    both.server_daemon.late = LATE

        with both.client.trace.subscribed(look):
            async with asking(both, "client", 6, 5):
                pass
        assert began == pytest.approx([0, 1, 1.5, 1.75, 1.75, min(2.75, seconds)], abs=0.001)


@both_sides
@patient
@pytest.mark.parametrize("late", [0.0, LATE])
async def test_what_the_peer_has_renewed_meanwhile(
    umktls_joined: Boot, autojump_clock: Clock, side: str, late: float
) -> None:
    """Both directions have new keys then, and they need no others; also if that is under way only
    when it is their turn."""
    async with umktls_joined() as both:
        await connections(both, 2)
        first, second = in_turn(both, side)
        both.daemon(OTHER[side]).late = LATE
        async with asking(both, side, 2):
            both.daemon(OTHER[side]).late = 0.0
            autojump_clock.jump(LATE / 2)
            both.daemon(side).late = late
            host = host_of(both, OTHER[side])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.renew, of_peer(both, side, second), "keyupdate")
                await both.event(side, "control-record")
                await trio.testing.wait_all_tasks_blocked()
                both.daemon(side).late = 0.0
        asked = [event["connection"] for event in both.events(side, "rekey")]
        assert asked == [first.name]
        assert times(first) == times(second) == (2, 2)


@patient
@pytest.mark.parametrize("direction", ["tx", "rx"])
async def test_one_direction_alone_is_not_enough(
    umktls_joined: Boot, autojump_clock: Clock, direction: str
) -> None:
    """As where the peer has new keys and has not asked for ours."""
    async with umktls_joined() as both:
        await connections(both, 2)
        both.server_daemon.late = LATE
        second = in_turn(both, "client")[1]
        async with asking(both, "client", 2):
            second.state.keys_set[direction] += 1  # type: ignore[index]
        assert ("rekey", second.name) in story(both, "client")


@patient
async def test_hosts_that_renew_at_the_same_time_meet(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    """Each has done about half of the work, and has it that all were renewed."""
    number = 8
    async with umktls_joined() as both:
        await connections(both, number)
        both.client_daemon.late = both.server_daemon.late = 1.0
        async with trio.open_nursery() as nursery:
            for side in OTHER:
                nursery.start_soon(ask, both, side, {"rekeyed": number, "reconnected": 0})
        done = [len(both.events(side, "rekey")) for side in OTHER]
        assert max(done) < number
        assert number <= sum(done) <= number + 2  # where they meet, both may
        assert min(times(sock) for sock in in_turn(both, "client")) == (2, 2)


@patient
async def test_a_key_near_its_limit_does_not_stand_in_line(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined() as both:
        await connections(both, 3)
        both.server_daemon.late = LATE
        last = in_turn(both, "client")[-1]
        async with asking(both, "client", 3):
            both.server_daemon.late = 0.0
            both.client.renewals.update_received(last)
            await both.client.renewals.at_limit(last)
            assert story(both, "client")[-1] == ("rekey", last.name)
            assert len(both.events("client", "rekey")) == 2


@patient
async def test_a_daemon_that_hangs_holds_up_its_own_only(
    umktls_joined: Boot, autojump_clock: Clock
) -> None:
    async with umktls_joined(upcall_seconds=100 * LATE) as both:
        await connections(both, 1)
        other = StandIn("client", both.client.rundir.path)
        await both.nursery.start(other.run)
        both.client_daemon.late = 1.0
        async with trio.open_nursery() as nursery:  # there is room for both with the two of them
            for _ in range(2):
                nursery.start_soon(another(both))
        both.client_daemon.late = LATE
        assert other.upcalls == ["CONNECT"]
        async with asking(both, "client", 3):
            (sock,) = (sock for sock in in_turn(both, "client") if times(sock) == (2, 2))
            assert other.upcalls == ["CONNECT", "REKEY", "HANDLERECORD"]
            assert sock.owner.upcalls["rekey"] == 1


@patient
async def test_one_that_ends_in_line(umktls_joined: Boot, autojump_clock: Clock) -> None:
    """It gets no new keys, and the others do."""
    async with umktls_joined() as both:
        await connections(both, 3)
        both.server_daemon.late = LATE
        first, second, third = in_turn(both, "client")
        async with asking(both, "client", 2):
            second.close("the test wants it")
        asked = [event["connection"] for event in both.events("client", "rekey")]
        assert asked == [first.name, third.name]
