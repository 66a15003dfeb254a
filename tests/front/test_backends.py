"""Which backend a client gets, and what becomes of those that do not answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.front.world import ONE, TWO, Talk, World, call, reply, world
from tests.passing import elapse
from umktls.errors import CallerError
from umktls.front.backends import MISSES, Backends, Place, Policy, Server, place
from umktls.kernel.ground.events import Trace
from umktls.rpc.message import Call, parse_untrusted

Clock = trio.testing.MockClock
BOTH = [Server(ONE), Server(TWO)]
CHECK = 5.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nas", Place("nas", 2049)),
        ("nas:20490", Place("nas", 20490)),
        ("192.0.2.1:1", Place("192.0.2.1", 1)),
        ("[2001:db8::1]:2049", Place("2001:db8::1", 2049)),
        ("[2001:db8::1]", Place("2001:db8::1", 2049)),
        ("2001:db8::1", Place("2001:db8::1", 2049)),
    ],
)
def test_places(text: str, expected: Place) -> None:
    assert place(text) == expected
    assert place(str(expected)) == expected


@pytest.mark.parametrize("text", ["", ":2049", "nas:", "nas:nfs", "nas:0", "nas:65536", "[]:1"])
def test_no_places(text: str) -> None:
    with pytest.raises(CallerError, match="is no server"):
        place(text)


class Played:
    """A client's connection."""

    def __init__(self, host: str) -> None:
        self.address: tuple[Any, ...] = (host, 1000)

    def end(self, reason: str) -> None:
        raise AssertionError(reason)


def order(backends: Backends, host: str = "198.51.100.1") -> list[str]:
    return [str(one) for one in backends.order((host, 1000))]


def some(choice: str, count: int = 3) -> Backends:
    servers = [Server(Place(f"192.0.2.{number}", 2049)) for number in range(1, count + 1)]
    return Backends(servers, Policy(choice), Trace("h", "server"))


def test_the_first_that_lives() -> None:
    backends = some("first")
    names = [str(one) for one in backends]
    assert order(backends) == names
    first, _, third = backends
    first.up = False
    assert order(backends) == [names[1], names[2], names[0]]
    # A client that is at the third already stays there, also when the first is back.
    third.join(Played("198.51.100.1"))
    assert order(backends)[0] == names[2]
    first.up = True
    assert order(backends)[0] == names[2]
    assert order(backends, "198.51.100.2")[0] == names[0]
    third.up = False
    assert order(backends)[0] == names[0]


def test_clients_are_spread_and_few_move() -> None:
    backends = some("client")
    hosts = [f"198.51.{n // 256}.{n % 256}" for n in range(900)]
    before = {host: order(backends, host)[0] for host in hosts}
    assert min(Counter(before.values()).values()) > 200
    gone = next(iter(backends))
    gone.up = False
    after = {host: order(backends, host)[0] for host in hosts}
    assert {host for host in hosts if before[host] != after[host]} == {
        host for host in hosts if before[host] == str(gone)
    }
    assert min(Counter(after.values()).values()) > 350


def test_a_client_is_at_home_until_its_last_connection_ends() -> None:
    backends = some("first")
    second = list(backends)[1]
    guests = [Played("198.51.100.1"), Played("198.51.100.1")]
    for guest in guests:
        second.join(guest)
    for guest in guests:
        assert order(backends)[0] == str(second)
        second.leave(guest)
        second.leave(guest)
    assert order(backends)[0] != str(second)


async def test_the_next_one_where_one_refuses(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, servers=BOTH) as here:
        here.servers.away.add(ONE)
        client = await here.sealed()
        client.say(call(1))
        two = await here.servers.next(TWO)
        assert await two.hear() == call(1)
        assert "192.0.2.10:2049 does not answer" in here.events("backend-down")[0]["text"]
        # It is not tried again while it is down and another one is not.
        await here.clear("203.0.113.1").say(call(2, procedure=0))
        await trio.testing.wait_all_tasks_blocked()
        assert here.servers.tries == [ONE, TWO]


async def nulls(here: World, where: Place, answer: bool = True) -> None:
    """A backend that answers checks; or hangs."""
    while True:
        talk = await here.servers.next(where)
        here.nursery.start_soon(null, talk, answer)


async def null(talk: Talk, answer: bool) -> None:
    while (message := await talk.hear()) is not None:
        heard = parse_untrusted(memoryview(message))
        if isinstance(heard, Call) and answer:
            await talk.say(reply(heard.xid))


async def test_a_backend_that_hangs_loses_its_clients(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, servers=BOTH, check_seconds=CHECK) as here:
        here.nursery.start_soon(nulls, here, ONE, False)
        here.nursery.start_soon(nulls, here, TWO)
        client = await here.sealed()
        client.say(call(1))
        await client.ended.wait()
        assert trio.current_time() == pytest.approx(MISSES * CHECK, abs=1)
        assert "no answer in 5 s" in here.events("backend-down")[0]["text"]
        again = await here.sealed()
        again.say(call(1))
        assert await again.hear() == reply(1)


async def test_where_there_is_no_other_clients_wait(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, check_seconds=CHECK) as here:
        here.nursery.start_soon(nulls, here, ONE, False)
        client = await here.sealed()
        client.say(call(1))
        await here.event("backend-down")
        await elapse(10 * CHECK)
        assert not client.ended.is_set()


async def test_a_backend_that_is_back(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, servers=BOTH, check_seconds=CHECK) as here:
        here.nursery.start_soon(nulls, here, ONE)
        here.servers.away.add(ONE)
        await here.event("backend-down")
        here.servers.away.clear()
        await here.event("backend-up")
        client = await here.sealed()
        client.say(call(1))
        assert await client.hear() == reply(1)
        first, _ = here.front.backends.view()
        assert (first["name"], first["up"], first["connections"]) == (str(ONE), True, 1)


async def test_checks_say_that_nobody_is_behind_them(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path, check_seconds=CHECK, proxy="v2") as here:
        talk = await here.servers.next()
        first = bytes(await talk.stream.receive_some(16))
        assert first == bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
        assert await talk.hear() is not None


async def test_other_backends_from_now_on(tmp_path: Path, autojump_clock: Clock) -> None:
    async with world(tmp_path) as here:
        client = await here.sealed()
        client.say(call(1))
        one = await here.servers.next(ONE)
        await one.hear()
        here.front.backends.replace([Server(TWO)])
        client.say(call(2))
        assert await one.hear() == call(2)  # it stays
        other = await here.sealed()
        other.say(call(3))
        assert await (await here.servers.next(TWO)).hear() == call(3)
