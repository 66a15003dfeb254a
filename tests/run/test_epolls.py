"""Who waits for a socket by epoll is made to wait for another one, for the same events."""

from __future__ import annotations

import os
import select
import socket

from umktls.run.epolls import EpollMover
from umktls.run.proc import parse_epoll, registrations_of

PAGE = """pos:\t0
flags:\t02
mnt_id:\t15
ino:\t1059
tfd:        5 events: 80002019 data: ffffffff00000005  pos:0 ino:12ab sdev:8
tfd:       17 events:       19 data:       11  pos:0 ino:12ac sdev:8
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
