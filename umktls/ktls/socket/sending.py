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

A record that was sealed has used up its sequence number and has to reach the peer, even if the call
that sealed it fails afterwards: a record with a type first lets the open one go, and then there may
be no room for its own. What was sealed waits in `pending_wire` (Linux's tx_list) and counts against
the room of the calls that follow, until one of them hands it out.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import field

from umktls.abi.cmsg import DATA_OFFSET
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UnsupportedError, WorldError
from umktls.ktls.engines import Buffer
from umktls.ktls.session.errors import KeyExhausted, SealFailed, WouldBlock
from umktls.ktls.session.suites import TLS_1_0
from umktls.ktls.socket.state import KtlsSocketState
from umktls.ktls.socket.states import State
from umktls.ktls.socket.tx import APPLICATION_DATA

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
    try:
        return Sent(state.tx.seal_message((data[:count],), kind), count)
    except SealFailed:  # a worker's business, and by then the call has returned
        return Sent([], count)


def _first_record_type(state: KtlsSocketState, control: bytes) -> int | None:
    """The type that the first control message sets, if it is one that does."""
    abi = state.personality.messages
    if len(control) <= DATA_OFFSET:
        return None
    _, _, kind = abi.layout.header.unpack_from(control)
    return control[DATA_OFFSET] if kind == abi.set_record_type[1] else None


def _check_socket(state: KtlsSocketState, message: Message) -> None:
    """What sosend_generic asks about the socket, in its order."""
    if state.rx.dropped or state.sending_over:
        raise WorldError("nothing can be sent any more", errno.EPIPE)
    if state.rx.rules.decrypts_ahead:
        state.rx.open_ahead()
    error = state.rx.take_error()
    if error is not None:
        raise error
    _refuse_unconnected(state, message)


def _refuse_unconnected(state: KtlsSocketState, message: Message) -> None:
    if state.conditions.connected:
        return
    if state.personality.sending.unconnected == "EPIPE":
        raise CallerError("the socket is not connected", errno.EPIPE)
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
    record_type = APPLICATION_DATA
    if message.control:
        record_type = _last_record_type(state, message.control)
        if flags & abi.more:
            raise CallerError("a record with a type of its own cannot be kept open (MSG_MORE)")
        if not state.sending_over:
            close_record(state)
    count = _fill_records(state, message, record_type) if len(message.data) else 0
    return Sent(state.take_pending(), count)


def _send_clear(state: KtlsSocketState, message: Message) -> Sent:
    if message.control and state.personality.sending.clear_control == "refused":
        raise CallerError("a record type for a socket that sends no records")
    _check_connection(state, message)
    room = len(message.data) if message.room is None else message.room
    if len(message.data) and room <= 0:
        raise WouldBlock("the send buffer has no room")
    data = message.data[:room]
    return Sent([data] if len(data) else [], len(data))


def _check_connection(state: KtlsSocketState, message: Message) -> None:
    """What tcp_sendmsg asks. In clear it takes the error that waits; a record's leaves it."""
    if state.personality.sending.shares_errors:
        state.rx.record_ready()  # finds a bad header
        sealed = state.tx.state is not State.CLEAR
        error = state.rx.error if sealed else state.rx.take_error()
        if error is not None:
            raise error
    if state.sending_over and not _is_lost(state):
        raise WorldError("nothing can be sent any more", errno.EPIPE)
    _refuse_unconnected(state, message)


def _is_lost(state: KtlsSocketState) -> bool:
    """Whether records that cannot be sent are made all the same."""
    return state.tx.state is not State.CLEAR and state.personality.sending.over == "lost"


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


def close_record(state: KtlsSocketState) -> None:
    """Seal what MSG_MORE has kept open, if there is any, into `pending_wire`.

    Raises:
        KeyExhausted: as `_seal_record`; the record stays open.
        SealFailed: as `_seal_record`; where the connection lives, the record is lost.
    """
    if state.open_record:
        _seal_record(state, memoryview(b""), APPLICATION_DATA)


def _fill_records(state: KtlsSocketState, message: Message, record_type: int) -> int:
    """Record by record, while there is room; how many bytes were taken.

    Raises where not even the first record goes.
    """
    _check_connection(state, message)
    closes = not message.flags & state.personality.messages.more
    data = message.data
    while len(data):
        count = len(message.data) - len(data)
        if message.room is not None and sum(map(len, state.pending_wire)) >= message.room:
            if count:
                return count
            raise WouldBlock("the send buffer has no room")
        piece = data[: state.tx.payload_limit - len(state.open_record)]
        full = len(state.open_record) + len(piece) == state.tx.payload_limit
        if full or closes:
            try:
                _seal_record(state, piece, record_type)
            except (KeyExhausted, SealFailed):
                if count:
                    return count
                raise
            if state.sending_over:
                state.pending_wire.clear()
                return count + len(piece)
        else:
            state.open_record += piece
        data = data[len(piece) :]
    return len(message.data)


def _seal_record(state: KtlsSocketState, piece: memoryview, record_type: int) -> None:
    """One record from the open one and `piece`, into `pending_wire`.

    Raises:
        KeyExhausted, SealFailed: as Transmitter.seal_message. Linux breaks the socket by them.
    """
    parts = (bytes(state.open_record), piece) if state.open_record else (piece,)
    try:
        state.pending_wire += state.tx.seal_message(parts, record_type)
    except KeyExhausted as error:
        if state.personality.sending.shares_errors:
            state.rx.error = error
        raise
    state.open_record.clear()


SENDERS: dict[str, Callable[[KtlsSocketState, Message], Sent]] = {
    "freebsd": _send_freebsd,
    "linux": _send_linux,
}
