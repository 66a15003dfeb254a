"""Control messages and flags of both kernels, and our own structure, byte for byte."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi import linux
from umktls.abi.cmsg import FREEBSD_CMSG, LINUX_CMSG, CmsgLayout, cmsg_len, cmsg_space
from umktls.abi.leftover import Leftover
from umktls.abi.messages import FREEBSD_MESSAGES, LINUX_MESSAGES, UMKTLS_MESSAGES
from umktls.errors import CallerError


def test_linux_control_message_known_answer() -> None:
    packed = linux.pack_control(linux.SOL_TLS, linux.TLS_SET_RECORD_TYPE, b"\x16")
    assert packed == bytes.fromhex("1100000000000000 1a010000 01000000 16 00000000000000")
    (message,) = linux.parse_control_untrusted(packed)
    assert (message.level, message.type, message.data) == (282, 1, b"\x16")


@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's numbers")
def test_linux_numbers_are_this_machine_s() -> None:
    for name in ("PEEK", "WAITALL", "DONTWAIT", "NOSIGNAL", "EOR", "CTRUNC", "MORE"):
        assert getattr(LINUX_MESSAGES, name.lower()) == getattr(socket, f"MSG_{name}")
    assert (cmsg_len(1), cmsg_space(1)) == (socket.CMSG_LEN(1), socket.CMSG_SPACE(1))


def test_what_is_left_behind_the_last_message() -> None:
    assert len(LINUX_CMSG.parse_untrusted(LINUX_CMSG.pack(1, 2, b"x") + bytes(15))) == 1
    assert LINUX_CMSG.parse_untrusted(bytes(15)) == []
    with pytest.raises(CallerError):
        FREEBSD_CMSG.parse_untrusted(FREEBSD_CMSG.pack(1, 2, b"x") + bytes(11))


@given(st.binary(max_size=64), st.sampled_from([FREEBSD_CMSG, LINUX_CMSG]))
def test_parsers_have_one_error(control: bytes, layout: CmsgLayout) -> None:
    with contextlib.suppress(CallerError):
        layout.parse_untrusted(control)


def test_a_flag_that_a_kernel_has_not_is_never_set() -> None:
    assert FREEBSD_MESSAGES.more == LINUX_MESSAGES.tls_app_data == 0
    numbers = [getattr(UMKTLS_MESSAGES, name) for name in ("peek", "waitall", "dontwait", "more")]
    assert len({number for number in numbers if number}) == 4


@given(st.integers(0, 2**64 - 1), st.binary(max_size=40), st.binary(max_size=40))
def test_leftovers_come_back(rec_seq: int, data: bytes, wire: bytes) -> None:
    leftover = Leftover(rec_seq, data, wire)
    assert Leftover.unpack_untrusted(leftover.pack()) == leftover


def test_leftover_known_answer() -> None:
    packed = Leftover(0x0102030405060708, b"ab", b"cde").pack()
    assert packed == bytes.fromhex("0102030405060708 02000000 03000000") + b"abcde"
    assert "ab" not in repr(Leftover(0, b"ab", b"cde"))


@given(st.binary(max_size=60))
def test_leftover_has_one_error(value: bytes) -> None:
    with contextlib.suppress(CallerError):
        assert Leftover.unpack_untrusted(value).pack() == value
