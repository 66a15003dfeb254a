"""Time that passes in a test: by its mock clock, and by no other; or for some calls alone."""

from __future__ import annotations

import trio
import trio.testing

from umktls.kernel.krpc.rpc_client import RpcClient

__all__ = ["elapse", "expire"]


async def elapse(seconds: float) -> None:
    """So much time passes. The test has to go by a mock clock that jumps when nobody has anything
    to do, or that a test sets: nobody waits for a real one, nor for one that is only faster."""
    clock = trio.lowlevel.current_clock()
    stands = isinstance(clock, trio.testing.MockClock) and clock.rate == 0
    assert stands, f"this would take real time, for {seconds:g} s of the test's"
    await trio.sleep_until(trio.current_time() + seconds)


def expire(rpc: RpcClient) -> None:
    """The deadlines of all calls that wait have passed."""
    for _, pending in rpc._table.items():
        pending.expires = 0.0
