"""sendmsg and recvmsg on a KTLS socket."""

from __future__ import annotations

import errno

import pytest

from tests.ktls.engines.test_engines import record_by_hand
from tests.ktls.helpers import (
    AES128,
    ENGINE,
    ListSink,
    flipped,
    receive,
    seal,
    session,
    transmitter,
)
from tests.ktls.options.enabling import enable_socket
from umktls.abi.cmsg import DATA_OFFSET
from umktls.abi.freebsd import (
    IPPROTO_TCP,
    MSG_CTRUNC,
    MSG_EOR,
    MSG_PEEK,
    TLS_GET_RECORD,
    TLS_SET_RECORD_TYPE,
    TlsGetRecord,
    pack_control,
    parse_control_untrusted,
)
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.options.checks import Sysctls
from umktls.ktls.session import Session
from umktls.ktls.session.errors import WouldBlock
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_2, TLS_1_3
from umktls.ktls.socket.rx import PullResult, Receiver

FULL = 24  # CMSG_SPACE(6)


def set_type(record_type: int) -> bytes:
    return pack_control(IPPROTO_TCP, TLS_SET_RECORD_TYPE, bytes([record_type]))


def socket(personality: str = "freebsd14", sysctls: Sysctls | None = None) -> KtlsSocket:
    state = KtlsSocket(ENGINE, ENGINE, PERSONALITIES[personality], sysctls)
    enable_socket(state, "tx", session())
    enable_socket(state, "rx", session())
    return state


def sent(state: KtlsSocket, data: bytes, control: bytes = b"") -> list[tuple[int, bytes]]:
    """The records of one sendmsg, as the other side sees them."""
    rx = Receiver()
    opener = ENGINE.opener(session(sequence=state.tx.sequence))
    rx.enable(opener, AES128)
    receive(rx, b"".join(state.sendmsg(data, control)))
    records = []
    while (record := rx.read_record()) is not None:
        records.append((record.type, bytes(record.payload)))
        rx.consume(len(record.payload))
    assert rx.waiting_bytes() == 0
    return records


def record_of(control: bytes) -> TlsGetRecord:
    (message,) = parse_control_untrusted(control)
    assert (message.level, message.type) == (IPPROTO_TCP, TLS_GET_RECORD)
    return TlsGetRecord.unpack_untrusted(message.data)


def test_a_message_is_records_of_its_own() -> None:
    state = socket()
    assert sent(state, b"x" * 20_000) == [(23, b"x" * 16384), (23, b"x" * 3616)]
    assert sent(state, b"short") == [(23, b"short")]


def test_a_control_message_sets_the_type_of_one_call() -> None:
    state = socket()
    assert sent(state, b"\1\0", set_type(21)) == [(21, b"\1\0")]
    assert sent(state, b"data") == [(23, b"data")]


@pytest.mark.parametrize("personality", ["freebsd14", "umktls"])
def test_a_typed_message_over_the_record_limit(personality: str) -> None:
    state = socket(personality, Sysctls(maxlen=10))
    assert sent(state, b"0123456789abcd", set_type(22)) == [(22, b"0123456789"), (22, b"abcd")]
    assert sent(state, b"0123456789", set_type(22)) == [(22, b"0123456789")]


def test_a_typed_message_over_the_high_water_mark() -> None:
    state = socket()
    state.send_high_water = 100
    assert sent(state, b"x" * 101) == [(23, b"x" * 101)]
    assert sent(state, b"x" * 100, set_type(22)) == [(22, b"x" * 100)]
    with pytest.raises(CallerError) as caught:
        state.sendmsg(b"x" * 101, set_type(22))
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize(
    "call",
    [
        (b"",),
        (b"", set_type(21)),
        (b"data", b"", MSG_EOR),
        (b"data", pack_control(IPPROTO_TCP, TLS_GET_RECORD, b"\x15")),
        (b"data", b"\x11\0\0"),
    ],
)
def test_what_cannot_be_sent(call: tuple[bytes, bytes, int]) -> None:
    state = socket()
    with pytest.raises(CallerError) as caught:
        state.sendmsg(*call)
    assert caught.value.errno == errno.EINVAL
    assert state.tx.records == 0


