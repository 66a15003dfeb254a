"""Connections that a server does not take: each is closed, and the host lives."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from umktls.errors import UnsupportedError
from umktls.kernel.ground.events import Trace
from umktls.kernel.krpc.serverhost import serve_client


async def attend(*of: object) -> None:
    raise AssertionError("it was not taken")


@pytest.mark.parametrize(
    ("admits", "refusal", "said"),
    [
        (False, None, []),
        (True, OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)), []),
        (
            True,
            UnsupportedError("the engine is not here"),
            ["a connection was not accepted: the engine is not here"],
        ),
    ],
)
async def test_a_connection_that_is_not_taken_is_closed(
    admits: bool, refusal: Exception | None, said: list[str]
) -> None:
    def adopt(*of: object, **named: object) -> None:
        assert refusal is not None, "who is not admitted is not looked at"
        raise refusal

    trace = Trace("h", "server")
    listening: Any = SimpleNamespace(
        host=SimpleNamespace(adopt=adopt, trace=trace),
        admission=SimpleNamespace(admits=lambda: admits),
        engine_for=lambda address: None,
        security="tls",
    )
    near, far = socket.socketpair()
    with far:
        await serve_client(listening, attend, near)
        assert near.fileno() == -1
        assert far.recv(1) == b""
    assert [event["reason"] for event in trace.since()] == said
