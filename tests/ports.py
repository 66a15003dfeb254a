"""Ports of 127.0.0.1: still free when somebody comes to use them, or of no use.

A port that is bound to 0 and closed again may be given by the kernel to the next one who asks for
any, or be the near end of somebody's connection.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["free_port", "full_port", "silent_port"]

GIVEN_BY_NAME = range(20_000, 30_000)  # below /proc/sys/net/ipv4/ip_local_port_range
"""Whoever gets one of these has asked for it by its number."""


def free_port() -> int:
    """A port for a program that can only be told which one to listen at."""
    while True:
        port = random.choice(GIVEN_BY_NAME)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@contextmanager
def silent_port() -> Iterator[int]:
    """A TCP port at which nobody listens, inside the block."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield int(nobody.getsockname()[1])


@contextmanager
def full_port() -> Iterator[int]:
    """A TCP port that answers no SYN, inside the block, as behind a firewall that drops: that of a
    listener whose backlog is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield int(full.getsockname()[1])