def test_a_socket_in_clear() -> None:
    state = KtlsSocket(ENGINE, ENGINE)
    assert state.sendmsg(b"hello") == [b"hello"]
    assert state.sendmsg(b"") == []
    with pytest.raises(CallerError):
        state.sendmsg(b"hello", set_type(21))
    with pytest.raises(WouldBlock) as caught:
        state.recvmsg(10, FULL)
    assert caught.value.errno == errno.EAGAIN
    receive(state.rx, b"0123456789")
    assert state.recvmsg(4, FULL, MSG_PEEK) == (b"0123", b"", 0)
    assert state.recvmsg(4, FULL) == (b"0123", b"", 0)
    assert state.recvmsg(0, FULL) == (b"", b"", 0)
    assert state.recvmsg(100, FULL) == (b"456789", b"", 0)
    state.rx.buffer_filled(0)
    assert state.recvmsg(100, FULL) == (b"", b"", 0)


@pytest.mark.parametrize(("room", "taken"), [(2, b"he"), (5, b"hello"), (9, b"hello")])
def test_linux_takes_in_clear_what_there_is_room_for(room: int, taken: bytes) -> None:
    state = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["linux"])
    for full in (0, -1):
        with pytest.raises(WouldBlock, match="no room"):
            state.send(b"hello", room=full)
        assert state.send(b"", room=full).count == 0
    sent = state.send(b"hello", room=room)
    assert (b"".join(sent.wire), sent.count) == (taken, len(taken))


def test_one_record_per_call_with_its_type() -> None:
    state, tx = socket(), transmitter()
    receive(state.rx, seal(tx, b"one") + seal(tx, b"\1\0", 21) + seal(tx, b"two"))
    for record_type, payload in [(23, b"one"), (21, b"\1\0"), (23, b"two")]:
        data, control, flags = state.recvmsg(100, FULL)
        assert data == payload
        assert flags == MSG_EOR
        # TLS 1.3 shows the version that is on the wire, 3.3.
        assert record_of(control) == TlsGetRecord(record_type, 3, 3, len(payload))
        assert len(control) == FULL
    with pytest.raises(WouldBlock):
        state.recvmsg(100, FULL)


def test_a_short_buffer_leaves_the_rest() -> None:
    state = socket()
    receive(state.rx, seal(transmitter(), b"0123456789"))
    first = state.recvmsg(4, FULL)
    assert (first[0], first[2]) == (b"0123", 0)
    assert record_of(first[1]).tls_length == 10
    assert state.recvmsg(4, FULL) == (b"4567", b"", 0)
    assert state.recvmsg(4, FULL) == (b"89", b"", MSG_EOR)


def test_a_record_without_payload_is_a_control_message_alone() -> None:
    state, tx = socket("umktls"), transmitter()
    empty = b"".join(tx.seal_message((b"",), 23))
    receive(state.rx, empty + seal(tx, b"next"))
    data, control, flags = state.recvmsg(100, FULL)
    assert (data, flags, record_of(control).tls_type) == (b"", MSG_EOR, 23)
    assert state.recvmsg(100, FULL)[0] == b"next"


def test_without_a_control_buffer_any_type_is_delivered() -> None:
    state = socket()
    receive(state.rx, seal(transmitter(), b"\1\0", 21))
    assert state.recvmsg(100, 0) == (b"\1\0", b"", MSG_EOR)


def test_a_control_buffer_that_is_too_small() -> None:
    state = socket()
    receive(state.rx, seal(transmitter(), b"data"))
    data, control, flags = state.recvmsg(100, 20)
    assert (data, len(control), flags) == (b"data", 20, MSG_EOR | MSG_CTRUNC)


def test_peeking_takes_nothing() -> None:
    state = socket()
    receive(state.rx, seal(transmitter(), b"data", 22))
    assert state.recvmsg(2, FULL, MSG_PEEK) == state.recvmsg(2, FULL, MSG_PEEK)
    data, control, _ = state.recvmsg(100, FULL)
    assert data == b"data"
    assert record_of(control).tls_type == 22


def test_padding_is_not_delivered() -> None:
    state = socket()
    receive(state.rx, record_by_hand(AES128.name, b"x" * 64 + b"\x17" + bytes(16)))
    data, control, _ = state.recvmsg(100, FULL)
    assert data == b"x" * 64
    assert record_of(control).tls_length == 64


def test_the_end_of_the_stream() -> None:
    state = socket()
    receive(state.rx, seal(transmitter(), b"last"))
    state.rx.buffer_filled(0)
    assert state.recvmsg(100, FULL)[0] == b"last"
    assert state.recvmsg(100, FULL) == (b"", b"", 0)


