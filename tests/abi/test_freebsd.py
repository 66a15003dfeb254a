"""FreeBSD's layouts and numbers, byte for byte."""

from __future__ import annotations

import contextlib
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umktls.abi import freebsd
from umktls.abi.freebsd import (
    ControlMessage,
    TlsEnable,
    TlsEnableRequest,
    TlsGetRecord,
    cmsg_len,
    cmsg_space,
    from_freebsd,
    pack_control,
    parse_control_untrusted,
    to_freebsd,
)
from umktls.errors import CallerError

EXAMPLE = TlsEnable(
    cipher_key=0x1122334455667788,
    iv=0x2122232425262728,
    auth_key=0,
    cipher_algorithm=freebsd.CRYPTO_AES_NIST_GCM_16,
    cipher_key_len=16,
    iv_len=12,
    auth_algorithm=0,
    auth_key_len=0,
    flags=0,
    tls_vmajor=3,
    tls_vminor=4,
    rec_seq=0x0102030405060708,
)
EXAMPLE_BYTES = bytes.fromhex(
    "8877665544332211 2827262524232221 0000000000000000"
    "19000000 10000000 0c000000 00000000 00000000 00000000"
    "03 04 0102030405060708 000000000000"
)


def test_tls_enable_known_answer() -> None:
    assert EXAMPLE.pack() == EXAMPLE_BYTES
    assert TlsEnable.unpack_untrusted(EXAMPLE_BYTES) == EXAMPLE


def test_tls_enable_is_what_a_c_compiler_makes() -> None:
    assert struct.calcsize("@PPPiiiiiiBB8s6x") == TlsEnable.SIZE == 64
    assert len(EXAMPLE.pack_v0()) == TlsEnable.SIZE_V0 == 56


def test_tls_enable_first_form_starts_at_record_0() -> None:
    again = TlsEnable.unpack_untrusted(EXAMPLE.pack_v0())
    assert again.rec_seq == 0
    assert again.tls_vminor == 4


@pytest.mark.parametrize("size", [0, 1, 55, 57, 63])
def test_tls_enable_of_any_other_size_is_einval(size: int) -> None:
    with pytest.raises(CallerError) as caught:
        TlsEnable.unpack_untrusted(bytes(size))
    assert caught.value.errno == errno.EINVAL


def test_tls_enable_may_have_more_behind_it() -> None:
    assert TlsEnable.unpack_untrusted(EXAMPLE_BYTES + b"whatever") == EXAMPLE


def test_tls_get_record_known_answer() -> None:
    record = TlsGetRecord(22, 3, 3, 0x0102)
    assert record.pack() == bytes.fromhex("16 03 03 00 0102")
    assert TlsGetRecord.unpack_untrusted(record.pack()) == record
    with pytest.raises(CallerError):
        TlsGetRecord.unpack_untrusted(b"12345")


def test_request_lays_out_keys_where_the_pointers_say() -> None:
    request = TlsEnableRequest.build(EXAMPLE, b"k" * 16, b"i" * 12)
    enable = TlsEnable.unpack_untrusted(request.value)
    memory = dict(request.memory)
    assert memory[enable.cipher_key] == b"k" * 16
    assert memory[enable.iv] == b"i" * 12
    assert (enable.cipher_key_len, enable.iv_len, enable.auth_key_len) == (16, 12, 0)
    assert enable.auth_key == 0
    assert "kkkk" not in repr(request)


def test_control_message_known_answer() -> None:
    packed = pack_control(freebsd.IPPROTO_TCP, freebsd.TLS_SET_RECORD_TYPE, b"\x16")
    assert packed == bytes.fromhex("11000000 06000000 01000000 00000000 16 00000000000000")
    assert (cmsg_len(1), cmsg_len(6)) == (17, 22)
    assert (cmsg_space(1), cmsg_space(6), cmsg_space(8), cmsg_space(9)) == (24, 24, 24, 32)


MESSAGES = st.lists(
    st.builds(
        ControlMessage,
        level=st.integers(-(2**31), 2**31 - 1),
        type=st.integers(-(2**31), 2**31 - 1),
        data=st.binary(max_size=40),
    ),
    max_size=4,
)


@given(MESSAGES)
def test_control_messages_come_back(messages: list[ControlMessage]) -> None:
    packed = b"".join(pack_control(m.level, m.type, m.data) for m in messages)
    assert parse_control_untrusted(packed) == messages


@given(st.binary(max_size=64))
def test_control_parser_has_one_error(control: bytes) -> None:
    with contextlib.suppress(CallerError):
        parse_control_untrusted(control)


@pytest.mark.parametrize("length", [0, 15, 18, 0xFFFFFFFF])
def test_control_length_that_does_not_fit(length: int) -> None:
    with pytest.raises(CallerError):
        parse_control_untrusted(struct.pack("<Iiixxxxc", length, 6, 1, b"\x16"))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("EPERM", 1),
        ("ENXIO", 6),
        ("EBUSY", 16),
        ("EINVAL", 22),
        ("EAGAIN", 35),
        ("EALREADY", 37),
        ("EMSGSIZE", 40),
        ("EPROTONOSUPPORT", 43),
        ("ENOTSUP", 45),
        ("ECONNRESET", 54),
        ("ENOTCONN", 57),
        ("ESHUTDOWN", 58),
        ("EBADMSG", 89),
        ("EINTEGRITY", 97),
    ],
)
def test_errno_numbers(name: str, number: int) -> None:
    assert freebsd.ERRNO[name] == number
    if hasattr(errno, name):
        assert to_freebsd(getattr(errno, name)) == number
        assert from_freebsd(number) == getattr(errno, name)


def test_rpc_errors_are_freebsds_own() -> None:
    assert freebsd.ERRNO["EPROGUNAVAIL"] == 74
    assert freebsd.ERRNO["EPROCUNAVAIL"] == 76
    assert from_freebsd(74) == errno.EIO


def test_errno_of_success_and_of_the_unknown() -> None:
    assert to_freebsd(0) == from_freebsd(0) == 0
    assert to_freebsd(errno.EKEYEXPIRED) == freebsd.ERRNO["EIO"]
    assert from_freebsd(4711) == errno.EIO
