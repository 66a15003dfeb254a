"""Answers to system calls that the system does not let through, and what is no event by utrace."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from umktls.errors import CallerError
from umktls.kernel.host import process, utrace
from umktls.kernel.host.syscalls import PASSING, SEND_PAUSE, SEND_TRIES, send_with_descriptor
from umktls.kernel.upcalls.netlink import NetlinkSocket

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


@pytest.mark.parametrize("who", ["an answer", "an upcall"])
async def test_a_socket_that_is_closed_before_there_is_room_for_it(
    autojump_clock: Clock, who: str
) -> None:
    """Its number may be another connection's by then, which is none of the daemon's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed, another = socket.socket(), socket.socket()
    number, inode = passed.fileno(), os.fstat(passed.fileno()).st_ino
    host: Any = SimpleNamespace(spawn=print)
    netlink = NetlinkSocket(host, 1, ours)
    with ours, theirs, another:
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(1000))
        async with trio.open_nursery() as nursery:
            if who == "an answer":
                nursery.start_soon(send_with_descriptor, ours, b"it", number)
            else:
                nursery.start_soon(netlink.send, b"it", number)
            await trio.testing.wait_all_tasks_blocked()
            passed.detach()
            os.dup2(another.fileno(), number)
            data, came = b"", list[int]()
            while data != b"it":
                await trio.lowlevel.wait_readable(theirs)
                data, came, _, _ = socket.recv_fds(theirs, 1000, 1)
        assert os.fstat(came[0]).st_ino == inode
        os.close(came[0])
    os.close(number)


def test_as_many_descriptors_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DESCRIPTOR_LIMIT", 2)
    anything: Any = SimpleNamespace(detours=SimpleNamespace(route=lambda direction: None))
    held = process.Process(1, 0, anything)
    assert [held.install(anything), held.install_netlink(anything)] == [3, 4]
    for install in (held.install, held.install_netlink):
        with pytest.raises(CallerError, match="too many descriptors") as caught:
            install(anything)
        assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("lifetime", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_event_has_a_number_that_json_has_not(lifetime: str) -> None:
    """A browser threw away all that was told together with one."""
    told = utrace.decode_untrusted(b'{"event": "ticket", "lifetime": %s}' % lifetime.encode())
    assert told.fields["lifetime"] == str(float(lifetime))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"event": "made-up"}', b'{"event": []}', b"[" * 10_000]
)
def test_what_is_no_event(data: bytes) -> None:
    with pytest.raises(CallerError, match="not an event that the kernel knows"):
        utrace.decode_untrusted(data)
