"""Answers to system calls that the system does not let through, and what is no event by utrace."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.errors import CallerError
from umktls.kernel.host import process, utrace
from umktls.kernel.host.syscalls import PASSING, SEND_PAUSE, SEND_TRIES, send_with_descriptor

Clock = trio.testing.MockClock


class Refusing:
    """A socket that refuses so many times, by an errno."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times = number, times
        self.tries = 0

    def send(self, data: bytes) -> int:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(self.number, os.strerror(self.number))
        return len(data)


@pytest.mark.parametrize("number", PASSING)
async def test_what_the_system_has_again_in_a_moment_is_waited_for(
    autojump_clock: Clock, number: int
) -> None:
    sock: Any = Refusing(number, SEND_TRIES - 1)
    began = trio.current_time()
    await send_with_descriptor(sock, b"answer", None)
    assert sock.tries == SEND_TRIES
    assert trio.current_time() - began == pytest.approx((SEND_TRIES - 1) * SEND_PAUSE)


async def test_patience_with_the_system_ends(autojump_clock: Clock) -> None:
    sock: Any = Refusing(errno.ENOBUFS, SEND_TRIES)
    with pytest.raises(OSError, match="the answer to a system call could not be sent"):
        await send_with_descriptor(sock, b"answer", None)


async def test_a_process_that_is_gone_is_not_waited_for(autojump_clock: Clock) -> None:
    sock: Any = Refusing(errno.EPIPE, 1)
    with pytest.raises(BrokenPipeError):
        await send_with_descriptor(sock, b"answer", None)
    assert sock.tries == 1


def test_as_many_descriptors_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DESCRIPTOR_LIMIT", 2)
    anything: Any = SimpleNamespace(detours=SimpleNamespace(route=lambda direction: None))
    held = process.Process(1, 0, anything)
    assert [held.install(anything), held.install_netlink(anything)] == [3, 4]
    for install in (held.install, held.install_netlink):
        with pytest.raises(CallerError, match="too many descriptors") as caught:
            install(anything)
        assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"event": "made-up"}', b'{"event": []}', b"[" * 10_000]
)
def test_what_is_no_event(data: bytes) -> None:
    with pytest.raises(CallerError, match="not an event that the kernel knows"):
        utrace.decode_untrusted(data)
