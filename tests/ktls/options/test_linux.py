"""TLS_TX and TLS_RX of Linux: what is refused before a key is looked at, and what is counted."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.ktls.helpers import ENGINE, receive, seal, session, transmitter
from umktls.abi import freebsd, linux
from umktls.abi.cmsg import DATA_OFFSET, cmsg_len
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.options.sockets import FREEBSD_SNDBUF_MAX
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.crypto_info import crypto_info
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_2

NAMES: dict[Direction, int] = {"tx": linux.TLS_TX, "rx": linux.TLS_RX}


def set_option(socket: KtlsSocket, level: int, name: int, value: bytes) -> int:
    """The error's number; 0 for none."""

    def copyin(address: int, length: int) -> Any:
        raise AssertionError("the option has no pointers")

    try:
        socket.setsockopt(level, name, value, copyin)
    except UmktlsError as error:
        return error.errno
    return 0


@pytest.mark.parametrize("direction", ["tx", "rx"])
@pytest.mark.parametrize(
    ("length", "number", "counted"), [(3, errno.EINVAL, 0), (4, errno.EBUSY, 1)]
)
def test_a_second_key_is_one_from_its_header_on(
    direction: Direction, length: int, number: int, counted: int
) -> None:
    """do_tls_setsockopt_conf looks for the header, then for the key that is there."""
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["linux"])
    assert set_option(socket, linux.SOL_TCP, linux.TCP_ULP, b"tls") == 0
    suite = ALL_SUITES["AES_128_GCM_SHA256"]
    value = crypto_info(Session(TLS_1_2, suite, bytes(16), bytes(4))).pack()
    assert set_option(socket, linux.SOL_TLS, NAMES[direction], value) == 0
    assert set_option(socket, linux.SOL_TLS, NAMES[direction], value[:length]) == number
    assert socket.counters.rekey_errors[direction] == counted


@pytest.mark.parametrize(("more", "number"), [(0, 0), (1, errno.ENOBUFS)])
def test_the_largest_send_buffer_of_freebsd(more: int, number: int) -> None:
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["freebsd14"])
    value = (FREEBSD_SNDBUF_MAX + more).to_bytes(4, "little")
    assert set_option(socket, freebsd.SOL_SOCKET, freebsd.SO_SNDBUF, value) == number


def test_a_key_that_linux_has_no_words_for() -> None:
    """One that FreeBSD's option has set, on a kernel that has both."""
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["umktls"])
    suite = ALL_SUITES["AES_128_CBC_SHA"]
    socket.install("tx", Session(TLS_1_2, suite, bytes(16), b"", mac_key=bytes(20)))
    assert set_option(socket, linux.SOL_TCP, linux.TCP_ULP, b"tls") == 0
    with pytest.raises(UmktlsError, match="AES_128_CBC_SHA has no crypto_info") as refused:
        socket.getsockopt(linux.SOL_TLS, linux.TLS_TX, 40)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(("room", "control"), [(DATA_OFFSET - 1, 0), (DATA_OFFSET, DATA_OFFSET)])
def test_a_control_buffer_that_holds_a_header_only(room: int, control: int) -> None:
    """put_cmsg writes the header where that fits, and says MSG_CTRUNC."""
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["linux"])
    assert set_option(socket, linux.SOL_TCP, linux.TCP_ULP, b"tls") == 0
    socket.install("rx", session())
    receive(socket.rx, seal(transmitter(), b"data"))
    data, written, flags = socket.recvmsg(100, room)
    assert (data, len(written)) == (b"data", control)
    assert flags & socket.personality.messages.ctrunc


@pytest.mark.parametrize(("less", "number"), [(0, 0), (1, errno.EIO)])
def test_the_least_room_for_a_record_s_type_where_it_is_needed(less: int, number: int) -> None:
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["umktls"])
    assert socket.personality.receiving.control_needed
    socket.install("rx", session())
    receive(socket.rx, seal(transmitter(), b"\2\50", 21))
    room = cmsg_len(freebsd.TlsGetRecord.SIZE) - less
    if not number:
        assert socket.recvmsg(100, room)[0] == b"\2\50"
        return
    with pytest.raises(UmktlsError) as refused:
        socket.recvmsg(100, room)
    assert refused.value.errno == number
