"""Blocking reads and writes with a deadline, on a descriptor that must stay non-blocking.

O_NONBLOCK belongs to the open file, which the daemon shares with the kernel, so it cannot be
switched off here: every operation waits by poll(2) until its deadline.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from umktls.errors import PeerError, WorldError

__all__ = [
    "CONTENT_TYPES",
    "MAX_RECORD",
    "RECORD_HEADER",
    "Deadline",
    "DeadlinePassed",
    "EndOfStream",
    "NotTls",
    "read_exact",
    "read_record",
    "record_length_untrusted",
    "records_ahead",
    "skip",
    "write_all",
]

RECORD_HEADER = 5
_split_header = struct.Struct(">BBxH").unpack_from
# Where a clock stands still in front of a deadline, it is looked at so often.
STANDING_SECONDS = 0.05
# RFC 8446 section 5.2: 2^14 bytes of payload and 256 for type, padding and tag.
MAX_RECORD = 16384 + 256
# So much is looked at ahead: a flight, unless its certificates are long.
AHEAD = 8192
PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
# change_cipher_spec, alert, handshake, application_data
CONTENT_TYPES = range(20, 24)


class DeadlinePassed(WorldError):
    """ETIMEDOUT: the peer did not come in time."""

    default_errno = errno.ETIMEDOUT


class EndOfStream(WorldError):
    """ECONNRESET: the peer closed where more was expected; `received` bytes of it had come."""

    default_errno = errno.ECONNRESET

    def __init__(self, text: str, received: int = 0) -> None:
        super().__init__(text)
        self.received = received


class NotTls(PeerError):
    """The bytes at hand are no TLS record; they are in `head`."""

    def __init__(self, head: bytes) -> None:
        super().__init__(f"bytes that are no TLS record: {head.hex(' ')}")
        self.head = head


class Deadline:
    """A moment by which something has to be done. `now` is the clock: the machine's, or that of the
    host, which can stand still (umktls.standstill)."""

    def __init__(self, at: float, now: Callable[[], float] = time.monotonic) -> None:
        self._at = at
        self._now = now

    @classmethod
    def after(cls, seconds: float, now: Callable[[], float] = time.monotonic) -> Deadline:
        """The moment `seconds` from now."""
        return cls(now() + seconds, now)

    def part(self, share: float) -> Deadline:
        """When that share of what is left will be over, by the same clock."""
        return Deadline.after(self.left() * share, self._now)

    def left(self) -> float:
        """Seconds left, 0.0 when it has passed."""
        return max(0.0, self._at - self._now())

    def wait(self, fd: int, events: int) -> None:
        """Wait until `fd` is ready for `events` (select.POLLIN, POLLOUT); else `DeadlinePassed`."""
        poller = select.poll()
        poller.register(fd, events)
        # Rounded up, so that a deadline is never met by spinning through its last millisecond.
        seconds = self.left()
        while not poller.poll(seconds * 1000 + 0.999):
            if not (seconds := self.left()):
                raise DeadlinePassed("the deadline passed")
            seconds = max(seconds, STANDING_SECONDS)  # the clock stands, or has stood


def read_exact(fd: int, length: int, deadline: Deadline) -> bytes:
    """Read `length` bytes, and not one more.

    Raises `EndOfStream`, `DeadlinePassed`, `WorldError`.
    """
    data = bytearray()
    while len(data) < length:
        try:
            chunk = os.read(fd, length - len(data))
        except BlockingIOError:
            deadline.wait(fd, select.POLLIN)
            continue
        except ConnectionError as error:
            raise EndOfStream(str(error.strerror), len(data)) from error
        except OSError as error:
            raise WorldError(f"cannot read: {error.strerror}", error.errno) from error
        if not chunk:
            raise EndOfStream("the peer closed the connection", len(data))
        data += chunk
    return bytes(data)


def record_length_untrusted(header: bytes) -> int:
    """The bytes that follow the 5-byte header of a TLS record; raises `NotTls` only."""
    length = _body_length(header, 0) if len(header) == RECORD_HEADER else None
    if length is None:
        raise NotTls(header)
    return length


def _body_length(data: bytes, start: int) -> int | None:
    """What the header there says of the length behind it; None if it is no TLS record's."""
    kind, major, length = _split_header(data, start)
    return length if kind in CONTENT_TYPES and major == 3 and length <= MAX_RECORD else None


def read_record(fd: int, deadline: Deadline) -> bytes:
    """Read exactly one TLS record, header included; what follows it stays in the socket.

    Raises what `read_exact` raises, and `NotTls`.
    """
    header = read_exact(fd, RECORD_HEADER, deadline)
    return header + read_exact(fd, record_length_untrusted(header), deadline)


def records_ahead(sock: socket.socket, deadline: Deadline | None = None) -> bytes:
    """The whole TLS records that have come already; they stay in the socket (see `skip`). With a
    deadline, wait for something to come. Raises `DeadlinePassed`.

    Empty where there is none, or none is to be had: who reads next is told why.
    """
    try:
        there = sock.recv(AHEAD, PEEK)
    except BlockingIOError:
        if deadline is None:
            return b""
        deadline.wait(sock.fileno(), select.POLLIN)
        return records_ahead(sock)
    except OSError:
        return b""
    end = 0
    while end + RECORD_HEADER <= len(there):
        length = _body_length(there, end)
        if length is None or (behind := end + RECORD_HEADER + length) > len(there):
            break
        end = behind
    return there[:end]


def skip(sock: socket.socket, count: int) -> None:
    """Take bytes out of the socket that were seen by `records_ahead`. Where the connection broke
    meanwhile, who reads next is told."""
    while count > 0:
        try:
            taken = len(sock.recv(count))
        except OSError:
            return
        count -= taken or count


def write_all(fd: int, data: bytes, deadline: Deadline) -> None:
    """Write all of `data`. Raises `EndOfStream`, `DeadlinePassed`, `WorldError`."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            deadline.wait(fd, select.POLLOUT)
        except ConnectionError as error:
            raise EndOfStream(str(error.strerror)) from error
        except OSError as error:
            raise WorldError(f"cannot write: {error.strerror}", error.errno) from error
