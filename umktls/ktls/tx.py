"""The transmitting half of a KTLS socket: messages in, wire bytes out."""

from __future__ import annotations

from collections.abc import Sequence

from umktls.ktls.engines import MAX_PLAINTEXT, Buffer, Sealer
from umktls.ktls.states import TX_TRANSITIONS, Event, State, step
from umktls.ktls.suites import Suite

APPLICATION_DATA = 23


class Transmitter:
    """Sends in clear until a Sealer is given.

    Attributes:
        records, bytes: sealed so far, and the payload bytes in them.
        payload_limit: the longest payload of a record (kern.ipc.tls.maxlen).
        suite: of the key in use, None in clear.
    """

    def __init__(self, payload_limit: int = MAX_PLAINTEXT) -> None:
        self.payload_limit = payload_limit
        self.records = 0
        self.bytes = 0
        self.suite: Suite | None = None
        self._sealer: Sealer | None = None
        self._state = State.CLEAR

    @property
    def state(self) -> State:
        return self._state

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

    def _set(self, sealer: Sealer, suite: Suite, event: Event) -> None:
        self._state = step(TX_TRANSITIONS, self._state, event, "transmitting")
        self._sealer = sealer
        self.suite = suite

    def seal_message(
        self, parts: Sequence[Buffer], record_type: int = APPLICATION_DATA
    ) -> list[Buffer]:
        """What has to be sent for one message: the parts themselves in clear, its records else.

        The parts may be changed after the call only where the half is sealed.

        Raises:
            KeyExhausted: the key cannot seal so many more records; nothing was sealed.
        """
        sealer = self._sealer
        if sealer is None:
            return list(parts)
        before = sealer.sequence
        wire = sealer.seal(record_type, parts, self.payload_limit)
        self.records += sealer.sequence - before
        self.bytes += sum(map(len, parts))
        return [wire]
