"""A kernel without TLS, as a daemon meets it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.kernel.sockets.takensocket import refusal, taken
from umktls.abi import linux
from umktls.abi.personality import PERSONALITIES

LINUX = [name for name, one in PERSONALITIES.items() if "linux" in one.keys.interfaces]
OPTIONS = (
    linux.TLS_TX,
    linux.TLS_RX,
    linux.TLS_TX_ZEROCOPY_RO,
    linux.TLS_RX_EXPECT_NO_PAD,
    linux.TLS_TX_MAX_PAYLOAD_LEN,
)
ULP = (linux.SOL_TCP, linux.TCP_ULP)


@pytest.mark.parametrize("name", LINUX)
async def test_linux_without_net_tls(tmp_path: Path, name: str) -> None:
    """No such upper layer protocol, and then no such level."""
    async with taken(tmp_path, name, "null") as t:
        assert await refusal(t.set, *ULP, b"tls") == errno.ENOENT
        assert await refusal(t.set, *ULP, b"") == errno.EINVAL
        assert await t.get(*ULP) == b""
        for number in OPTIONS:
            assert await refusal(t.set, linux.SOL_TLS, number, bytes(4)) == errno.ENOPROTOOPT
            assert await refusal(t.get, linux.SOL_TLS, number) == errno.ENOPROTOOPT


async def test_linux_where_one_direction_has_no_tls(tmp_path: Path) -> None:
    async with taken(tmp_path, "linux", "tx=null,rx=software") as t:
        await t.enable("rx")
        for number in (linux.TLS_TX, linux.TLS_TX_ZEROCOPY_RO, linux.TLS_TX_MAX_PAYLOAD_LEN):
            assert await refusal(t.set, linux.SOL_TLS, number, bytes(4)) == errno.ENOPROTOOPT


async def test_freebsd_has_no_such_option_anyway(tmp_path: Path) -> None:
    number = PERSONALITIES["freebsd14"].errno(errno.ENOPROTOOPT)
    async with taken(tmp_path, "freebsd14", "null") as t:
        assert await refusal(t.set, *ULP, b"tls") == number
