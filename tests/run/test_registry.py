"""Which sockets are ours, and which are not."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from umktls.run.registry import Registry


class State:
    """A ULP's, which takes anything."""

    def __init__(self) -> None:
        self.conditions = SimpleNamespace(established=False)

    def setsockopt(self, *_: Any) -> None:
        pass


def test_a_socket_that_cannot_be_replaced_has_no_ulp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next key would have it sealed by the one that the program was told is not set."""
    host = SimpleNamespace(connections=SimpleNamespace(new_state=lambda sock: State()))
    ours = Registry(host, None, None)  # type: ignore[arg-type]

    def no_more() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        ours.attach(sock, b"tls")
        state = ours.attached(sock)
        assert state is not None
        assert state.conditions.established
        monkeypatch.setattr(socket, "socketpair", no_more)
        with pytest.raises(OSError, match="Too many"):
            ours.replace(sock, state, os.getpid(), lambda *_: None)
        assert ours.attached(sock) is None
