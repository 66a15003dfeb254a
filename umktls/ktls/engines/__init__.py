"""Engines: who makes and opens the records of a session.

An engine is found by name, among the ones built in and among the entry points of the group
``umktls.engines`` (an entry point names a callable without arguments that returns an Engine).
One engine serves many sockets; it hands out a Sealer per sending and an Opener per receiving
session, and those keep the sequence number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from umktls.errors import CallerError
from umktls.ktls.framing import MAX_PLAINTEXT as MAX_PLAINTEXT
from umktls.ktls.framing import RECORD_HEADER_LENGTH as RECORD_HEADER_LENGTH
from umktls.ktls.framing import Buffer as Buffer
from umktls.ktls.session import Direction, Session

ENTRY_POINT_GROUP = "umktls.engines"
DEST_SHORTER_BY = 21  # a record is at least this much longer than what opening it may write


class Sealer(Protocol):
    """Makes the records of one sending session. `sequence` is the next record's number."""

    sequence: int

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        """All records of one message, one after another.

        The message is cut into payloads of `payload_limit` bytes; an empty message is one empty
        record.

        Raises:
            KeyExhausted: the sequence numbers do not suffice; nothing was sealed.
        """


class Opener(Protocol):
    """Opens the records of one receiving session. `sequence` is the next record's number.

    `overhead` is how much longer than its payload a record is at least, header included. What may
    stand in a header is `framing_of(session)`'s to say.
    """

    sequence: int
    overhead: int

    def check_header(self, header: Buffer) -> int:
        """Length of the whole record (header included) whose first five bytes these are.

        Raises:
            RecordVersion, RecordSize, RecordTooShort: it can only be a bad record.
        """

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        """Open one whole record into `dest`; return its type and the length of its payload.

        `dest` has at least ``len(record) - DEST_SHORTER_BY`` bytes outside the record. What lies
        behind the payload may be written to (an inner type, padding, a MAC).

        Raises:
            BadRecord, RecordMisfit: it does not open. The sequence number is used up all the same.
            RecordVersion, RecordSize, RecordTooShort: as `check_header`.
        """


class Engine(Protocol):
    """`mode` is the TCP_TLS_MODE_* that a socket with this engine reports."""

    name: str
    mode: int

    def supports(self, session: Session, direction: Direction) -> str | None:
        """None where this engine can serve the session, otherwise why it cannot."""

    def sealer(self, session: Session) -> Sealer: ...

    def opener(self, session: Session) -> Opener: ...


def _software() -> Engine:
    from umktls.ktls.engines.software import SoftwareEngine

    return SoftwareEngine()


BUILTIN_ENGINES: dict[str, Callable[[], Engine]] = {"software": _software}


def engine_names() -> list[str]:
    """Names of all engines there are, those of other packages included."""
    return sorted({*BUILTIN_ENGINES, *entry_points(group=ENTRY_POINT_GROUP).names})


def get_engine(name: str) -> Engine:
    """A new engine of that name. Raises CallerError, naming those there are."""
    builtin = BUILTIN_ENGINES.get(name)
    if builtin is not None:
        return builtin()
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        engine: Engine = entry_point.load()()
        return engine
    raise CallerError(f"no engine {name!r}: there are {', '.join(engine_names())}")
