"""Sessions of which no daemon hears anything more: those of Linux's upcall."""

from __future__ import annotations

from umktls.abi.alerts import AlertLevel, alert_name
from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.facts import Failure
from umktls.kernel.sockets.ktls_socket import KernelSocket

__all__ = ["hear_alert", "unattended"]


def unattended(sock: KernelSocket) -> bool:
    """Whether the session is of Linux's upcall: whoever made it hears nothing more of it."""
    return sock.owner.handshake is not None


def hear_alert(trace: Trace, sock: KernelSocket, alert: bytes) -> None:
    """An alert that no daemon hears: a fatal one ends the connection, a warning does not
    (xs_sock_process_cmsg of Linux)."""
    level, number = (alert + bytes(2))[:2]
    description, fatal = alert_name(number), level == AlertLevel.FATAL
    fields = {"phase": "alert"} if fatal else {}
    trace.emit(
        "alert",
        sock.name,
        level="fatal" if fatal else "warning",
        description=description,
        reason="the peer has sent it",
        **fields,
    )
    if fatal:
        sock.fail(Failure("alert", f"the peer has sent the alert {description}"))
