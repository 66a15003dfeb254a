"""recvmsg(2) and poll(2) on a KTLS socket, as FreeBSD and as Linux have them.

FreeBSD (soreceive_generic of uipc_socket.c): a call returns at most one record. Its type comes with
its first byte (TLS_GET_RECORD), MSG_EOR with its last. Without a control buffer the payload is
delivered all the same, whatever its type. MSG_WAITALL and the low-water mark do not matter: the
end of a record ends the wait; for poll(2) the mark does.

Linux (tls_sw_recvmsg and tls_sk_poll): a call returns as many records of application data as fit,
but a record of any other type alone, and that only with room for its control message (EIO). The
type is told in every call. Records that were peeked at stay, opened.

Nothing here waits. A call that the kernel would let wait raises WouldBlock, having taken nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import field

from umktls.abi.cmsg import DATA_OFFSET, cmsg_len
from umktls.abi.freebsd import TLS_RLTYPE_ALERT, TlsGetRecord, cmsg_space
from umktls.abi.messages import MessageAbi
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.socket.received import APPLICATION_DATA, Record
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.state import KtlsSocketState
from umktls.ktls.socket.states import State

Received = tuple[bytes, bytes, int]
"""Data, control messages, flags."""

NOTHING: Received = (b"", b"", 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of recvmsg(2)."""

    length: int
    controllen: int
    flags: int
    abi: MessageAbi

    @property
    def peek(self) -> bool:
        return bool(self.flags & self.abi.peek)

    @property
    def may_wait(self) -> bool:
        return not self.flags & self.abi.dontwait

    def target(self, low_water: int) -> int:
        """How many bytes end the wait."""
        wanted = self.length if self.flags & self.abi.waitall else min(low_water, self.length)
        return max(1, wanted)


def _receive_clear(state: KtlsSocketState, call: Call) -> Received:
    rx = state.rx
    if not call.length:
        return NOTHING
    if not rx.waiting_bytes():
        # FreeBSD's so_error survives a peek, Linux's sk_err does not.
        error = rx.error if call.peek and rx.rules.decrypts_ahead else rx.take_error()
        if error is not None:
            raise error
    short = rx.waiting_bytes() < (call.target(state.receive_low_water) if call.may_wait else 1)
    if short and not state.ended:
        raise _nothing_yet(state)
    return rx.read_clear(call.length, peek=call.peek), b"", 0


def _nothing_yet(state: KtlsSocketState) -> UmktlsError:
    """What is raised where there is too little, and the stream has not ended."""
    if not state.conditions.connected:
        return CallerError("the socket is not connected", errno.ENOTCONN)
    return WouldBlock("not enough was received yet")


# FreeBSD


def _receive_freebsd(state: KtlsSocketState, call: Call) -> Received:
    if state.rx.state is State.CLEAR:
        return _receive_clear(state, call)
    record = _head_freebsd(state, call)
    if record is None:
        return NOTHING
    control = b""
    if not record.announced:
        _refuse_type(state, record, call)
        control = _get_record(state, record) if call.controllen else b""
    data = record.rest[: call.length].tobytes()
    msg_flags = call.abi.ctrunc if len(control) > call.controllen else 0
    if len(data) == len(record.rest):
        msg_flags |= _record_end(state, record)
    if not call.peek:
        record.announced = True
        state.rx.consume(len(data))
    return data, control[: call.controllen], msg_flags


def _head_freebsd(state: KtlsSocketState, call: Call) -> Record | None:
    """The record at the head, None at the end of the stream or where nothing was asked for."""
    rx = state.rx
    if rx.rules.decrypts_ahead and not rx.parked:
        rx.open_ahead()
        if call.peek and not rx.parked and rx.error is not None:
            raise rx.error
    record = rx.read_record()
    if record is not None:
        return record
    waits_for_ever = rx.truncated and rx.rules.truncated == "error, then wait"
    if call.length and (waits_for_ever or not (rx.eof or state.conditions.dropped)):
        raise _nothing_yet(state)
    return None


def _refuse_type(state: KtlsSocketState, record: Record, call: Call) -> None:
    """A record that stays in the queue because of its type."""
    rules = state.personality.receiving
    if record.type == APPLICATION_DATA:
        return
    stops = record.type == TLS_RLTYPE_ALERT or rules.app_data_stops == "control"
    if call.flags & call.abi.tls_app_data and stops:
        raise CallerError(f"a record of type {record.type} is next", errno.ENXIO)
    if rules.control_needed and call.controllen < cmsg_len(call.abi.get_record_size):
        raise CallerError(f"no room for the type of a record of type {record.type}", errno.EIO)


def _record_end(state: KtlsSocketState, record: Record) -> int:
    shown = len(record.payload) or state.personality.receiving.empty_is_record_end
    return state.personality.messages.eor if shown else 0


