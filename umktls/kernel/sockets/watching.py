"""Records of a socket that is watched: each becomes an event, and its bytes are kept for a while.

Each half of a socket has a `HalfWatch` while somebody watches its host closely. What is kept is
bounded: the newest records, of all sockets of the host, with what they held. Whoever wants to see
one asks for it by the number in its event (`RecordStore.get`).

Keys are kept, and told, only by a host that was started with UMKTLS_SECRETS=1 in its environment:
nothing else that a user's own processes can ask a host leads to them.
"""

from __future__ import annotations

import base64
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from umktls.dataclass import dataclass
from umktls.kernel.ground.events import Trace
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Buffer
from umktls.ktls.engines.cutting import record_lengths
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.errors import RecordError
from umktls.ktls.session.framing import RECORD_HEADER_LENGTH
from umktls.ktls.session.session import SECRETS
from umktls.ktls.socket.states import State

__all__ = ["ALTERATIONS", "HalfWatch", "RecordStore", "tells_secrets", "unwatch", "watch"]

RECORD_NAMES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
KEPT_RECORDS = 4096
KEPT_BYTES = 16 << 20
# What can be done to the next records that are sealed, and what is said of it.
ALTERATIONS = {
    "flip": "one bit of the next record is turned over",
    "replay": "the next record is sent twice",
    "drop": "the next record is dropped",
    "hold": "the next record is held back behind the one that follows",
}
WORDS: dict[Direction, str] = {"tx": "sent", "rx": "received"}


def tells_secrets() -> bool:
    """Whether this process may tell keys to who asks."""
    return os.environ.get("UMKTLS_SECRETS") == "1"


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it was on the wire, what was in it, and what its numbers mean."""

    connection: str
    direction: Direction
    type: int
    sequence: int
    wire: bytes
    payload: bytes
    facts: dict[str, Any]

    def told(self) -> dict[str, Any]:
        """As the control socket has it; bytes are base64."""
        return {
            "connection": self.connection,
            "direction": WORDS[self.direction],
            "type": self.type,
            "sequence": self.sequence,
            "wire": base64.b64encode(self.wire).decode(),
            "payload": base64.b64encode(self.payload).decode(),
            **self.facts,
        }


class RecordStore:
    """The newest records of a host, by number."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._bytes = 0
        self._number = 0

    def keep(self, record: Kept) -> int:
        self._number += 1
        self._kept[self._number] = record
        self._bytes += len(record.wire) + len(record.payload)
        while len(self._kept) > KEPT_RECORDS or self._bytes > KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old.wire) + len(old.payload)
        return self._number

    def get(self, number: int) -> Kept | None:
        """The record; None where it is kept no more, or never was."""
        return self._kept.get(number)

    def clear(self) -> None:
        """Nobody watches any more. Numbers are not used again."""
        self._kept.clear()
        self._bytes = 0


