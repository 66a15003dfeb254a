"""The machine's own kernel TLS under an emulated socket (engine `linux`).

`BoundEngine` is the engine for one real socket: a key is set by setsockopt on it (TCP_ULP, then
TLS_TX or TLS_RX), and where the real kernel refuses, that is the emulated kernel's refusal, before
anything was changed. `HostIntake` receives with the control messages that tell records' types, and
`send_records` sends with one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from functools import cache

from umktls.abi import linux
from umktls.errors import UnsupportedError
from umktls.kernel.ground.turns import Turn
from umktls.kernel.sockets.stream import SendQueue, broken, readable, writable
from umktls.ktls.engines import MAX_PLAINTEXT, RECORD_HEADER_LENGTH, Opener, Sealer
from umktls.ktls.engines.linux import (
    WRAPPING,
    LinuxEngine,
    PassOpener,
    PassSealer,
    wrap,
)
from umktls.ktls.session import Session
from umktls.ktls.session.crypto_info import crypto_info
from umktls.ktls.session.errors import BadRecord, RecordError, RecordSize, RecordVersion
from umktls.ktls.socket.rx import Receiver
from umktls.rpc.record import RecordReader
from umktls.rpc.xdr import Buffer

__all__ = ["BoundEngine", "HostIntake", "problem", "send_records"]

APPLICATION_DATA = 23
CONTROL_ROOM = 64
# What recvmsg says of a bad record (tls_sw.c), each time it is tried.
FAULTS: dict[int, type[RecordError]] = {
    errno.EBADMSG: BadRecord,
    errno.EINVAL: RecordVersion,
    errno.EMSGSIZE: RecordSize,
}


@cache
def problem() -> str | None:
    """Why this machine's kernel cannot do TLS; None where it can. Asked of a real connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        try:
            attach(sock)
        except UnsupportedError as error:
            return str(error)
    return None


def attach(sock: socket.socket) -> None:
    """Give a connected socket TLS. Raises `UnsupportedError`."""
    try:
        sock.setsockopt(linux.SOL_TCP, linux.TCP_ULP, linux.TLS_ULP_NAME)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return
        raise UnsupportedError(
            f'this machine\'s kernel lacks TLS: TCP_ULP "tls" gives {name_of(error)} '
            "(CONFIG_TLS; as a module it has to be loaded: modprobe tls)",
            error.errno,
        ) from error


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


class BoundEngine(LinuxEngine):
    """See the module. Its sealers and openers only hand on: the real socket does the work."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sealer(self, session: Session) -> Sealer:
        self._set_key(linux.TLS_TX, session)
        return PassSealer(session)

    def opener(self, session: Session) -> Opener:
        self._set_key(linux.TLS_RX, session)
        return PassOpener(session)

    def _set_key(self, option: int, session: Session) -> None:
        """Set one direction's key on the real socket. Raises `UnsupportedError`."""
        attach(self._sock)
        try:
            self._sock.setsockopt(linux.SOL_TLS, option, crypto_info(session).pack())
        except OSError as error:
            raise UnsupportedError(
                f"this machine's kernel refuses the key: {name_of(error)}", error.errno
            ) from error


class HostIntake:
    """See `lanes.Intake`: what the real kernel has opened, in the shape of records."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.bytes = 0  # the receiver counts

    async def fill(self, rx: Receiver, reader: RecordReader, turn: Turn) -> int:
        while True:
            try:
                return self._fill(rx)
            except BlockingIOError:
                await readable(self._sock)
                turn.begin()

    def _fill(self, rx: Receiver) -> int:
        """Receive a record, or a part of one; how many bytes. Raises as `_receive`."""
        room = rx.get_buffer(MAX_PLAINTEXT + WRAPPING)
        limit = min(len(room) - WRAPPING, MAX_PLAINTEXT)
        payload = room[RECORD_HEADER_LENGTH : RECORD_HEADER_LENGTH + limit]
        count, record_type = self._receive(payload)
        if record_type is None:
            rx.buffer_filled(0)
            return 0
        header, trailer = wrap(record_type, count)
        end = RECORD_HEADER_LENGTH + count
        room[:RECORD_HEADER_LENGTH] = header
        room[end : end + len(trailer)] = trailer
        rx.buffer_filled(end + len(trailer))
        return count

    def _receive(self, payload: memoryview) -> tuple[int, int | None]:
        """Length and type of what was received; no type at the end of the stream.

        Raises `RecordError`, `WorldError`, `BlockingIOError`.
        """
        try:
            count, control, _, _ = self._sock.recvmsg_into([payload], CONTROL_ROOM)
        except BlockingIOError:
            raise
        except OSError as error:
            fault = FAULTS.get(error.errno or 0)
            if fault is not None:
                raise fault(f"this machine's kernel says {name_of(error)}") from error
            raise broken("receive", error) from error
        return count, record_type_of(control, count)


def record_type_of(control: list[tuple[int, int, bytes]], count: int) -> int | None:
    """The record's type, from the control messages (TLS_GET_RECORD_TYPE). Data without one is
    application data; None at the end of the stream."""
    for level, kind, data in control:
        if (level, kind) == (linux.SOL_TLS, linux.TLS_GET_RECORD_TYPE) and data:
            return data[0]
    return APPLICATION_DATA if count else None


async def send_records(sock: socket.socket, queue: SendQueue, wire: Iterable[Buffer]) -> None:
    """Send the contents of records, each by a call of its own, behind all that is queued. Nobody
    may send meanwhile.

    What does not fit one record becomes several; the real kernel may take them one by one.

    Raises `WorldError`.
    """
    await queue.emptied()
    for content in wire:
        await send_record(sock, getattr(content, "record_type", APPLICATION_DATA), content)


async def send_record(sock: socket.socket, record_type: int, content: Buffer) -> None:
    control = [(linux.SOL_TLS, linux.TLS_SET_RECORD_TYPE, bytes((record_type,)))]
    left = memoryview(content)
    while len(left):
        try:
            left = left[sock.sendmsg([left], control) :]
        except BlockingIOError:
            await writable(sock)
        except OSError as error:
            raise broken("send", error) from error
