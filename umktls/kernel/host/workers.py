"""Threads for the calls that take long, shared among all clients of a server.

Theory of operation. Each lane (`umktls.rpc.server.Lane`) has a number of places. What waits for a
disk may be many at once; what computes may be few, because only one thread of this process runs at
a time and the event loop is one of them. The turn goes round among networks and addresses
(`kernel/ground/peers.py`), and of many places no address gets more than three quarters: so a client
that has thousands of calls waiting costs another one no more than the calls that are being
executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from umktls.kernel.ground.peers import Crowd, FairQueue, Who
from umktls.kernel.ground.refusals import in_own_thread
from umktls.rpc.server import Lane

__all__ = ["LANE_PLACES", "Places", "Workers"]

R = TypeVar("R")

LANE_PLACES = {Lane.DISK: 32, Lane.SCAN: 2, Lane.COPY: 64}


class Places:
    """A number of places that all clients share."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._crowd = Crowd()
        self._queue: FairQueue[trio.Event] = FairQueue()

    async def take(self, who: Who) -> None:
        """Wait for a place, to be given back."""
        if self._may(who):
            self._seat(who)
            return
        turn = trio.Event()
        self._queue.add(who, turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self.give(who)
            self._queue.remove(who, turn)
            raise

    def give(self, who: Who) -> None:
        """Give a place back; whose turn it is has it."""
        self._taken -= 1
        self._crowd.add(who, -1)
        while (one := self._next()) is not None:
            turn = self._queue.take(one)
            self._seat(one)
            turn.set()

    def _seat(self, who: Who) -> None:
        self._taken += 1
        self._crowd.add(who)

    def _may(self, who: Who) -> bool:
        of_network, of_address = self._crowd.of(who)
        total = self._total
        return (
            self._taken < total
            and of_network < total - total // 8
            and of_address < total - total // 4
        )

    def _next(self) -> Who | None:
        if self._taken >= self._total:
            return None
        return next((one for one, _ in self._queue.turns() if self._may(one)), None)


class Workers:
    """See the module. `places`: how many each lane has."""

    def __init__(self, places: Mapping[Lane, int] = LANE_PLACES) -> None:
        self._places = {lane: Places(number) for lane, number in places.items()}

    async def run(self, who: Who, lane: Lane, function: Callable[[], R]) -> R:
        """Execute a call in a thread, when its turn comes. Raises `NoThread`."""
        places = self._places[lane]
        await places.take(who)
        try:
            return await in_own_thread(function)
        finally:
            places.give(who)
