"""The `linux` engine: the kernel TLS of the machine that all this runs on, where it has it.

Nothing is sealed or opened here. What is sent goes to the real socket in clear, and the real kernel
seals it; what arrives it has opened. So that the receiving half of a KTLS socket can park control
records and stop behind a KeyUpdate as always, each piece that the real kernel delivers is put into
the shape of a record (`wrap`), and the opener takes it out again.

The real socket is the kernel's business (`umktls.kernel.sockets.hosttls`), which binds this engine
to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from umktls.abi.freebsd import TCP_TLS_MODE_SW
from umktls.errors import CallerError, UnsupportedError
from umktls.ktls.engines.engine import Opener, Route, Sealer
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.crypto_info import crypto_info
from umktls.ktls.session.framing import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Buffer

__all__ = ["WRAPPING", "Content", "LinuxEngine", "PassOpener", "PassSealer", "wrap"]

APPLICATION_DATA = 23
# What `wrap` adds: a header in front, and as much behind as a tag has, since the destination of an
# opener may be shorter than the record by so much.
TRAILER = 16
WRAPPING = RECORD_HEADER_LENGTH + TRAILER


def wrap(record_type: int, length: int) -> tuple[bytes, bytes]:
    """What goes in front of and behind `length` bytes that the real kernel has delivered."""
    header = bytes((record_type, 3, 3)) + (length + TRAILER).to_bytes(2)
    return header, bytes(TRAILER)


class Content(bytes):
    """The content of a record that is no application data, with its type."""

    record_type: int


class PassSealer:
    """See Sealer: leaves the sealing to somebody else, who finds a `Content` among the rest.

    `sequence` counts the records that a message becomes if it is sent in one call.
    """

    def __init__(self, session: Session) -> None:
        self.sequence = session.sequence

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        message = b"".join(parts)
        self.sequence += max(1, -(-len(message) // payload_limit))
        if record_type == APPLICATION_DATA:
            return message
        content = Content(message)
        content.record_type = record_type
        return content


class PassOpener:
    """See Opener: takes out what was opened by somebody else.

    `sequence` counts pieces; the real kernel may deliver several records in one.
    """

    overhead = WRAPPING

    def __init__(self, session: Session) -> None:
        self.sequence = session.sequence

    def check_header(self, header: Buffer) -> int:
        return RECORD_HEADER_LENGTH + int.from_bytes(header[3:RECORD_HEADER_LENGTH])

    def open(self, record: memoryview, dest: memoryview) -> tuple[int, int]:
        length = len(record) - WRAPPING
        dest[:length] = record[RECORD_HEADER_LENGTH : RECORD_HEADER_LENGTH + length]
        self.sequence += 1
        return record[0], length


class LinuxEngine:
    """See Engine. Of use only when it is bound to a real socket."""

    name = "linux"
    mode = TCP_TLS_MODE_SW
    route = Route.HOST
    note = "the kernel TLS of this machine, by setsockopt on the real socket"

    def supports(self, session: Session, direction: Direction) -> str | None:
        try:
            crypto_info(session)
        except UnsupportedError as error:
            return str(error)
        return None

    def sealer(self, session: Session) -> Sealer:
        raise CallerError("the linux engine seals on a real socket only")

    def opener(self, session: Session) -> Opener:
        raise CallerError("the linux engine opens on a real socket only")
