"""UMKTLS_LEFTOVER: a daemon gives back what its TLS library had read too far (design case S6).

A library that reads ahead holds bytes that belong to the kernel: records that it did not open, and
perhaps data that it opened and nobody read. With the socket option the records go to the head of
the receive queue, in front of the bytes that wait there, and the sequence number is set back by as
many as they are; the data is delivered before everything else.

That can only be right as long as the kernel has opened nothing itself, and only if the pieces fit:
the number that the daemon says the first record has must be the one that comes out, and the bytes,
together with those that wait, must be a row of records. Otherwise nothing is changed.

Before the key is set the bytes go back as they are, and the key says which number the first of
them has.
"""

from __future__ import annotations

import errno

from umktls.abi.leftover import Leftover
from umktls.abi.personality import SEQUENCE_END
from umktls.abi.rpctls import SOL_UMKTLS, UMKTLS_LEFTOVER
from umktls.errors import CallerError, WorldError
from umktls.ktls.engines import RECORD_HEADER_LENGTH
from umktls.ktls.options.option import Copyin, Option
from umktls.ktls.session.errors import RecordError
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.state import KtlsSocketState
from umktls.ktls.socket.states import State


def _set_leftover(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    leftover = Leftover.unpack_untrusted(value)
    rx = state.rx
    if rx.state is State.BROKEN or state.dropped:
        raise WorldError("reception has ended; nothing can be given back", errno.ECONNRESET)
    if rx.records:
        raise CallerError("the kernel has opened records behind what is given back", errno.EBUSY)
    records = 0
    if rx.state is not State.CLEAR:
        records = _aligned_records(rx, leftover)
    elif leftover.data:
        raise CallerError("data that was opened can be given back once the RX key is set")
    rx.give_back(leftover.wire, records)
    if leftover.data:
        rx.give_back_data(leftover.data)


def _aligned_records(rx: Receiver, leftover: Leftover) -> int:
    """How many records the kernel had taken for read. Raises CallerError (EINVAL)."""
    records = 0
    stream = leftover.wire + rx.waiting()
    start = 0
    while start + RECORD_HEADER_LENGTH <= len(stream):
        start += _record_size(rx, stream, start)
        if start <= len(leftover.wire):
            records += 1
    if (leftover.rec_seq + records - rx.sequence) % SEQUENCE_END:
        raise CallerError(
            f"{records} whole records from number {leftover.rec_seq} on do not end at number "
            f"{rx.sequence}, which the kernel has next"
        )
    return records


def _record_size(rx: Receiver, stream: bytes, start: int) -> int:
    try:
        return rx.check_header(stream[start : start + RECORD_HEADER_LENGTH])
    except RecordError as error:
        raise CallerError(
            f"what is given back is no row of records, at its byte {start}: {error}"
        ) from error


OWN_OPTIONS = (
    Option(
        "umktls",
        "SOL_UMKTLS",
        "UMKTLS_LEFTOVER",
        SOL_UMKTLS,
        UMKTLS_LEFTOVER,
        _set_leftover,
        None,
        "gives back what a TLS library had read too far; refused where it does not align",
    ),
)
