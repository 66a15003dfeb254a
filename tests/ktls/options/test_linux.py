"""TLS_TX and TLS_RX of Linux: what is refused before a key is looked at, and what is counted."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.ktls.helpers import ENGINE
from umktls.abi import freebsd, linux
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
