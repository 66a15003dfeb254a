"""What the first bytes of a record may say, and who thinks so.

Three opinions, one table. `strict` is ours: everything that cannot be is refused as soon as the
five bytes are there. FreeBSD (ktls_decrypt of uipc_ktls.c) also waits for the explicit nonce, and
refuses at this point only what has no room for it; what is too short for its tag comes out when the
record is decrypted, and costs that record alone. Linux (tls_rx_msg_size of tls_sw.c) looks at
the length before the version, does not look at the type at all, and says EBADMSG for what is
too short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from umktls.abi.alerts import TlsAlert
from umktls.dataclass import dataclass
from umktls.ktls.session.errors import (
    NULL_ON_ONE_SIDE,
    RecordError,
    RecordMisfit,
    RecordSize,
    RecordTooShort,
    RecordVersion,
)
from umktls.ktls.session.session import Session
from umktls.ktls.session.suites import CBC_BLOCK, TLS_1_3, Suite

Buffer = bytes | bytearray | memoryview

RECORD_HEADER_LENGTH = 5
MAX_PLAINTEXT = 16384  # RFC 8446 section 5.1, RFC 5246 section 6.2.1
MAX_CBC_PADDING = 256
OUTER_TYPE = 23
CONTENT_TYPES = range(20, 25)  # and heartbeat, RFC 6520


@dataclass(frozen=True, slots=True)
class Framing:
    """What is demanded of a record's header. Lengths are of what stands behind it, in bytes.

    Attributes:
        needed: so many bytes of a record have to be there before it is judged.
        minor: of the version on the wire, 3.x.
        outer_type: the only type there is, None for any.
        shortest, longest: a header that says less or more is refused with `too_short` or
            RecordSize.
        least: a record that is shorter cannot be opened (RecordMisfit).
        block: its length behind the IV is a multiple of this.
        length_first: of two faults, the length's is told.
    """

    needed: int
    minor: int
    outer_type: int | None
    shortest: int
    longest: int
    least: int
    block: int = 1
    too_short: type[RecordError] = RecordSize
    length_first: bool = False

    def check(self, header: Buffer) -> int:
        """Length of the whole record (header included) whose first five bytes these are.

        Raises:
            RecordVersion, RecordSize, RecordTooShort: it can only be a bad record.
        """
        outer_type, major, minor, high, low = header
        length = high << 8 | low
        if (
            self.shortest <= length <= self.longest
            and major == 3
            and minor == self.minor
            and (self.outer_type is None or outer_type == self.outer_type)
        ):
            return RECORD_HEADER_LENGTH + length
        raise self._fault(outer_type, (major, minor), length)

    def _fault(self, outer_type: int, version: tuple[int, int], length: int) -> RecordError:
        """Which of the faults of a bad header is told."""
        faults: list[RecordError] = []
        known = outer_type in CONTENT_TYPES
        clear = "" if known else f"; it begins as no record does: {NULL_ON_ONE_SIDE}"
        if version != (3, self.minor):
            text = f"a record says version {version[0]}.{version[1]}, not 3.{self.minor}{clear}"
            faults.append(RecordVersion(text))
        elif self.outer_type not in (None, outer_type):
            text = f"a record of outer type {outer_type}; TLS 1.3 has only {self.outer_type}{clear}"
            faults.append(RecordVersion(text, alert=TlsAlert.UNEXPECTED_MESSAGE))
        if length > self.longest:
            text = f"a record of {length} bytes; there are at most {self.longest}{clear}"
            faults.append(RecordSize(text))
        elif length < self.shortest:
            text = f"a record of {length} bytes; there are at least {self.shortest}{clear}"
            faults.append(self.too_short(text, alert=TlsAlert.BAD_RECORD_MAC))
        return faults[-1 if self.length_first else 0]

    def check_body(self, length: int) -> None:
        """Refuse a whole record of that length that cannot be opened. Raises RecordMisfit."""
        if length < self.least or length % self.block:
            raise RecordMisfit(f"a record of {length} bytes has no room for its tag, or odd blocks")

    def openable(self, header: Buffer) -> int | None:
        """As `check`; None where no record that begins like that can be opened."""
        try:
            size = self.check(header)
            self.check_body(size - RECORD_HEADER_LENGTH)
        except RecordError:
            return None
        return size


def framing_of(session: Session) -> Framing:
    """What `session.framing` demands of the session's records."""
    return _framing(session.framing, session.version, session.suite)


@lru_cache(maxsize=256)
def _framing(opinion: str, version: int, suite: Suite) -> Framing:
    return _OPINIONS[opinion](version, suite)


def least_length(session: Session) -> int:
    """The shortest that a record with an empty payload can be, header not counted."""
    return _least(session.version, session.suite)


def _least(version: int, suite: Suite) -> int:
    explicit = suite.explicit(version)
    if suite.mac:
        return explicit + (suite.tag_length + CBC_BLOCK) // CBC_BLOCK * CBC_BLOCK
    return explicit + suite.tag_length + (version == TLS_1_3)


def _strict(version: int, suite: Suite) -> Framing:
    least = _least(version, suite)
    padding = MAX_CBC_PADDING + suite.tag_length if suite.mac else 0
    explicit = suite.explicit(version)
    return Framing(
        needed=RECORD_HEADER_LENGTH,
        minor=min(version, TLS_1_3 - 1) & 0xFF,
        outer_type=OUTER_TYPE if version == TLS_1_3 else None,
        shortest=least,
        longest=MAX_PLAINTEXT + (explicit + padding if padding else least),
        least=least,
        block=CBC_BLOCK if suite.mac else 1,
    )


def _freebsd(version: int, suite: Suite) -> Framing:
    explicit = suite.explicit(version)
    strict = _strict(version, suite)
    trailer = CBC_BLOCK + suite.tag_length if suite.mac else strict.least - explicit
    return Framing(
        needed=RECORD_HEADER_LENGTH + explicit,
        minor=strict.minor,
        outer_type=strict.outer_type,
        shortest=explicit,
        longest=explicit + MAX_PLAINTEXT + trailer,
        least=strict.least,
        block=strict.block,
    )


def _linux(version: int, suite: Suite) -> Framing:
    explicit = suite.explicit(version)
    shortest = explicit + suite.tag_length
    return Framing(
        needed=RECORD_HEADER_LENGTH + explicit,
        minor=_strict(version, suite).minor,
        outer_type=None,
        shortest=shortest,
        longest=MAX_PLAINTEXT + shortest + (version == TLS_1_3),
        least=shortest,
        too_short=RecordTooShort,
        length_first=True,
    )


_OPINIONS: dict[str, Callable[[int, Suite], Framing]] = {
    "strict": _strict,
    "freebsd": _freebsd,
    "linux": _linux,
}
