"""Keys into the kernel, and what becomes of a direction that kernel TLS does not serve."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Mapping
from typing import Any

from umktls.abi.alerts import TlsAlert
from umktls.abi.freebsd import TCP_TLS_MODE_NONE
from umktls.errors import UmktlsError
from umktls.ktls.session import Direction
from umktls.ktls.session.suites import TLS_1_3
from umktls.userland.libc import Record, Socket

from ..tls.alerts import Alert
from ..tls.failure import HandshakeFailure
from .handshake import TrafficKeys
from .records import ALERT, seal_record

__all__ = ["enable"]

logger = logging.getLogger(__name__)

DIRECTION_NAMES: Mapping[Direction, str] = {"tx": "sending", "rx": "receiving"}


def enable(
    sock: Socket, keys: TrafficKeys, cleanup: contextlib.ExitStack, answer: Any = None
) -> tuple[dict[Direction, socket.socket], list[Direction]]:
    """Set the keys of both directions and see whether each one works (design case S2).

    `answer` is given to the upcall along with them, if both work and it can be (`Kernel.calls`).
    Returns what does not go through kernel TLS: pairs to bounce over, which `cleanup` closes,
    and directions that go in clear. Raises `HandshakeFailure`, the peer has its alert then.
    """
    pairs: dict[Direction, socket.socket] = {}
    clear: list[Direction] = []
    try:
        modes = sock.enable_all({"tx": keys.tx, "rx": keys.rx}, answer)
        for direction, mode in modes.items():
            reason = _kernel_tls_refusal(mode)
            if reason is None:
                continue
            fallback = sock.fallback(direction)
            if fallback == "bounce":
                pairs[direction] = cleanup.enter_context(sock.bounce(direction))
            elif fallback == "clear":
                clear.append(direction)
            else:
                raise _no_kernel_tls(direction, keys.tx.version, reason, _may_be_off(mode))
            logger.info("no kernel TLS for %s (%s): %s", direction, reason, fallback)
    except UmktlsError:
        _apologize(sock, keys)
        raise
    return pairs, clear


def _kernel_tls_refusal(mode: int | UmktlsError) -> str | None:
    """What came of setting one direction's keys: None if kernel TLS works then, else why not."""
    if isinstance(mode, UmktlsError):
        return str(mode)
    return "it has the key and does not use it" if mode == TCP_TLS_MODE_NONE else None


def _may_be_off(mode: int | UmktlsError) -> bool:
    """Whether the kernel says so where somebody has turned its TLS off (`umktls sysctl`). It says
    the same of a suite that the engine does not serve."""
    return isinstance(mode, UmktlsError) and mode.errno in (errno.EOPNOTSUPP, errno.ENXIO)


def _apologize(sock: Socket, keys: TrafficKeys) -> None:
    """The peer thinks that all is well; tell it by an alert that it is not."""
    alert = Record(ALERT, Alert.fatal(TlsAlert.INTERNAL_ERROR).encode())
    with contextlib.suppress(UmktlsError):
        if sock.tls_mode("tx") == TCP_TLS_MODE_NONE:
            sock.write_all(seal_record(keys.tx, alert), sock.deadline())
        else:
            sock.send_record(*alert)


def _no_kernel_tls(
    direction: Direction, version: int, why: str, may_be_off: bool
) -> HandshakeFailure:
    # FreeBSD 13.0 and 13.1 cannot receive TLS 1.3, and say so in another way.
    older = version == TLS_1_3 and direction == "rx" and not may_be_off
    return HandshakeFailure(
        "ktls",
        f"kernel TLS does not work for {DIRECTION_NAMES[direction]}: {why}",
        ("see by `umktls sysctl kern.ipc` whether it was turned off, " if may_be_off else "")
        + "choose an engine that serves this cipher suite in both directions, "
        + ("have TLS 1.2 on both sides (-o tls1_2, --daemon-args=-2), " if older else "")
        + "or allow to bounce what does not work (-o bounce=allow, --bounce allow)",
    )
