"""sd_notify(3): telling a service manager how far one is."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from umktls.printable import printable

__all__ = ["notify", "reloading"]


def notify(*states: str) -> None:
    """Send ``READY=1`` and the like to the socket in NOTIFY_SOCKET, if there is one.

    Each is one line, whatever is in it: what a STATUS quotes says nothing of its own.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    name = os.fsencode(address).replace(b"@", b"\0", 1) if address.startswith("@") else address
    # Also where there is no descriptor for it: a service goes on.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(map(printable, states)).encode(), name)


def reloading() -> None:
    """Tell of a reload that begins; READY=1 tells of its end (Type=notify-reload of systemd)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
