"""Who waits for a socket by epoll is made to wait for another one, for the same events."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys

import pytest

from tests.conftest import patience
from umktls.run.epolls import EpollMover
from umktls.run.proc import parse_epoll, registrations_of

PAGE = """pos:\t0
flags:\t02
mnt_id:\t15
ino:\t1059
tfd:        5 events: 80002019 data: ffffffff00000005  pos:0 ino:12ab sdev:8
tfd:       17 events:       19 data:       11  pos:0 ino:12ac sdev:8
"""

# A socket that is registered at each of the lowest numbers, in a process that has them free.
LOW_NUMBERS = """
import os, select, socket
from umktls.run.epolls import EpollMover
from umktls.run.proc import registrations_of
pairs = [socket.socketpair() for _ in range(20)]
epoll, mover = select.epoll(), EpollMover()
for number in (0, *range(3, 9)):
    (old, old_peer), (new, new_peer) = pairs.pop(), pairs.pop()
    os.dup2(old.fileno(), number)
    epoll.register(number, select.EPOLLIN)
    found = registrations_of(os.getpid(), os.fstat(number).st_ino)
    os.dup2(new.fileno(), number)
    mover.move(os.getpid(), found, old.fileno(), new.fileno())
    old_peer.send(b"x")
    new_peer.send(b"x")
    print(*epoll.poll(0))
    epoll.unregister(number)
mover.close()
"""


def test_what_proc_says() -> None:
    (found,) = parse_epoll(9, PAGE, 0x12AB)
    assert (found.epoll, found.number) == (9, 5)
    assert (found.events, found.data) == (0x80002019, 0xFFFFFFFF00000005)
    assert parse_epoll(9, PAGE, 1) == []


def test_a_registration_is_moved() -> None:
    """As when a key is set: `old` is in the epoll descriptor, and `new` gets its number."""
    old, old_peer = socket.socketpair()
    new, new_peer = socket.socketpair()
    mover = EpollMover()
    with old, old_peer, new, new_peer, select.epoll() as epoll:
        number = old.fileno()
        epoll.register(number, select.EPOLLIN)
        inode = os.fstat(number).st_ino
        found = registrations_of(os.getpid(), inode)
        kept = os.dup(number)
        os.dup2(new.fileno(), number)
        assert mover.move(os.getpid(), found, kept, new.fileno()) == 1
        old_peer.send(b"x")
        assert epoll.poll(0) == []
        new_peer.send(b"x")
        assert epoll.poll(0) == [(number, select.EPOLLIN)]
        epoll.modify(number, select.EPOLLOUT)
        epoll.unregister(number)
        os.close(kept)
    mover.close()


def test_a_registration_with_an_epoll_descriptor_that_has_two_numbers() -> None:
    """As programs on tokio have it: /proc shows the one registration under both."""
    old, old_peer = socket.socketpair()
    new, new_peer = socket.socketpair()
    mover = EpollMover()
    with old, old_peer, new, new_peer, select.epoll() as epoll:
        number, again = old.fileno(), os.dup(epoll.fileno())
        epoll.register(number, select.EPOLLIN)
        found = registrations_of(os.getpid(), os.fstat(number).st_ino)
        kept = os.dup(number)
        os.dup2(new.fileno(), number)
        assert len(found) == 2
        assert mover.move(os.getpid(), found, kept, new.fileno()) == 1
        new_peer.send(b"x")
        assert epoll.poll(0) == [(number, select.EPOLLIN)]
        os.close(kept)
        os.close(again)
    mover.close()


@pytest.mark.long
def test_a_registration_of_a_number_that_the_mover_itself_has() -> None:
    """Its own descriptors have the lowest numbers."""
    command = [sys.executable, "-c", LOW_NUMBERS]
    done = subprocess.run(command, capture_output=True, timeout=patience(20), check=False)
    wanted = [f"({number}, {select.EPOLLIN})".encode() for number in (0, *range(3, 9))]
    assert done.stdout.splitlines() == wanted, done.stderr
