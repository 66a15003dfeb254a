"""The system calls' wire format: known answers, round trips, garbage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi.rpctls import (
    SOL_UMKTLS,
    UMKTLS_DEADLINE,
    UMKTLS_RX_BOUNCE,
    SYS_close,
    SYS_getsockopt,
    SYS_recvmsg,
    SYS_rpctls_syscall,
    SYS_sendmsg,
    SYS_umktls_together,
)
from umktls.errors import CallerError
from umktls.rpc.xdr import Struct, XdrError
from umktls.upcall.datagrams import (
    Reply,
    decode_reply_untrusted,
    decode_request_untrusted,
    encode_reply,
    encode_request,
)
from umktls.upcall.syscalls import (
    MAX_DATA,
    MAX_MESSAGE,
    MAX_ROOM,
    MAX_TOGETHER,
    SYSCALLS,
    AdoptArgs,
    CloseArgs,
    GetsockoptArgs,
    RecvmsgArgs,
    RecvmsgResult,
    RpctlsSyscallArgs,
    Segment,
    SendmsgArgs,
    SetsockoptArgs,
    ShutdownArgs,
    TogetherArgs,
    UtraceArgs,
    goes_alone,
)


def test_what_has_room_among_others() -> None:
    assert not goes_alone(RecvmsgArgs(3, MAX_ROOM, 24, 0))
    assert goes_alone(RecvmsgArgs(3, MAX_ROOM + 1, 24, 0))


ints = st.integers(-(2**31), 2**31 - 1)
uints = st.integers(0, 2**32 - 1)
some_bytes = st.binary(max_size=100)
segments = st.builds(Segment, st.integers(0, 2**64 - 1), st.binary(max_size=64))

ARGS: st.SearchStrategy[Struct] = st.one_of(
    st.builds(RpctlsSyscallArgs, uints, some_bytes),
    st.builds(CloseArgs, ints),
    st.builds(
        SetsockoptArgs, ints, ints, ints, some_bytes, st.lists(segments, max_size=8).map(tuple)
    ),
    st.builds(GetsockoptArgs, ints, ints, ints, uints),
    st.builds(SendmsgArgs, ints, some_bytes, some_bytes, uints),
    st.builds(RecvmsgArgs, ints, uints, uints, uints),
    st.builds(ShutdownArgs, ints, ints),
    st.builds(UtraceArgs, some_bytes),
    st.builds(TogetherArgs, st.lists(some_bytes, max_size=MAX_TOGETHER).map(tuple)),
)


def test_a_request_byte_for_byte() -> None:
    data = encode_request(7, RpctlsSyscallArgs(1, b"/run/x"))
    assert data == (
        b"\0\0\0\x07"  # sequence
        b"\0\0\x02\x40"  # 576
        b"\0\0\0\x01"  # RPCTLS_SYSC_CLSETPATH
        b"\0\0\0\x06/run/x\0\0"
    )


def test_replies_byte_for_byte() -> None:
    assert encode_reply(7, 0, 5, SYS_rpctls_syscall) == b"\0\0\0\x07\0\0\0\0\0\0\0\x05"
    assert encode_reply(7, 1, None, SYS_rpctls_syscall) == b"\0\0\0\x07\0\0\0\x01"
    assert encode_reply(8, 0, None, SYS_close) == b"\0\0\0\x08\0\0\0\0"


@given(uints, ARGS)
def test_requests_come_back(sequence: int, args: Struct) -> None:
    request = decode_request_untrusted(encode_request(sequence, args))
    assert (request.sequence, request.args) == (sequence, args)
    assert SYSCALLS[request.number].arguments is type(args)


@pytest.mark.parametrize(
    ("number", "result"),
    [
        (SYS_close, None),
        (SYS_getsockopt, b"value"),
        (SYS_sendmsg, 65536),
        (SYS_recvmsg, RecvmsgResult(b"data", b"control", 8)),
        (SYS_rpctls_syscall, 3),
        (SYS_umktls_together, (b"reply", b"")),
    ],
)
def test_replies_come_back(number: int, result: Any) -> None:
    assert decode_reply_untrusted(encode_reply(9, 0, result, number), number) == Reply(9, 0, result)
    assert decode_reply_untrusted(encode_reply(9, 22, None, number), number) == Reply(9, 22, None)


@pytest.mark.parametrize(
    ("args", "alone"),
    [
        (CloseArgs(3), False),
        (GetsockoptArgs(3, SOL_UMKTLS, UMKTLS_DEADLINE, 1024), False),
        (GetsockoptArgs(3, SOL_UMKTLS, UMKTLS_RX_BOUNCE, 0), True),
        (GetsockoptArgs(3, 6, 9, 4097), True),
        (RecvmsgArgs(3, 16384, 64, 0), True),
        (RpctlsSyscallArgs(2, b""), False),
        (AdoptArgs(1), True),
        (TogetherArgs(()), True),
    ],
)
def test_what_goes_together(args: Struct, *, alone: bool) -> None:
    assert goes_alone(args) == alone


def test_an_unknown_call_is_told_from_garbage() -> None:
    request = decode_request_untrusted(b"\0\0\0\x01\0\0\xff\xffwhatever")
    assert (request.sequence, request.number, request.args) == (1, 0xFFFF, None)


@given(st.binary(max_size=200))
def test_garbage_raises_one_thing(data: bytes) -> None:
    for decode in (
        decode_request_untrusted,
        lambda junk: decode_reply_untrusted(junk, SYS_recvmsg),
    ):
        try:
            decode(data)
        except XdrError:
            continue


@given(ARGS, st.data())
def test_a_cut_or_longer_request_is_garbage(args: Struct, data: st.DataObject) -> None:
    message = encode_request(1, args)
    cut = data.draw(st.integers(8, len(message) - 1))
    with pytest.raises(XdrError):
        decode_request_untrusted(message[:cut])
    with pytest.raises(XdrError):
        decode_request_untrusted(message + bytes(4))


def test_limits_fit_the_datagram() -> None:
    message = encode_request(1, SendmsgArgs(1, bytes(MAX_DATA), bytes(1024), 0))
    assert len(message) <= MAX_MESSAGE
    with pytest.raises(CallerError):
        encode_request(1, SendmsgArgs(1, bytes(MAX_DATA + 1), b"", 0))


def test_keys_do_not_show() -> None:
    args = SetsockoptArgs(3, 6, 39, b"", (Segment(0x1000, b"0123456789abcdef"),))
    assert "0123456789" not in repr(args)


def test_only_arguments_of_system_calls_are_sent() -> None:
    with pytest.raises(CallerError, match="Segment"):
        encode_request(1, Segment(0, b""))
