"""The connections of a host: those that have ended are known for a while."""

from __future__ import annotations

import errno
import gc
import socket
import weakref
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from umktls.errors import CallerError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.host import Host
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.memory import TOGETHER


async def test_one_that_has_ended_is_not_unknown(tmp_path: Path) -> None:
    async with booted(HostConfig("client", tmp_path / "h")) as host:
        near, far = socket.socketpair()
        with far:
            sock = host.adopt(near)
            sock.close("the test wants it")
        assert list(host.closed) == [sock.name]
        assert host.established(sock.name) == []
        with pytest.raises(CallerError, match="no connection 'c99' here") as caught:
            host.established("c99")
        assert caught.value.errno == errno.ENOENT


def one_more(host: Host) -> tuple[KernelSocket, socket.socket]:
    near, far = socket.socketpair()
    return host.adopt(near), far


@pytest.mark.parametrize("open_still", [0, TOGETHER + 3])
async def test_the_memory_of_those_that_have_ended_goes(tmp_path: Path, open_still: int) -> None:
    """However seldom Python looks for cycles; the more are open, the more seldom."""
    gc.collect()
    gc.disable()
    try:
        async with booted(HostConfig("client", tmp_path / "h")) as host, AsyncExitStack() as ends:
            for _ in range(open_still):
                ends.enter_context(one_more(host)[1])
            ended: list[weakref.ref[KernelSocket]] = []
            for _ in range(max(TOGETHER, open_still)):
                assert not ended or ended[0]() is not None
                sock, far = one_more(host)
                ended.append(weakref.ref(sock))
                far.close()
                sock.close("the test wants it")
                del sock
            assert [each() for each in ended[:-1]] == [None] * (len(ended) - 1)
    finally:
        gc.enable()
