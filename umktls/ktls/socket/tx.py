"""The transmitting half of a KTLS socket: messages in, wire bytes out.

A key is good for a number of records (Suite.record_limit). Where the personality holds to that,
`wants_rekey` tells when three quarters of them are gone, so that a new key can be had in time, and
at the end nothing is sealed any more. Real kernels seal on; here no key ever repeats a nonce.

An engine of somebody's may fail to make a record. Then nothing of it goes, and its sequence number
is free; what that means for the connection is for `on_failed` to say.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from umktls.abi.personality import SEQUENCE_END
from umktls.errors import UmktlsError, WorldError
from umktls.ktls.engines import (
    MAX_PLAINTEXT,
    SHORT,
    Buffer,
    Sealer,
    ShortSealer,
    short_sealer_of,
)
from umktls.ktls.session.errors import KeyExhausted, SealFailed
from umktls.ktls.session.suites import Suite
from umktls.ktls.socket.half import Half
from umktls.ktls.socket.keyupdate import HANDSHAKE, KeyUpdates
from umktls.ktls.socket.states import TX_TRANSITIONS, Event, State
from umktls.ktls.socket.tap import TxWatcher, watched_sealer

APPLICATION_DATA = 23
NEVER = 2 * SEQUENCE_END


class _Broken:
    """See Sealer: seals nothing any more."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        raise WorldError("sending has ended: a record could not be sealed", errno.EPIPE)


class Transmitter(Half):
    """Sends in clear until a Sealer is given.

    Attributes:
        records, bytes: sealed so far, and the payload bytes in them.
        payload_limit: the longest payload of a record (kern.ipc.tls.maxlen).
        suite: of the key in use, None in clear.
        tally: where the host counts sealed records.
        wants_rekey: the key in use is nearly used up.
        on_wants_rekey: called once per key when that becomes true.
        on_failed: called, in the task or thread that seals, with the error to raise when the engine
            has failed; whether the half is broken by it.
        update_sent: a KeyUpdate has gone, and the key that has to follow it is not set yet. Real
            kernels seal on under the old one; who wants to wait can see it here.
    """

    def __init__(
        self,
        payload_limit: int = MAX_PLAINTEXT,
        *,
        limits: bool = True,
        sequence_end: int | None = SEQUENCE_END,
    ) -> None:
        super().__init__(TX_TRANSITIONS, "transmitting")
        self.payload_limit = payload_limit
        self.on_failed: Callable[[SealFailed], bool] = lambda error: True
        self.update_sent = False
        self._updates = KeyUpdates()
        self._limits = limits
        self._sequence_end = sequence_end  # None: behind 2^64 - 1 they begin anew
        self._last = NEVER  # the sequence number that this key does not reach
        self._careful_from = NEVER
        self._sealer: Sealer | None = None
        self._seal_short: ShortSealer | None = None
        self._watcher: TxWatcher | None = None

    def watch(self, watcher: TxWatcher | None) -> None:
        """Have `watcher` look on from now on; None: nobody."""
        self._watcher = self._looks_on = watcher
        if self._sealer is not None:
            self._use(self._sealer)

    @property
    def watcher(self) -> TxWatcher | None:
        """Who looks on."""
        return self._watcher

    def wear_out(self) -> None:
        """Have the key count as nearly used up from the next record on."""
        self._careful_from = 0

    @property
    def sequence(self) -> int:
        """Sequence number of the next record, 0 in clear."""
        return self._sealer.sequence if self._sealer else 0

    def enable(self, sealer: Sealer, suite: Suite) -> None:
        """Seal from here on. Raises CallerError (EALREADY) where it already does."""
        self._set(sealer, suite, Event.ENABLE)

    def rekey(self, sealer: Sealer, suite: Suite) -> None:
        """Go on under a new key. Raises CallerError (EINVAL) where there is no old one."""
        self._set(sealer, suite, Event.NEW_KEY)

    def replace_sealer(self, sealer: Sealer) -> None:
        """Seal elsewhere under the same key: `sealer` goes on where the one before stopped."""
        self._use(sealer)

    def _use(self, sealer: Sealer) -> None:
        self._sealer = watched_sealer(sealer, self._watcher)
        self._seal_short = short_sealer_of(self._sealer)

    def _set(self, sealer: Sealer, suite: Suite, event: Event) -> None:
        self._go(event)
        self._use(sealer)
        self.suite = suite
        self.wants_rekey = self.update_sent = False
        if self._sequence_end is None:
            return
        first = sealer.sequence
        limit = suite.record_limit if self._limits else SEQUENCE_END
        self._last = min(first + limit, self._sequence_end)
        self._careful_from = first + (self._last - first) * 3 // 4

    def seal_message(
        self, parts: Sequence[Buffer], record_type: int = APPLICATION_DATA
    ) -> list[Buffer]:
        """What has to be sent for one message: the parts themselves in clear, its records else.

        The parts may be changed after the call only where the half is sealed.

        Raises:
            KeyExhausted: the key cannot seal so many more records; nothing was sealed.
            SealFailed: the engine cannot; nothing was sealed.
        """
        sealer = self._sealer
        if sealer is None:
            return list(parts)
        before = sealer.sequence
        total = 0
        for part in parts:  # a third less than a sum of a map, where they are few
            total += len(part)
        short = self._seal_short if total <= SHORT and total <= self.payload_limit else None
        records = 1 if short is not None else 1 + total // self.payload_limit
        if before + records > self._careful_from:
            self._near_the_end(before, total)
        try:
            if short is not None:
                wire = short(record_type, parts, total)
            else:
                wire = sealer.seal(record_type, parts, self.payload_limit)
                records = (sealer.sequence - before) % SEQUENCE_END
        except UmktlsError as error:
            if isinstance(error, KeyExhausted) or self._state is State.BROKEN:
                raise
            raise self._failure(error, sealer, before) from error
        self.records += records
        self.tally.encrypts += records
        self.bytes += total
        if record_type == HANDSHAKE:
            self.note_handshake(b"".join(parts))
        return [wire]

    def note_handshake(self, content: Buffer) -> None:
        """The next handshake record has gone, sealed here or elsewhere."""
        self.update_sent |= self._updates.in_record(content)

    def _failure(self, error: UmktlsError, sealer: Sealer, sequence: int) -> SealFailed:
        """What the engine's error becomes; `sequence` is the number that it was to give next."""
        sealer.sequence = sequence
        failed = SealFailed(f"the engine could not seal record {sequence}: {error}")
        if self.on_failed(failed):
            self._go(Event.FAULT)
            self._sealer, self._seal_short = _Broken(sequence), None
        return failed

    def _near_the_end(self, sequence: int, total: int) -> None:
        records = max(1, -(-total // self.payload_limit))
        if sequence + records > self._last:
            raise KeyExhausted(
                f"the key has sealed {sequence} records and may not seal {records} more: a new "
                "key is needed"
            )
        if not self.wants_rekey and self._limits:
            self.wants_rekey = True
            if self.on_wants_rekey is not None:
                self.on_wants_rekey()
