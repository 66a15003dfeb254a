"""Whether a connection's peer has hung up, whatever there is still to be read."""

from __future__ import annotations

import select
import socket

import trio

__all__ = ["hangs_up", "hung_up"]


def hung_up(sock: socket.socket) -> bool:
    """Whether the peer has closed the connection, or its side of it; or it was closed here."""
    if sock.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    try:
        found = poller.poll(0)
    except OSError:  # no memory to look with
        return False
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in found)


async def hangs_up(sock: socket.socket) -> None:
    """Wait until the peer has hung up. `sock` is open; where it is closed meanwhile, this waits for
    ever.

    By an epoll of its own, because trio wakes for what can be read as well. Without a descriptor
    for that, this waits for ever, too: who waits has a deadline.
    """
    try:
        with select.epoll(1) as poller:
            poller.register(sock, select.EPOLLRDHUP)
            await trio.lowlevel.wait_readable(poller)
    except OSError:
        await trio.sleep_forever()
