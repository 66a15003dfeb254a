"""sendmsg(2) on a KTLS socket, as FreeBSD and as Linux have it.

FreeBSD (sosend_generic of uipc_socket.c, ktls_frame of uipc_ktls.c): every call makes records of
its own. A TLS_SET_RECORD_TYPE gives all of them their type and makes the call all or nothing;
only the first control message is looked at, and only its type. Empty records there are none,
except under TLS 1.0 with CBC.

Linux (tls_sw_sendmsg of tls_sw.c, tls_process_cmsg of tls_main.c): MSG_MORE keeps a record open
until a call without it, until it is full, or until a record of another type has to go. A send of
nothing makes no record. How much fits is decided record by record: one that has begun is accepted
whole.

`room` is how many bytes TCP's send buffer still takes, None for any number. Where it does not
suffice, WouldBlock is raised or less is sent; whether to wait then is the caller's business.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from umktls.abi.cmsg import DATA_OFFSET
from umktls.errors import CallerError, UnsupportedError, WorldError
from umktls.ktls.engines import Buffer
from umktls.ktls.errors import KeyExhausted, WouldBlock
from umktls.ktls.states import State
from umktls.ktls.suites import TLS_1_0
from umktls.ktls.tx import APPLICATION_DATA

if TYPE_CHECKING:
    from umktls.ktls.socket import KtlsSocketState

SEND_LOW_WATER = 2048  # FreeBSD's so_snd.sb_lowat


@dataclass(slots=True)
class Sent:
    """What goes to TCP, and how many of the caller's bytes are in it or kept for later."""

    wire: list[Buffer] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One call of sendmsg(2). `broadcast`: it names such an address, which TCP cannot reach."""

    data: memoryview
    control: bytes
    flags: int
    room: int | None
    broadcast: bool = False


def _send_freebsd(state: KtlsSocketState, message: Message) -> Sent:
    abi = state.personality.messages
    data = message.data
    if message.flags & abi.eor:
        raise CallerError("MSG_EOR is not for stream sockets")
    sealed = state.tx.state is not State.CLEAR
    record_type = _first_record_type(state, message.control) if sealed else None
    if sealed and not len(data) and state.version("tx") != TLS_1_0:
        raise CallerError("a KTLS socket sends no empty record")
    _check_socket(state, message)
    count = _room_for(state, message, whole=record_type is not None)
    if message.control and record_type is None:
        raise CallerError("TCP takes no control message, and kernel TLS only TLS_SET_RECORD_TYPE")
    if not sealed:
        return Sent([data[:count]] if count else [], count)
    kind = APPLICATION_DATA if record_type is None else record_type
    return Sent(state.tx.seal_message((data[:count],), kind), count)


def _first_record_type(state: KtlsSocketState, control: bytes) -> int | None:
    """The type that the first control message sets, if it is one that does."""
    abi = state.personality.messages
    if len(control) <= DATA_OFFSET:
        return None
    _, _, kind = abi.layout.header.unpack_from(control)
    return control[DATA_OFFSET] if kind == abi.set_record_type[1] else None


def _check_socket(state: KtlsSocketState, message: Message) -> None:
    """What sosend_generic asks about the socket, in its order."""
    if state.conditions.dropped or state.rx.dropped:
        raise WorldError("the connection has been dropped", errno.EPIPE)
    if state.rx.rules.decrypts_ahead:
        state.rx.open_ahead()
    error = state.rx.take_error()
    if error is not None:
        raise error
    if not state.conditions.connected:
        if message.broadcast:
            raise CallerError("TCP cannot connect to a broadcast address", errno.EACCES)
        raise CallerError("the socket is not connected", errno.ENOTCONN)


def _room_for(state: KtlsSocketState, message: Message, whole: bool) -> int:
    """How many of the message's bytes are taken now."""
    length, room = len(message.data), message.room
    if whole and length > state.send_high_water:
        raise CallerError(f"{length} bytes cannot be sent at once", errno.EMSGSIZE)
    if room is None or room >= length:
        return length
    if whole or room < SEND_LOW_WATER:
        raise WouldBlock("the send buffer has no room")
    return room


