"""The duplicate request cache of several workers: what one has done no other does again.

The same as `umktls.rpc.replycache`, in memory that the workers share. A client that has lost its
connection, or has several, repeats a call on one that may be another worker's. A cache for each
worker would be right only while all connections of a client go to the same one: not with nconnect=,
not behind one address that many share, not when a worker has died.

Who executes a call notes so before. A copy that comes to another worker meanwhile waits for the
reply, by looking again and again: no process can wait for another's memory to change. When the
worker that executes has died, or has dropped the call before it was begun, the copy is executed.
Then it may be that the call was done and its reply lost, as it is with a server that was restarted;
clients live with that (umktls.kernel.krpc.repeated).
"""

from __future__ import annotations

import itertools
import struct
import time
import weakref
from collections import deque
from functools import lru_cache

from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedtable import digest
from umktls.rpc.replycache import CallKey, Running
from umktls.rpc.xdr import Buffer

__all__ = ["SharedReplies"]

DONE, RUNS = b"D", b"R"
# Who executes a call: a worker's life, and which of its calls.
OWNER = struct.Struct("<QQ")
# From one look for another worker's reply to the next, in seconds; the last one from then on.
LOOKS = (0.001, 0.002, 0.005, 0.01, 0.02)


class Begun(Running):
    """A call that this worker executes, or has dropped when nobody holds this any more."""

    def __init__(self, mark: bytes, key: bytes, dropped: deque[tuple[bytes, bytes]]) -> None:
        self.mark = mark
        self._dropped = key, dropped

    def __del__(self) -> None:
        # It may happen anywhere, also while this thread has the table's lock: so this is all.
        if not self.finished:
            key, dropped = self._dropped
            dropped.append((key, self.mark))


class Elsewhere(Running):
    """A call that another worker executes."""

    def __init__(self, shared: Shared, key: bytes, mark: bytes) -> None:
        self._shared = shared
        self._key = key
        self._mark = mark

    def wait(self, seconds: float) -> list[Buffer] | None:
        end = time.monotonic() + seconds
        for pause in itertools.chain(LOOKS, itertools.repeat(LOOKS[-1])):
            value = self._shared.replies.get(self._key)
            if value is not None and value.startswith(DONE):
                return [value[1:]]
            if value != self._mark or not self._shared.lives(owner(value)):
                return None
            if time.monotonic() >= end:
                return []
            time.sleep(pause)
        raise AssertionError("there is always another look")


class SharedReplies:
    """See the module; the methods are as `ReplyCache` has them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._table = shared.replies
        self._numbers = itertools.count()
        self._running: weakref.WeakValueDictionary[bytes, Begun] = weakref.WeakValueDictionary()
        self._dropped: deque[tuple[bytes, bytes]] = deque()

    def lookup(self, key: CallKey) -> list[Buffer] | Running | None:
        return self._known(digest_of(key))

    def _known(self, name: bytes) -> list[Buffer] | Running | None:
        value = self._table.get(name)
        if value is None:
            return None
        if value.startswith(DONE):
            return [value[1:]]
        if owner(value) == self._shared.life:
            running = self._running.get(name)
            return running if running is not None and running.mark == value else None
        if self._shared.lives(owner(value)):
            return Elsewhere(self._shared, name, value)
        return None

    def begin(self, key: CallKey) -> Running | None:
        self.tidy()
        name = digest_of(key)
        mark = RUNS + OWNER.pack(self._shared.life or 0, next(self._numbers))
        running = Begun(mark, name, self._dropped)
        with self._table.locked(name):
            if self._known(name) is not None:
                running.finish(b"")
                return None
            self._running[name] = running
            self._table.put(name, mark)
        return running

    def finish(self, key: CallKey, running: Running, reply: list[Buffer]) -> None:
        kept = b"".join(reply)
        name = digest_of(key)
        self._table.put(name, DONE + kept)
        running.finish(kept)

    def tidy(self) -> None:
        """Forget the calls that were dropped before they were executed."""
        while self._dropped:
            key, mark = self._dropped.popleft()
            with self._table.locked(key):
                if self._table.get(key) == mark:
                    self._table.delete(key)


@lru_cache(maxsize=256)
def digest_of(key: CallKey) -> bytes:
    """The digest of a call's key. It is the same in all processes: a key has numbers, bytes and
    texts."""
    return digest(repr(key).encode())


def owner(value: bytes) -> int:
    """Whose life it is that executes a call."""
    life, _ = OWNER.unpack_from(value, len(RUNS))
    return int(life)