@pytest.mark.parametrize(
    ("personality", "expected"),
    [
        # Opened as they arrive; one error at a time is remembered, and the end never told.
        ("freebsd14", [b"good", b"after", errno.EMSGSIZE, *[errno.EAGAIN] * 3]),
        ("umktls", [b"good", errno.EBADMSG, b"after", errno.EMSGSIZE, b"", b""]),
    ],
)
def test_errors_have_their_place(personality: str, expected: list[bytes | int]) -> None:
    state, tx = socket(personality), transmitter()
    good, bad, after = seal(tx, b"good"), flipped(seal(tx, b"bad"), 9), seal(tx, b"after")
    receive(state.rx, good + bad + after + b"\x17\x03")
    state.rx.buffer_filled(0)
    outcomes: list[bytes | int] = []
    for _ in range(6):
        try:
            outcomes.append(state.recvmsg(100, FULL)[0])
        except UmktlsError as error:
            outcomes.append(error.errno)
    assert outcomes == expected


def test_after_a_key_update_nothing_until_the_new_key() -> None:
    state, tx = socket("umktls"), transmitter()
    receive(state.rx, seal(tx, b"\x18\0\0\1\1", 22))
    tx.rekey(ENGINE.sealer(session(epoch=1)), AES128)
    receive(state.rx, seal(tx, b"new"))
    assert state.recvmsg(100, FULL)[0] == b"\x18\0\0\1\1"
    for _ in range(2):
        with pytest.raises(UmktlsError) as caught:
            state.recvmsg(100, FULL)
        assert caught.value.errno == errno.EKEYEXPIRED
    enable_socket(state, "rx", session(epoch=1))
    assert state.recvmsg(100, FULL)[0] == b"new"


def test_the_daemon_and_the_rpc_layer_read_the_same_queue() -> None:
    state, tx, sink = socket(), transmitter(), ListSink()
    receive(state.rx, seal(tx, b"rpc 1") + seal(tx, b"ticket", 22) + seal(tx, b"rpc 2"))
    assert state.rx.pull(sink) is PullResult.CONTROL
    data, control, _ = state.recvmsg(100, FULL)
    assert (data, record_of(control).tls_type) == (b"ticket", 22)
    assert state.rx.pull(sink) is PullResult.MORE_NEEDED
    assert sink.data == b"rpc 1rpc 2"


def test_nothing_is_sent_where_a_bad_header_has_ended_the_connection() -> None:
    state = socket("freebsd14")
    receive(state.rx, b"\x17\x02\x03\x00\x20" + bytes(32))
    with pytest.raises(UmktlsError):
        state.recvmsg(100, FULL)
    assert state.rx.dropped
    assert not state.sending_over
    with pytest.raises(UmktlsError) as refused:
        state.sendmsg(b"data")
    assert refused.value.errno == errno.EPIPE


def test_a_control_message_without_its_byte_sets_no_type() -> None:
    state = socket("freebsd14")
    with pytest.raises(CallerError, match="TCP takes no control message"):
        state.sendmsg(b"data", set_type(22)[:DATA_OFFSET])


def test_nothing_may_be_sent_in_clear() -> None:
    state = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["freebsd14"])
    sent = state.send(b"")
    assert (sent.wire, sent.count) == ([], 0)


def test_a_direction_without_a_key_has_no_mode_to_change() -> None:
    state = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["freebsd14"])
    with pytest.raises(UmktlsError) as refused:
        state.switch_tx(ENGINE.mode)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert state.counters.switch_failed == 1


@pytest.mark.parametrize(("version", "between"), [(TLS_1_2, True), (TLS_1_3, False)])
def test_data_between_handshake_messages(version: int, between: bool) -> None:
    """RFC 8446 section 5.1 forbids it, and TLS 1.2 did not."""
    state = KtlsSocket(ENGINE, ENGINE)
    suite = AES128 if version == TLS_1_3 else ALL_SUITES["AES_128_GCM_SHA256"]
    iv = bytes(suite.iv_length if version == TLS_1_3 else 4)
    state.install("rx", Session(version, suite, bytes(16), iv))
    assert state.rx.interleaves is between


def test_the_last_number_opens_one_record_ever() -> None:
    """On Linux, where a bad record stays in the queue, too."""
    state = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["linux"])
    state.install("rx", session(sequence=2**64 - 1))
    last = record_by_hand(AES128.name, b"last\x17", 2**64 - 1)
    receive(state.rx, last)
    assert state.recvmsg(100, FULL)[0] == b"last"
    receive(state.rx, last)
    for _ in range(3):
        with pytest.raises(UmktlsError):
            state.recvmsg(100, FULL)
