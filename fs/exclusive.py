"""Exclusive creation (O_EXCL) by one call, as safe as by two.

Theory of operation. An EXCLUSIVE CREATE (RFC 1813 section 3.3.8) gives the server a verifier, by
which it knows the call again even when it has been restarted and has lost its reply cache. It
cannot set attributes, so a SETATTR must follow. A GUARDED CREATE sets them, and does as well where
it is executed once, or is known again by the reply cache. One that was sent again and finds a file
has to tell whether that is its own: for that the file gets a mark, an access time that no other
client gives it. That is the time now by the server's clock, less some milliseconds and 24 bits by
chance: another client's would have to be the same to the nanosecond. The looking is done below us
(`umktls.kernel.krpc.repeated`).

That takes a server that keeps times as they are set: FSINFO must say so (FSF3_CANSETTIME,
time_delta), and every reply is looked at. It takes the server's clock, which is learned from the
SETATTR behind the first exclusive creation, and from every creation since. Where one of these is
missing it is EXCLUSIVE. Not as safe is one thing: a server that dies between making the file and
setting its times leaves one that nobody takes for his own, so that the repeated call fails with
EEXIST. It never makes two clients believe that each has made the file.
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
