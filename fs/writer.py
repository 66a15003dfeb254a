"""Write-behind for one file.

Theory of operation. A write is kept as an extent and answered at once. An extent goes through these
states, and the writer has a place for each:

    growing --> queued --> flying --> unstable --> gone
                   ^          |           |          ^
                   |          +-----------|----------+   WRITE answered FILE_SYNC or DATA_SYNC
                   +----------------------+              the server lost it: written again

    growing   the newest; contiguous writes of the same user are added to it, up to wsize
    queued    waits for its turn
    flying    a WRITE is under way, or waits for one of the mount's slots
    unstable  the server has it, but may lose it in a crash (RFC 1813 section 3.3.7)
    gone      stable on the server: COMMIT answered with the verifier of its WRITE

WRITEs in flight may be carried out in any order, so an extent does not fly while one that it
overlaps does. A verifier in COMMIT that differs from a WRITE's says that the server has restarted
in between (section 3.3.21) and that unstable data may be lost. Then everything unstable is written
again in the order of the serial numbers, also what the new server has acknowledged: sent alone, an
old extent would overwrite a newer one.

An extent that is alone is asked to be FILE_SYNC when somebody waits for it: one call instead of
WRITE and COMMIT, which is what most small files need.

Reads are laid over with what is not stable, unstable data too: should the server restart, it is
missing there until it has been written again.

Data whose WRITE or COMMIT fails is given up, as kernels do, and the failure is counted. Each open
file remembers the count that it has told its user about (`OpenFile.failures`). The machine's kernel
has the data in its pages, and would go on showing it: these are dropped at once (kernelcache.py).
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

from trio.lowlevel import ParkingLot

from umktls.errors import UmktlsError, WorldError
from umktls.nfs.types import WRITE3resok, stable_how
from umktls.rpc.message import OpaqueAuth
from umktls.rpc.xdr import Buffer

from .extents import OVERHEAD, Extent
from .flights import Sent, answer_to, post, write
from .inodes import Inode, Unstable
from .readturn import begin
from .writeback import WriteBehind

__all__ = ["writer_of"]

MAX_FLYING = 32  # of one file; the mount has a limit of its own
MAX_QUEUED = 64
MOST_UNSTABLE = 512  # extents of one file, before it is committed: reads go through them all
MAX_SENDS = 8  # of one extent, before a server that keeps losing it is not believed any more

log = logging.getLogger(__name__)
_serial = attrgetter("serial")


class Writer:
    """The written data of one file that is not yet stable on the server."""

    def __init__(self, inode: Inode, behind: WriteBehind) -> None:
        self.inode = inode
        self.failures = 0
        self.failure: UmktlsError | None = None
        self._behind = behind
        self._growing: Extent | None = None
        self._queued: deque[Extent] = deque()
        self._flying: list[Extent] = []
        self._unstable: list[Extent] = []
        self._unstable_cost = 0
        self._serial = 0
        self._sent = False  # whether a WRITE has ever been sent
        self._committing = False
        self._recovering = False
        self._changed = ParkingLot()
        self._touched = 0.0

    # ---- what others ask

    @property
    def dirty(self) -> bool:
        """Whether the server lacks data."""
        return bool(self._growing or self._queued or self._flying)

    @property
    def busy(self) -> bool:
        """Whether there is data that is not stable."""
        return bool(self.dirty or self._unstable)

    @property
    def small(self) -> bool:
        """Whether what the server lacks is one extent that has not been sent."""
        return self._growing is not None and not self._queued and not self._flying

    @property
    def end(self) -> int:
        """Where the data that is not stable ends; 0 if there is none."""
        return max((extent.end for extent in self._all()), default=0)

    def behind(self, offset: int) -> list[Extent]:
        """What is not stable and ends behind `offset`, oldest first."""
        return sorted((extent for extent in self._all() if extent.end > offset), key=_serial)

    def _all(self) -> Iterable[Extent]:
        growing = () if self._growing is None else (self._growing,)
        return chain(self._unstable, self._flying, self._queued, growing)

    # ---- what others do

    async def write(self, offset: int, data: Buffer, credential: OpaqueAuth) -> None:
        """Take data over; waits only when too much is held already. `data` must not change."""
        size = self._behind.wsize
        if len(data) <= size:
            await self._take(offset, data, credential)
            return
        view = memoryview(data)
        for start in range(0, len(view), size):
            await self._take(offset + start, view[start : start + size], credential)

    async def drain(self) -> None:
        """Wait until the server has all that was written before."""
        last = self._serial
        self._send_out(alone=not self._sent)
        while self._lacks(last):
            await self._changed.park()

    async def flush(self) -> None:
        """Wait until all that was written before is stable on the server, or has failed."""
        last = self._serial
        self._send_out(alone=True)
        while True:
            if self._lacks(last) or self._committing or self._recovering:
                await self._changed.park()
            elif any(extent.serial <= last for extent in self._unstable):  # as they were answered
                self._committing = True
                await self._commit()
            else:
                return

    def push(self) -> None:
        """The growing extent grows no more."""
        if self._growing is not None:
            self._queued.append(self._growing)
            self._growing = None
            self._pump()

    def tidy(self, now: float, age: float) -> None:
        """Send what has waited for `age` seconds; commit what has been idle for five times that."""
        if self._growing is not None and now - self._growing.since >= age:
            self.push()
        elif self._unstable and not self.dirty and now - self._touched >= 5 * age:
            self.commit_behind()

    def relieve(self) -> None:
        """Memory is short: send and commit what there is."""
        self.push()
        self.commit_behind()

    # ---- taking data

    async def _take(self, offset: int, data: Buffer, credential: OpaqueAuth) -> None:
        while len(self._queued) >= MAX_QUEUED:
            await self._changed.park()
        await self._behind.reserve(len(data) + OVERHEAD)
        growing = self._growing
        if (
            growing is not None
            and growing.end == offset
            and growing.credential is credential
            and growing.length + len(data) <= self._behind.wsize
        ):
            growing.append(data)
            self._behind.give_back(OVERHEAD)
        else:
            growing = self._begin(offset, data, credential)
        self._behind.active.add(self)
        if growing.length >= self._behind.wsize:
            self.push()

    def _begin(self, offset: int, data: Buffer, credential: OpaqueAuth) -> Extent:
        self.push()
        self._serial += 1
        self._growing = Extent(self._serial, offset, data, credential, self._behind.clock())
        return self._growing

    # ---- sending

    def _send_out(self, alone: bool) -> None:
        """Push; or, if `alone` and there is one extent, ask for FILE_SYNC. Never waiting in the
        task of who waits: that may be killed, and the data must not go with it. But mostly the
        answer comes so soon that a task, which takes turns of the loop, is not worth while."""
        extent = self._growing
        if extent is None or not alone or not self.small or self._unstable:
            self.push()
            return
        extent.stable = stable_how.FILE_SYNC
        self._growing = None
        self._flying.append(extent)
        sent = self._post(extent) if self._behind.slots.take() else None
        if sent is not None and sent.posted.comes():
            try:  # the answer is there: nothing is waited for
                result, _ = begin(answer_to(sent, self._behind))
            except UmktlsError as error:
                self._lost([extent], error)
                self._gone(extent)
                return
            if result is not None:
                self._learn(extent, result, sent.started)
                self._landed(extent, result)
                return
            sent = None
        self._behind.start(self._fly, extent, sent)

    def _post(self, extent: Extent) -> Sent:
        self._sets_out(extent)
        return post(self.inode.handle, extent, self._behind)

    def _sets_out(self, extent: Extent) -> None:
        extent.sends += 1
        extent.due = extent.due or self._behind.clock() + self._behind.calls.patience
        self._sent = True

    def _lacks(self, last: int) -> bool:
        return any(extent.serial <= last for extent in self._flying) or (
            bool(self._queued) and self._queued[0].serial <= last
        )

    def _pump(self) -> None:
        """Let queued extents fly, in their order."""
        while self._queued and not self._recovering and len(self._flying) < MAX_FLYING:
            extent = self._queued[0]
            if any(other.overlaps(extent.offset, extent.end) for other in self._flying):
                return
            self._flying.append(self._queued.popleft())
            self._behind.start(self._fly, extent)

    async def _fly(self, extent: Extent, sent: Sent | None = None) -> None:
        """One WRITE, which may have been made. Runs as a task of its own, so nothing but Cancelled
        may leave it."""
        try:
            result = None if sent is None else await answer_to(sent, self._behind)
            if sent is not None and result is not None:
                self._learn(extent, result, sent.started)
            else:
                self._sets_out(extent)
                result, started = await write(self.inode.handle, extent, self._behind)
                self._learn(extent, result, started)
        except UmktlsError as error:
            self._lost([extent], error)
        except Exception:
            log.exception("WRITE failed")
            self._lost([extent], WorldError("WRITE failed here"))
        else:
            self._landed(extent, result)
            return
        self._gone(extent)

    def _learn(self, extent: Extent, result: WRITE3resok, started: int) -> None:
        end = extent.offset + min(result.count, extent.length)
        self._behind.attributes.changed(self.inode, result.file_wcc.after, started, end)
        # mtime may not show it: the server's clock ticks slowly.
        self.inode.data_version += 1

    def _landed(self, extent: Extent, result: WRITE3resok) -> None:
        """The server has answered a WRITE."""
        self._acknowledged(extent, result)
        self._gone(extent)

    def _gone(self, extent: Extent) -> None:
        self._flying.remove(extent)
        if self._recovering and not self._flying:
            self._send_again()
        self._pump()
        self._settle()

    def _acknowledged(self, extent: Extent, result: WRITE3resok) -> None:
        if not 0 < result.count <= extent.length:
            text = f"the server says that it wrote {result.count} of {extent.length} bytes"
            self._lost([extent], WorldError(text))
            return
        if result.count == extent.length:
            self._behind.progress = self._behind.clock()
        elif self._behind.clock() >= extent.due:
            self._lost([extent], self._too_slow(extent))
            return
        else:
            self._queued.appendleft(extent.split(result.count))
            self._behind.charge(OVERHEAD)
        if result.committed == stable_how.UNSTABLE:
            extent.verf = result.verf
            self._unstable.append(extent)
            self._unstable_cost += extent.cost
            self._touched = self._behind.clock()
        else:
            self._behind.give_back(extent.cost)

    def _too_slow(self, extent: Extent) -> WorldError:
        calls = self._behind.calls
        text = f"WRITE: {extent.length} bytes are still not taken after {calls.patience:g} s"
        return WorldError(text, calls.timeout_errno)

    def _lost(self, extents: list[Extent], error: UmktlsError) -> None:
        """Give data up, and remember why."""
        log.warning("written data is lost: %s", error)
        self._behind.give_back(sum(extent.cost for extent in extents))
        self._behind.attributes.expire(self.inode)
        self._behind.kernel.drop_pages(self.inode)
        self.failures += 1
        self.failure = error

    # ---- committing

    def commit_behind(self) -> None:
        """COMMIT in the background, unless one is under way or would be in vain."""
        if self._unstable and not self._committing and not self._recovering:
            self._committing = True
            self._behind.start(self._commit)

    async def _commit(self) -> None:
        """COMMIT what is unstable now. May run as a task, so nothing but Cancelled may leave it."""
        extents = self._unstable[:]
        behind = self._behind
        try:
            started = behind.attributes.stamp()
            result = await behind.calls.commit(self.inode.handle, extents[0].credential)
            behind.attributes.update(self.inode, result.file_wcc.after, started)
        except UmktlsError as error:
            self._forget(extents)
            self._lost(extents, error)
        except Exception:
            log.exception("COMMIT failed")
            self._forget(extents)
            self._lost(extents, WorldError("COMMIT failed here"))
        else:
            self._committed(extents, result.verf)
        finally:
            self._committing = False
            self._settle()

    def _committed(self, extents: list[Extent], verf: bytes) -> None:
        if all(extent.verf == verf for extent in extents):
            self._forget(extents)
            self._behind.give_back(sum(extent.cost for extent in extents))
            self._behind.progress = self._behind.clock()
        elif max(extent.sends for extent in extents) >= MAX_SENDS:
            self._forget(extents)
            text = f"the server lost written data {MAX_SENDS} times over"
            self._lost(extents, WorldError(text, errno.EIO))
        else:
            log.warning("the server has restarted: writing %d extents again", len(extents))
            self._recovering = True
            if not self._flying:
                self._send_again()

    def _forget(self, extents: list[Extent]) -> None:
        gone = set(map(id, extents))
        self._unstable = [extent for extent in self._unstable if id(extent) not in gone]
        self._unstable_cost = sum(extent.cost for extent in self._unstable)

    def _send_again(self) -> None:
        """Everything unstable goes back into the queue, oldest first."""
        self._recovering = False
        for extent in self._unstable:
            extent.stable = stable_how.UNSTABLE
            extent.due = 0.0
        self._queued = deque(sorted([*self._unstable, *self._queued], key=_serial))
        self._unstable, self._unstable_cost = [], 0
        self._pump()

    def _settle(self) -> None:
        """Something has changed: wake who waits, and commit if too much is unstable."""
        if not self.busy:
            self._behind.active.discard(self)
        elif len(self._unstable) >= MOST_UNSTABLE or self._behind.wants_commit(self._unstable_cost):
            self.commit_behind()
        self._changed.unpark_all()


def writer_of(inode: Inode, behind: WriteBehind) -> Unstable:
    """The writer of a file, made if need be."""
    if inode.writer is None:
        inode.writer = Writer(inode, behind)
    return inode.writer
