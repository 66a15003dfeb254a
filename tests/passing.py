"""Time that passes in a test: by its mock clock, and by no other; or for some calls alone."""

from __future__ import annotations

import trio
import trio.testing

from umktls.kernel.krpc.rpc_client import RpcClient

__all__ = ["elapse", "expire"]


async def elapse(seconds: float) -> None:
    """So much time passes. The test has to go by a mock clock: nobody waits for a real one."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock), f"this would take {seconds:g} real seconds"
    await trio.sleep(seconds)


def expire(rpc: RpcClient) -> None:
    """The deadlines of all calls that wait have passed."""
    for _, pending in rpc._table.items():
        pending.expires = 0.0
