"""Engines: who makes and opens the records of a session.

An engine is found by name, among the ones built in and among the entry points of the group
``umktls.engines`` (an entry point names a callable without arguments that returns an Engine).
One engine serves many sockets; it hands out a Sealer per sending and an Opener per receiving
session, and those keep the sequence number.

Most engines do their work inside the socket's own calls. What the others need of the kernel is
their route: a card beside the socket, a pair of sockets to the daemon, and so on. The kernel does
what a route asks for (`umktls.kernel.detours`); an engine only names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from importlib.metadata import EntryPoint, entry_points
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


def _software() -> Engine:
    from umktls.ktls.engines.software import SoftwareEngine

    return SoftwareEngine()


def _bounce() -> Engine:
    from umktls.ktls.engines.unsealed import BounceEngine

    return BounceEngine()


def _null() -> Engine:
    from umktls.ktls.engines.unsealed import NullEngine

    return NullEngine()


def _ifnet() -> Engine:
    from umktls.ktls.engines.ifnet import IfnetEngine

    return IfnetEngine()


def _linux() -> Engine:
    from umktls.ktls.engines.linux import LinuxEngine

    return LinuxEngine()


def _toe() -> Engine:
    from umktls.ktls.engines.toe import ToeEngine

    return ToeEngine()


BUILTIN_ENGINES: dict[str, Callable[[], Engine]] = {
    "software": _software,
    "bounce": _bounce,
    "ifnet": _ifnet,
    "linux": _linux,
    "null": _null,
    "toe": _toe,
}


def others_engines() -> dict[str, EntryPoint]:
    """The engines of other packages, by name. None of them replaces one that is built in."""
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: entry for name, entry in found.items() if name not in BUILTIN_ENGINES}


def engine_names() -> list[str]:
    """Names of all engines there are, those of other packages included."""
    return sorted({*BUILTIN_ENGINES, *others_engines()})


def get_engine(name: str) -> Engine:
    """A new engine of that name.

    Raises:
        CallerError: there is none, or it cannot be loaded; the text says which there are.
    """
    builtin = BUILTIN_ENGINES.get(name)
    if builtin is not None:
        return builtin()
    entry_point = others_engines().get(name)
    if entry_point is None:
        raise CallerError(f"no engine {name!r}: there are {', '.join(engine_names())}")
    try:
        engine: Engine = entry_point.load()()
    except Exception as error:  # somebody else's code, in whatever state it is
        raise CallerError(
            f"engine {name!r} ({entry_point.value}) cannot be loaded: {error}"
        ) from error
    return engine
