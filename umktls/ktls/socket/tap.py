"""Taps: who looks on while records are made and opened.

A half that is watched has a tap in its engine's place, which does what the engine does and then
tells. A half that nobody watches has none, so looking on costs nothing then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from umktls.ktls.engines import MAX_PLAINTEXT, Buffer, Opener, Sealer
from umktls.ktls.session.errors import RecordError
from umktls.ktls.socket.states import State

__all__ = ["RxWatcher", "TxWatcher", "watched_opener", "watched_sealer"]


class TxWatcher(Protocol):
    """Who looks on while records are made. What it is given it may keep no longer than the call."""

    def sealed(
        self,
        record_type: int,
        sequence: int,
        parts: Sequence[Buffer],
        payload_limit: int,
        wire: Buffer,
    ) -> Buffer:
        """A message became records, the first of which has this sequence number; in whatever thread
        seals. Returns what goes in their place: mostly they."""

    def state_changed(self, state: State) -> None:
        """The half has gone on in its table."""


class RxWatcher(Protocol):
    """Who looks on while records are opened. What it is given it may keep no longer than the
    call."""

    def opened(
        self, record_type: int, sequence: int, record: memoryview, payload: memoryview
    ) -> None:
        """A record was opened."""

    def refused(self, sequence: int, record: memoryview, error: RecordError) -> None:
        """A record did not open."""

    def state_changed(self, state: State) -> None:
        """The half has gone on in its table."""


class SealerTap:
    """See Sealer."""

    def __init__(self, sealer: Sealer, watcher: TxWatcher) -> None:
        self.inner = sealer
        self._watcher = watcher

    @property
    def sequence(self) -> int:
        return self.inner.sequence

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        self.inner.sequence = sequence

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        sequence = self.inner.sequence
        wire = self.inner.seal(record_type, parts, payload_limit)
        return self._watcher.sealed(record_type, sequence, parts, payload_limit, wire)


class OpenerTap:
    """See Opener."""

    def __init__(self, opener: Opener, watcher: RxWatcher) -> None:
        self.inner = opener
        self.overhead = opener.overhead
        self._watcher = watcher

    @property
    def sequence(self) -> int:
        return self.inner.sequence

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        self.inner.sequence = sequence

    def check_header(self, header: Buffer) -> int:
        return self.inner.check_header(header)

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        sequence = self.inner.sequence
        try:
            record_type, length = self.inner.open(record, dest)
        except RecordError as error:
            self._watcher.refused(sequence, record, error)
            raise
        self._watcher.opened(record_type, sequence, record, dest[:length])
        return record_type, length


def watched_sealer(sealer: Sealer, watcher: TxWatcher | None) -> Sealer:
    """The sealer with that tap in place of any other, or with none."""
    inner = sealer.inner if isinstance(sealer, SealerTap) else sealer
    return inner if watcher is None else SealerTap(inner, watcher)


def watched_opener(opener: Opener, watcher: RxWatcher | None) -> Opener:
    """The opener with that tap in place of any other, or with none."""
    inner = opener.inner if isinstance(opener, OpenerTap) else opener
    return inner if watcher is None else OpenerTap(inner, watcher)
