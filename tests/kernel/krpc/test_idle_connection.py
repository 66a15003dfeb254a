"""A connection on which no call is out: what comes unasked, and what ends it, is noticed."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.conformance.world import HANDSHAKE, KEY_UPDATE
from tests.kernel.krpc.replypeer import answered
from tests.passing import elapse
from umktls.kernel.ground.hostclock import HostClock
from umktls.kernel.krpc import rpc_client
from umktls.kernel.sockets.ktls_socket import KernelSocket

Clock = trio.testing.MockClock
ENDS: tuple[Callable[[KernelSocket], None], ...] = (
    lambda sock: sock.close("by its daemon"),
    KernelSocket.hang_up,
    lambda sock: sock.shutdown(socket.SHUT_RDWR),
)


async def test_the_end_of_an_idle_connection_is_noticed(autojump_clock: Clock) -> None:
    async with answered() as peer:
        peer.ends[-1].close()
        await elapse(rpc_client.DEADLINE_TICK)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.ended == ["the server closed the connection"]
        assert peer.client.socket is None


@pytest.mark.parametrize("end", ENDS, ids=["close", "hang_up", "shutdown"])
async def test_what_ends_an_idle_connection_here_is_noticed_at_once(
    end: Callable[[KernelSocket], None], autojump_clock: Clock
) -> None:
    async with answered() as peer:
        assert peer.client.socket is not None
        end(peer.client.socket)
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.ended) == 1


@pytest.mark.parametrize("end", ENDS, ids=["close", "hang_up", "shutdown"])
async def test_a_call_that_is_made_when_an_idle_connection_ends_here_goes_over_the_next_one(
    end: Callable[[KernelSocket], None], autojump_clock: Clock
) -> None:
    async with answered() as peer:
        assert peer.client.socket is not None
        end(peer.client.socket)
        peer.nursery.start_soon(peer.ask, b"one")
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.ends) == 2
        await peer.answer(await peer.come())
        assert peer.answers == {b"one": b"one"}


async def test_an_idle_connection_is_looked_at_again_behind_each_call(
    autojump_clock: Clock,
) -> None:
    async with answered() as peer:
        for _ in range(3):
            await elapse(1)
            await peer.settle()
        await elapse(1)
        peer.ends[-1].close()
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.ended) == 1


async def test_new_keys_on_an_idle_connection(autojump_clock: Clock) -> None:
    async with answered(sealed=True) as peer:
        await peer.send(peer.record(KEY_UPDATE, HANDSHAKE))
        await elapse(1)
        assert len(peer.controls) == 1
        peer.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        await peer.settle()


def test_an_idle_connection_is_looked_at_while_the_clock_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A viewer may go through the steps of the server, whose connection ends."""
    clock = HostClock()

    async def stand() -> None:
        monkeypatch.setattr(rpc_client, "DEADLINE_TICK", 0.01)
        async with answered() as peer:
            clock.hold(stand, True)
            peer.ends[-1].close()
            while not peer.ended:
                await trio.lowlevel.checkpoint()
            clock.hold(stand, False)

    trio.run(stand, clock=clock)
