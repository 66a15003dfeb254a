"""Short waits for replies, or for calls, in place of turns of trio's loop.

Theory of operation. A task that waits for a socket costs two trips to epoll and a turn of the loop:
for a small call to a server nearby as much as all the rest of the work. Whoever knows that most
likely nothing else will happen meanwhile can wait in select(2) instead, where the whole process
waits. So that nobody notices, such a wait is short, ends when a request comes that could be dealt
with meanwhile, is not begun while another task can go on, and is left out for a while where it was
in vain: a server that is far away is waited for in the loop. In a row of calls each TURNS-th goes
that way too.
"""

from __future__ import annotations

from collections.abc import Callable

from umktls.kernel.ground.wakeful import Select, Wakeful

__all__ = ["FD_SETSIZE", "Dwell"]

# Seconds. A server on this machine has replied in half of it.
REPLY_SECONDS = 0.0005
# Of these it is awake for so long (wakeful.py).
AWAKE_SECONDS = 0.0004
TURNS = 16
# After so many waits that were in vain, so many are left out.
VAIN, LEFT_OUT = 3, 200
# Below this are the descriptors that select(2) takes. It can wait for less than a millisecond.
FD_SETSIZE = 1024


class Dwell:
    """The short waits of one process. There are none before `begin`."""

    def __init__(self, select: Select | None = None) -> None:
        self._select = select or Wakeful(AWAKE_SECONDS)
        self._requests = -1
        self._idle: Callable[[], bool] = lambda: False
        self._row = 0
        self._vain = 0
        self._left_out = 0

    def begin(self, requests: int, idle: Callable[[], bool]) -> None:
        """From now on replies are waited for while there is nothing on the descriptor `requests`
        (FUSE's; of a server that waits for calls, the epoll of its loop), if nothing else can be
        done (`idle`)."""
        if requests < FD_SETSIZE:
            self._requests, self._idle = requests, idle

    def end(self) -> None:
        """There is nobody any more who says what else can be done."""
        self._requests = -1

    def reply(self, descriptor: int) -> bool:
        """Wait shortly for something on `descriptor`: whether it is there."""
        if self._requests < 0 or not 0 <= descriptor < FD_SETSIZE:
            return False
        if self._left_out:
            self._left_out -= 1
            return False
        self._row += 1
        if self._row >= TURNS:
            self._row = 0
            return False
        if not self._idle():
            return False
        ready, _, _ = self._select([descriptor, self._requests], [], [], REPLY_SECONDS)
        if ready:
            self._vain = 0
            return descriptor in ready
        self._vain += 1
        if self._vain == VAIN:
            self._vain, self._left_out = 0, LEFT_OUT
        return False
