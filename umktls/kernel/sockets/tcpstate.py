"""What TCP says of a connection, without waiting and without taking anything (TCP_INFO)."""

from __future__ import annotations

import socket

__all__ = ["TCP_CLOSE", "TCP_ESTABLISHED", "take_error", "tcp_state"]

# linux/tcp_states.h; the first byte of struct tcp_info.
TCP_ESTABLISHED = 1
TCP_CLOSE = 7  # reset, timed out, or closed by both sides


def tcp_state(sock: socket.socket) -> int | None:
    """The state of the connection; None where `sock` is not TCP, or not open."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return None


def take_error(sock: socket.socket) -> int:
    """The errno that waits for the next reader or writer (SO_ERROR), 0 for none. It is taken."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
