"""The connections of a host: those that have ended are known for a while."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from umktls.errors import CallerError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig


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
