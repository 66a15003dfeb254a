"""Ports of 127.0.0.1 that are still free when somebody comes to use them.

A port that is bound to 0 and closed again may be given by the kernel to the next one who asks for
any, or be the near end of somebody's connection.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["free_port", "silent_port"]

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
