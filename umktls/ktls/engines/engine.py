"""What an engine is to the sockets: the protocols that it fills, and what it may say of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from umktls.ktls.session import Direction, Session
from umktls.ktls.session.framing import MAX_PLAINTEXT, Buffer

# Up to here copies of a message are cheaper than views of it.
SHORT = 4096
DEST_SHORTER_BY = 21  # a record is at least this much longer than what opening it may write


class Sealer(Protocol):
    """Makes the records of one sending session. `sequence` is the next record's number.

    A sealer may also have `seal_short`, a `ShortSealer`, for which messages of one short record
    come.
    """

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

    An opener may also have `open_run`, a `RunOpener`, for which much data comes in long records
    of one size, and `open_short`, a `ShortOpener`, for which little data comes.
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


class RunOpener(Protocol):
    """Opens records of application data that stand one behind the other, as far as nothing is
    special about them.

    `records` begins with the first. Each is `size` bytes long, of which the opener's `overhead` is
    no payload; their payloads go into `dest` without gaps, which has room for `most` of them as
    `open` wants it. Returns how many were opened. In front of any other record (another header or
    type, padding, one that does not verify) it stops, as if it had not looked at that one: it is
    for `open`. Raises nothing.
    """

    def __call__(self, records: memoryview, size: int, dest: memoryview, most: int) -> int: ...


class ShortSealer(Protocol):
    """Seals a message of `length` bytes, SHORT at most, as one record; raises as `seal`."""

    def __call__(self, record_type: int, parts: Sequence[Buffer], length: int) -> Buffer: ...


class ShortOpener(Protocol):
    """The payload of a whole record, if it is application data and nothing is special about it.

    None for any other record (another type, padding, a bad header, one that does not verify), as
    if it had not looked at it: it is for `open`. Raises nothing.
    """

    def __call__(self, record: bytes) -> bytes | None: ...


class Route(Enum):
    """How the data of one direction gets from RPC to TCP, or back."""

    RECORDS = "records"  # sealed or opened in the socket's own calls
    CARD = "card"  # sealed behind the socket, on its way to the network
    OFFLOAD = "offload"  # by a card that terminates TCP and holds records back until it has a key
    BOUNCE = "bounce"  # through the daemon, which does SSL_write and SSL_read
    CLEAR = "clear"  # not at all: this kernel has no TLS
    HOST = "host"  # by the kernel TLS of the machine that all this runs on


class Engine(Protocol):
    """`mode` is the TCP_TLS_MODE_* that a socket with this engine reports.

    An engine may also have
      route: a `Route`, RECORDS if it has none;
      directions: the ones it can serve at all, both if it does not say;
      note: one line on what it is, for people;
      warning: a line that whoever uses it is to see every time;
      problem(): None where this machine can run it, otherwise why it cannot.
    """

    name: str
    mode: int

    def supports(self, session: Session, direction: Direction) -> str | None:
        """None where this engine can serve the session, otherwise why it cannot."""

    def sealer(self, session: Session) -> Sealer: ...

    def opener(self, session: Session) -> Opener: ...


def run_opener_of(opener: Opener) -> RunOpener | None:
    """The opener's way to open several records at a time, if it has one."""
    opens: RunOpener | None = getattr(opener, "open_run", None)
    return opens


def short_sealer_of(sealer: Sealer) -> ShortSealer | None:
    """The sealer's way to seal short messages, if it has one."""
    seals: ShortSealer | None = getattr(sealer, "seal_short", None)
    return seals


def short_opener_of(opener: Opener) -> ShortOpener | None:
    """The opener's way to open short records, if it has one."""
    opens: ShortOpener | None = getattr(opener, "open_short", None)
    return opens


def route_of(engine: Engine) -> Route:
    """The engine's route."""
    route: Route = getattr(engine, "route", Route.RECORDS)
    return route


def directions_of(engine: Engine) -> tuple[Direction, ...]:
    """The directions that the engine can serve at all."""
    directions: tuple[Direction, ...] = getattr(engine, "directions", ("tx", "rx"))
    return directions


def problem_of(engine: Engine) -> str | None:
    """Why the engine cannot run on this machine, as far as it knows; None where it can."""
    problem: Callable[[], str | None] | None = getattr(engine, "problem", None)
    return problem() if problem is not None else None
