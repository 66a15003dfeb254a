"""Exclusive creation (O_EXCL) by one call, which is as safe as the usual two.

Theory of operation. The usual way is EXCLUSIVE CREATE with a verifier (RFC 1813 section 3.3.8), and
a SETATTR for the attributes, which that call cannot carry. By the verifier a server knows a
repeated call, even one that was restarted and has lost its reply cache.

A GUARDED CREATE carries the attributes and saves the second call. When it is repeated and finds a
file there, it has to be told whether that file is its own. So the file gets a mark: an access time
that no other client gives it, which is the time now by the server's clock, less some milliseconds
and 24 random bits. The mark is looked for by the layer below (`umktls.kernel.krpc.repeated`).

A mark needs a server that keeps times as they are set: FSINFO must say so (FSF3_CANSETTIME,
time_delta), and every reply is checked. It also needs the server's clock, which is learned from the
SETATTR behind the first exclusive creation, and from every creation since. Where one of these is
missing, EXCLUSIVE is used.

One case is less safe, with servers that make a file and set its times behind that (ours gives it
its name last, where the file system can do that). One that dies in between leaves a file without a
mark: the repeated call fails with EEXIST, although the file is its own. Two clients never both
believe that they have made the file.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from pyfuse3 import EntryAttributes

from umktls.nfs.types import FSF3_CANSETTIME, FSINFO3resok, nfstime3

from .attributes import time_ns

__all__ = ["Marks"]

SECOND = 1_000_000_000
COARSEST = 1000  # ns, of a server's times: with coarser ones marks would be too much alike
CHANCE_BITS = 24
# The server's clock as its files show it is some milliseconds late, and must not be overtaken.
LATE = 10_000_000
LATEST_SECOND = (1 << 32) - 1
# The clock is learned anew after so long.
KEEP_NS = 600 * SECOND


def _boot_time() -> int:
    """Nanoseconds since the machine was started, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Marks:
    """Makes marks for one server, and sees whether it keeps them. clock: nanoseconds, monotonic."""

    def __init__(self, fsinfo: FSINFO3resok, clock: Callable[[], int] = _boot_time) -> None:
        self._clock = clock
        self._step = max(1, time_ns(fsinfo.time_delta))
        self._kept = bool(fsinfo.properties & FSF3_CANSETTIME) and self._step <= COARSEST
        self._ahead = 0  # the server's clock, less ours
        self._learned = 0

    def next(self) -> nfstime3 | None:
        """A mark that nobody else uses, or None where EXCLUSIVE has to be."""
        now = self._clock()
        if not self._kept or not self._learned or now - self._learned > KEEP_NS:
            return None
        mark = now + self._ahead - LATE - secrets.randbits(CHANCE_BITS)
        seconds, rest = divmod(mark - mark % self._step, SECOND)
        return nfstime3(seconds, rest) if 0 < seconds < LATEST_SECOND else None

    def learn(self, changed_ns: int) -> None:
        """The server has just changed a file, at this time by its clock."""
        self._learned = self._clock()
        self._ahead = changed_ns - self._learned

    def see(self, mark: nfstime3, made: EntryAttributes | None) -> None:
        """What the server says of a file that has been made with a mark."""
        if made is None or made.st_atime_ns != time_ns(mark):
            self._kept = False
        else:
            self.learn(made.st_ctime_ns)
