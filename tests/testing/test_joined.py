"""Hosts joined in memory, on a virtual clock: what a fault on the wire or a bad daemon leads to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import COUNT, SAY
from umktls.testing.joined import Joined
from umktls.testing.wire import Action, alter, byte_by_byte, cut, delay, drop

Boot = Callable[..., AbstractAsyncContextManager[Joined]]
Clock = trio.testing.MockClock


async def test_calls_go_sealed_and_take_no_time(umktls_joined: Boot, autojump_clock: Clock) -> None:
    began = trio.current_time()
    async with umktls_joined() as both:
        for length in (0, 1, 70_000):
            assert await both.rpc.call(SAY, b"x" * length, NULL_AUTH) == b"x" * length
        (mode,) = both.events("server", "mode")
        assert both.client_daemon.upcalls == both.server_daemon.upcalls == ["CONNECT"]
        took = trio.current_time() - began
    assert (mode["tx"], mode["rx"]) == ("SW", "SW")
    assert took < 1


@pytest.mark.parametrize("names", [("umktls", "umktls"), ("linux", "umktls"), ("linux", "linux")])
async def test_new_keys(umktls_joined: Boot, autojump_clock: Clock, names: tuple[str, str]) -> None:
    client, server = (PERSONALITIES[name] for name in names)
    async with umktls_joined(client=client, server=server) as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        assert await both.client.rekey(None) == 1
        assert await both.server.rekey(None) == 1
        assert await both.rpc.call(SAY, b"still here", NULL_AUTH) == b"still here"
        await both.event("client", "rx-keys", 3)


TICKET = b"\4\0\0\x0e" + bytes(14)


@pytest.mark.parametrize("name", ["umktls", "linux"])
async def test_new_keys_behind_another_message(
    umktls_joined: Boot, autojump_clock: Clock, name: str
) -> None:
    """In one record, while calls are answered: what is sent behind it waits for the new key."""
    kernel = PERSONALITIES[name]
    async with umktls_joined(client=kernel, server=kernel) as both:
        both.server_daemon.before_update = both.client_daemon.before_update = TICKET

        async def talk() -> None:
            for number in range(30):
                data = bytes([number]) * 100
                assert await both.rpc.call(SAY, data, NULL_AUTH) == data

        with trio.fail_after(patience(600)):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(talk)
                await both.event("client", "first-rpc", 2)
                for _ in range(5):
                    assert await both.server.rekey(None) == 1
                    assert await both.client.rekey(None) == 1
            await both.event("client", "rx-keys", 11)
        assert both.client.totals["connections"] == 1


@pytest.mark.parametrize("action", [drop, alter, cut])
@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_what_the_wire_breaks_is_made_good_by_a_new_connection(
    umktls_joined: Boot, autojump_clock: Clock, action: Callable[[], Action], way: str
) -> None:
    """And a call is executed once, whether it was the call or its reply that was lost."""
    async with umktls_joined() as both:
        assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 1
        assert way in ("to_server", "to_client")
        both.wire.fault("to_server" if way == "to_server" else "to_client", action())
        with trio.fail_after(patience(600)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(both.rpc.call, SAY, b"the next record", NULL_AUTH)
                assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 2
        connections = both.client.totals["connections"]
    assert connections == 2


async def test_a_slow_wire(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        await both.rpc.call(SAY, b"", NULL_AUTH)
        both.wire.fault("to_client", delay(40))
        began = trio.current_time()
        assert await both.rpc.call(SAY, b"patience", NULL_AUTH) == b"patience"
        assert trio.current_time() - began >= 40
        both.wire.fault("to_client", delay(100))
        with pytest.raises(UmktlsError, match="no answer"):
            await both.rpc.call(SAY, b"too slow", NULL_AUTH)


async def test_a_wire_that_carries_single_bytes(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        for way in ("to_server", "to_client"):
            both.wire.fault(way, byte_by_byte(), times=20)
        assert await both.rpc.call(SAY, b"crumbs" * 50, NULL_AUTH) == b"crumbs" * 50


async def test_units_are_counted_and_skipped(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        both.wire.fault("to_server", cut(), skip=2)
        assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 1
        assert both.wire.passed == {"to_server": 2, "to_client": 2}  # probe and call
        assert await both.rpc.call(COUNT, 0, NULL_AUTH) == 2
        assert both.client.totals["connections"] == 2


@pytest.mark.parametrize("role", ["client", "server"])
async def test_a_silent_daemon_costs_one_upcalls_time(
    umktls_joined: Boot, autojump_clock: Clock, role: str
) -> None:
    async with umktls_joined(deadline=20) as both:
        daemon = both.client_daemon if role == "client" else both.server_daemon
        daemon.silent = True
        host = both.client if role == "client" else both.server
        with pytest.raises(UmktlsError):
            await both.rpc.call(SAY, b"", NULL_AUTH)
        answered = next(e for e in host.trace.since() if e["event"] == "upcall-answered")
    assert answered["seconds"] == pytest.approx(15, abs=0.1)
    assert "did not answer CONNECT within 15 s" in answered["result"]


async def test_a_late_answer_is_too_late(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined(deadline=60) as both:
        both.client_daemon.late = 20
        both.rpc.deadline = 19
        with pytest.raises(UmktlsError, match="did not answer CONNECT"):
            await both.rpc.call(SAY, b"", NULL_AUTH)
        both.client_daemon.late = 0
        late = await both.event("client", "late-answer")
        assert await both.rpc.call(SAY, b"again", NULL_AUTH) == b"again"
    assert late["procedure"] == "CONNECT"
    assert late["connection"] == "c1"


async def test_a_refusal_has_the_daemons_reason(umktls_joined: Boot, autojump_clock: Clock) -> None:
    async with umktls_joined() as both:
        both.client_daemon.refuse = "the moon is full"
        with pytest.raises(UmktlsError, match="the moon is full; turn the switch"):
            await both.rpc.call(SAY, b"", NULL_AUTH)