def _send_linux(state: KtlsSocketState, message: Message) -> Sent:
    abi = state.personality.messages
    flags = message.flags
    if state.tx.state is State.CLEAR:
        return _send_clear(state, message)
    if flags & ~(abi.more | abi.dontwait | abi.nosignal | abi.eor):
        raise UnsupportedError(f"flags {flags:#x} on a socket that sends records")
    if flags & abi.more and flags & abi.eor:
        raise CallerError("MSG_MORE and MSG_EOR together")
    sent = Sent()
    record_type = APPLICATION_DATA
    if message.control:
        record_type = _last_record_type(state, message.control)
        if flags & abi.more:
            raise CallerError("a record with a type of its own cannot be kept open (MSG_MORE)")
        sent.wire += _flush(state)
    if len(message.data):
        _fill_records(state, message, record_type, sent)
    return sent


def _send_clear(state: KtlsSocketState, message: Message) -> Sent:
    if message.control and state.personality.sending.clear_control == "refused":
        raise CallerError("a record type for a socket that sends no records")
    room = len(message.data) if message.room is None else message.room
    if len(message.data) and room <= 0:
        raise WouldBlock("the send buffer has no room")
    data = message.data[:room]
    return Sent([data] if len(data) else [], len(data))


def _last_record_type(state: KtlsSocketState, control: bytes) -> int:
    """The type that the control messages of our level set; others' are passed over."""
    abi = state.personality.messages
    level, kind = abi.set_record_type
    record_type = None
    for message in abi.layout.parse_untrusted(control):
        if message.level != level:
            continue
        if message.type != kind or not message.data:
            raise CallerError("the only control message to send is TLS_SET_RECORD_TYPE")
        record_type = message.data[0]
    if record_type is None:
        raise CallerError("no control message is for kernel TLS")
    return record_type


def _flush(state: KtlsSocketState) -> list[Buffer]:
    """The open record, closed."""
    if not state.open_record:
        return []
    wire = state.tx.seal_message((bytes(state.open_record),))
    state.open_record.clear()
    return wire


def _fill_records(state: KtlsSocketState, message: Message, record_type: int, sent: Sent) -> None:
    """Record by record, while there is room. Raises where not even the first one goes."""
    if state.personality.sending.shares_errors:
        state.rx.record_ready()  # finds a bad header
        if state.rx.error is not None:
            raise state.rx.error
    closes = not message.flags & state.personality.messages.more
    data, room = message.data, message.room
    while len(data):
        if room is not None and room <= 0:
            if not sent.count:
                raise WouldBlock("the send buffer has no room")
            return
        piece = data[: state.tx.payload_limit - len(state.open_record)]
        full = len(state.open_record) + len(piece) == state.tx.payload_limit
        if full or closes:
            wire = _seal_record(state, piece, record_type, sent)
            if wire is None:
                return
            sent.wire += wire
            room = None if room is None else room - sum(map(len, wire))
        else:
            state.open_record += piece
        sent.count += len(piece)
        data = data[len(piece) :]


def _seal_record(
    state: KtlsSocketState, piece: memoryview, record_type: int, sent: Sent
) -> list[Buffer] | None:
    """One record from the open one and `piece`; None where the end of the key came behind others.

    Raises:
        KeyExhausted: as Transmitter.seal_message. Linux breaks the socket by it.
    """
    parts = (bytes(state.open_record), piece) if state.open_record else (piece,)
    try:
        wire = state.tx.seal_message(parts, record_type)
    except KeyExhausted as error:
        if state.personality.sending.shares_errors:
            state.rx.error = error
        if sent.count:
            return None
        raise
    state.open_record.clear()
    return wire


SENDERS: dict[str, Callable[[KtlsSocketState, Message], Sent]] = {
    "freebsd": _send_freebsd,
    "linux": _send_linux,
}
