"""What the threads that bounce take for a record, and where there are none."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from umktls_daemons.sessions.bounce import Relay, whole_record

from tests.descriptors import descriptors
from umktls.errors import WorldError
from umktls.userland.streams import NotTls

RECORD = b"\x17\x03\x03\x00\x02hi"


@pytest.mark.parametrize("length", range(len(RECORD) + 3))
def test_only_whole_records_are_taken(length: int) -> None:
    waiting = bytearray(b"..." + (RECORD + RECORD)[:length])
    assert whole_record(waiting, 3) == (len(RECORD) if length >= len(RECORD) else 0)


def test_a_header_that_is_none_is_told_as_soon_as_it_is_there() -> None:
    """Whoever has sent it may send nothing more."""
    assert whole_record(bytearray(b"HTTP"), 0) == 0
    with pytest.raises(NotTls):
        whole_record(bytearray(b"HTTP/"), 0)


@pytest.mark.parametrize("started", [0, 1])
def test_a_relay_that_can_have_no_thread(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """Nothing of it is left, whatever it could start."""
    start, left = threading.Thread.start, [started]
    nobody: Any = None

    def refuse(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = descriptors()
        pairs = [socket.socketpair(), socket.socketpair()]
        relay = Relay(ours.fileno(), {"tx": pairs[0][0], "rx": pairs[1][0]}, nobody)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(WorldError, match="no thread is left"):
                relay.start()
        relay.close()
        for _, far in pairs:
            assert far.recv(1) == b""
            far.close()
        assert descriptors() <= before
