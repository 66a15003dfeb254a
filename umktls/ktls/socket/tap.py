"""Taps: who looks on while records are made and opened.

A half that is watched has a tap in its engine's place, which does what the engine does and then
tells. A half that nobody watches has none, so looking on costs nothing then. Short records go the
short way of an engine that has one, watched or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from umktls.ktls.engines import (
    MAX_PLAINTEXT,
    Buffer,
    Opener,
    Sealer,
    ShortOpener,
    ShortSealer,
    short_opener_of,
    short_sealer_of,
)
from umktls.ktls.session.errors import RecordError
from umktls.ktls.socket.received import APPLICATION_DATA
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


class ShortSealerTap(SealerTap):
    """See ShortSealer."""

    def __init__(self, sealer: Sealer, watcher: TxWatcher, short: ShortSealer) -> None:
        super().__init__(sealer, watcher)
        self._short = short

    def seal_short(self, record_type: int, parts: Sequence[Buffer], length: int) -> Buffer:
        sequence = self.inner.sequence
        wire = self._short(record_type, parts, length)
        return self._watcher.sealed(record_type, sequence, parts, MAX_PLAINTEXT, wire)


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


class ShortOpenerTap(OpenerTap):
    """See ShortOpener."""

    def __init__(self, opener: Opener, watcher: RxWatcher, short: ShortOpener) -> None:
        super().__init__(opener, watcher)
        self._short = short

    def open_short(self, record: bytes) -> bytes | None:
        sequence = self.inner.sequence
        payload = self._short(record)
        if payload is not None:  # else it is for `open`, which tells
            seen = memoryview(record), memoryview(payload)
            self._watcher.opened(APPLICATION_DATA, sequence, *seen)
        return payload


def watched_sealer(sealer: Sealer, watcher: TxWatcher | None) -> Sealer:
    """The sealer with that tap in place of any other, or with none."""
    inner = sealer.inner if isinstance(sealer, SealerTap) else sealer
    if watcher is None:
        return inner
    short = short_sealer_of(inner)
    return SealerTap(inner, watcher) if short is None else ShortSealerTap(inner, watcher, short)


def watched_opener(opener: Opener, watcher: RxWatcher | None) -> Opener:
    """The opener with that tap in place of any other, or with none."""
    inner = opener.inner if isinstance(opener, OpenerTap) else opener
    if watcher is None:
        return inner
    short = short_opener_of(inner)
    return OpenerTap(inner, watcher) if short is None else ShortOpenerTap(inner, watcher, short)