class HalfWatch:
    """Looks on at one half: see TxWatcher, RxWatcher. `soon` calls a function in the host's
    task."""

    def __init__(
        self,
        direction: Direction,
        connection: str,
        state: KtlsSocket,
        trace: Trace,
        store: RecordStore,
        soon: Callable[..., object],
    ) -> None:
        self._direction = direction
        self._connection = connection
        self._state = state
        self._trace = trace
        self._store = store
        self._soon = soon
        self._secrets = tells_secrets()
        self._thread = threading.get_ident()
        self._alteration = ""
        self._held = b""

    def state_changed(self, state: State) -> None:
        self._here(self._tell_state, state.name)

    def _tell_state(self, name: str) -> None:
        if self._trace.close:
            self._trace.step(
                "half-state", self._connection, direction=WORDS[self._direction], state=name
            )

    def _here(self, tell: Callable[..., None], *args: Any) -> None:
        """Now, or in the host's task where a thread of a card seals."""
        if threading.get_ident() == self._thread:
            tell(*args)
        else:
            self._soon(tell, *args)

    def sealed(
        self,
        record_type: int,
        sequence: int,
        parts: Sequence[Buffer],
        payload_limit: int,
        wire: Buffer,
    ) -> Buffer:
        goes = self._altered(wire) if self._alteration or self._held else wire
        if not self._trace.has_room():
            return goes
        if threading.get_ident() != self._thread:  # by the time it is told, both may have changed
            parts, wire = [b"".join(parts)], bytes(wire)
        self._here(self._tell_sealed, record_type, sequence, parts, payload_limit, wire)
        return goes

    def alter_next(self, how: str) -> None:
        """Do one of `ALTERATIONS` to what is sealed next."""
        self._alteration = how

    def _altered(self, wire: Buffer) -> Buffer:
        """What goes in its place."""
        how, self._alteration = self._alteration, ""
        held, self._held = self._held, b""
        if how == "flip":
            turned = bytearray(wire)
            turned[-1] ^= 1
            return bytes(turned) + held
        if how == "replay":
            return bytes(wire) * 2 + held
        if how in ("drop", "hold"):
            self._held = bytes(wire) if how == "hold" else b""
            return held
        return bytes(wire) + held if held else wire

    def _tell_sealed(
        self,
        record_type: int,
        sequence: int,
        parts: Sequence[Buffer],
        payload_limit: int,
        wire: Buffer,
    ) -> None:
        view, start, taken, whole = memoryview(wire), 0, 0, b""
        lengths = record_lengths(sum(map(len, parts)), payload_limit)
        for place, length in enumerate(lengths):
            # Of the first one it was asked before.
            end = start + RECORD_HEADER_LENGTH + (view[start + 3] << 8 | view[start + 4])
            if place == 0 or self._trace.has_room():
                whole = whole or b"".join(parts)
                payload = whole[taken : taken + length]
                self._tell(
                    "record-sealed", record_type, sequence + place, bytes(view[start:end]), payload
                )
            start, taken = end, taken + length

    def opened(
        self, record_type: int, sequence: int, record: memoryview, payload: memoryview
    ) -> None:
        if self._trace.has_room():
            self._tell("record-opened", record_type, sequence, bytes(record), bytes(payload))

    def refused(self, sequence: int, record: memoryview, error: RecordError) -> None:
        if self._trace.has_room():
            self._tell("record-refused", record[0], sequence, bytes(record), b"", reason=str(error))

    def _tell(
        self, event: str, record_type: int, sequence: int, wire: bytes, payload: bytes, **more: Any
    ) -> None:
        way = self._direction
        fields = {"type": record_type, "name": RECORD_NAMES.get(record_type, "unknown")}
        kept = Kept(
            *(self._connection, way, record_type, sequence, wire, payload), facts=self._facts()
        )
        if event != "record-refused":
            more |= fields | {"bytes": len(payload)}
        self._trace.tell(
            event,
            self._connection,
            record=self._store.keep(kept),
            direction=WORDS[way],
            length=len(wire),
            sequence=sequence,
            generation=self._state.keys_set[way],
            engine=self._state.engine_name(way) or "none",
            **more,
        )

    def _facts(self) -> dict[str, Any]:
        session = self._state.session(self._direction)
        if session is None:  # the first record under a key that is being set
            return {}
        facts = {"suite": session.suite.name, "version": session.version}
        sizes = session.suite
        facts |= {
            "mac": sizes.mac,
            "tag_length": sizes.tag_length,
            "explicit": sizes.explicit(session.version),
        }
        return facts | (secrets_of(session) if self._secrets else {})


def secrets_of(session: Session) -> dict[str, str]:
    """Key and IV of a session, hexadecimal."""
    secrets = {name: bytes(getattr(session, name)) for name in SECRETS}
    return {name: value.hex() for name, value in secrets.items() if value}


def watch(
    connection: str,
    state: KtlsSocket,
    trace: Trace,
    store: RecordStore,
    soon: Callable[..., object],
) -> None:
    """Look on at both halves of a socket from now on; see HalfWatch."""
    state.tx.watch(HalfWatch("tx", connection, state, trace, store, soon))
    state.rx.watch(HalfWatch("rx", connection, state, trace, store, soon))


def unwatch(state: KtlsSocket) -> None:
    """Nobody watches this socket any more."""
    state.tx.watch(None)
    state.rx.watch(None)