def _get_record(state: KtlsSocketState, record: Record) -> bytes:
    """TLS_GET_RECORD for a record. The version is the wire's: 3.3, for TLS 1.3 too. Linux's has the
    type alone."""
    header = TlsGetRecord(record.type, 3, state.wire_minor("rx"), len(record.payload)).pack()
    abi = state.personality.messages
    return abi.layout.pack(*abi.get_record_type, header[: abi.get_record_size])


def _readable_freebsd(state: KtlsSocketState) -> bool:
    """soreadable: what may be read without waiting, control messages counted."""
    rx = state.rx
    if rx.state is State.CLEAR:
        return state.ended or rx.waiting_bytes() >= state.receive_low_water
    if rx.rules.decrypts_ahead:
        rx.open_ahead()
        announced = cmsg_space(state.personality.messages.get_record_size)
        available = sum(len(r.rest) + (0 if r.announced else announced) for r in rx.parked)
        ready = available >= state.receive_low_water
    else:
        ready = bool(rx.parked) or rx.record_ready()
    return ready or state.ended or rx.error is not None


# Linux


@dataclass(slots=True)
class _Gathering:
    """What one recvmsg of Linux's has found so far."""

    type: int = 0
    control: bytes = b""
    flags: int = 0
    pieces: list[bytes] = field(default_factory=list)
    copied: int = 0

    def commit(self, rx: Receiver) -> None:
        """Take what was found out of the queue."""
        for piece in self.pieces:
            rx.consume(len(piece))

    def received(self) -> Received:
        return b"".join(self.pieces), self.control, self.flags


def _receive_linux(state: KtlsSocketState, call: Call) -> Received:
    rx = state.rx
    if call.flags & call.abi.errqueue:
        raise WouldBlock("the queue of errors is empty")
    if rx.state is State.CLEAR:
        return _receive_clear(state, call)
    found = _Gathering()
    if not call.length:
        return found.received()
    try:
        _gather(state, call, found)
    except UmktlsError:
        # What had no payload is gone; what has some waits for the caller to come again.
        if not found.copied and not call.peek:
            found.commit(rx)
        raise
    if not call.peek:
        found.commit(rx)
    return found.received()


def _gather(state: KtlsSocketState, call: Call, found: _Gathering) -> None:
    """Records from the head on, until the buffer is full or one of them does not fit the others."""
    rx = state.rx
    opened_before = len(rx.parked)
    target = call.target(state.receive_low_water)
    index = 0
    while found.copied < call.length:
        if index == len(rx.parked) and not _another(state, call, found, target):
            return
        record = rx.parked[index]
        if not found.type:
            _announce(record, call, found)
        elif record.type != found.type:
            return
        piece = record.rest[: call.length - found.copied].tobytes()
        found.pieces.append(piece)
        found.copied += len(piece)
        # A peek shows the end of records that were opened before it, whether it reaches it or not.
        whole = index < opened_before if call.peek else len(piece) == len(record.rest)
        found.flags |= call.abi.eor if whole else 0
        if record.type != APPLICATION_DATA:
            return
        index += 1


def _another(state: KtlsSocketState, call: Call, found: _Gathering, target: int) -> bool:
    """Open one more record; False where the call returns with what it has.

    Raises:
        UmktlsError: there is nothing to return with, or more has to come (WouldBlock). Where the
            call returns with something, an error that was told once is lost, as in Linux.
    """
    rx = state.rx
    if found.copied >= target and not rx.record_ready():
        return False
    no_pad = state.expect_no_pad and not call.peek
    try:
        record = rx.open_another(call.length - found.copied if no_pad else -1)
    except UmktlsError:
        if found.copied:
            return False
        raise
    if record is not None:
        return True
    if state.ended:
        return False
    if call.may_wait or not found.copied:
        raise _nothing_yet(state)
    return False


def _announce(record: Record, call: Call, found: _Gathering) -> None:
    """put_cmsg: the type of what this call returns. Raises CallerError (EIO)."""
    found.type = record.type
    layout = call.abi.layout
    level, kind = call.abi.get_record_type
    room = call.controllen
    if room < cmsg_len(1):
        found.flags |= call.abi.ctrunc
        if record.type != APPLICATION_DATA:
            raise CallerError(f"no room for the type of a record of type {record.type}", errno.EIO)
        if room >= DATA_OFFSET:
            found.control = layout.header.pack(room, level, kind)
        return
    found.control = layout.pack(level, kind, bytes([record.type]))[:room]


def _readable_linux(state: KtlsSocketState) -> bool:
    rx = state.rx
    if rx.state is State.CLEAR:
        return state.ended or rx.waiting_bytes() >= state.receive_low_water
    ready = bool(rx.parked) or rx.record_ready()
    if rx.state is State.PAUSED and rx.rules.key_update_hides_records:
        ready = False
    return ready or state.ended or rx.error is not None


RECEIVERS: dict[str, Callable[[KtlsSocketState, Call], Received]] = {
    "freebsd": _receive_freebsd,
    "linux": _receive_linux,
}
READABLE: dict[str, Callable[[KtlsSocketState], bool]] = {
    "freebsd": _readable_freebsd,
    "linux": _readable_linux,
}
