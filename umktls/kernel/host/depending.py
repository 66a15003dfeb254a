"""What of several calls that are made together depends on those in front of it."""

from __future__ import annotations

from typing import Any

from umktls.abi import freebsd
from umktls.abi.rpctls import SYS_getsockopt, SYS_sendmsg, SYS_setsockopt
from umktls.kernel.host.handlers import Answer
from umktls.kernel.host.process import Process
from umktls.kernel.sockets.calls import RX_KEYS, TX_KEYS
from umktls.upcall.datagrams import Request

__all__ = ["Depending"]

# What sets keys, or says whether they are used. Linux has one number for both.
KEYS = frozenset(
    (
        *TX_KEYS,
        *RX_KEYS,
        (freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_MODE),
        (freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_MODE),
    )
)
OPTIONS = (SYS_setsockopt, SYS_getsockopt)


class Depending:
    """Of one row of calls of `process`: what is not done because of what came in front.

    Behind a sendmsg that has failed no key for sending is set: the peer knows nothing of it. Behind
    a key that was not taken, or a mode that is none, the daemon says nothing on its netlink socket:
    it would answer an upcall as if all were well.
    """

    __slots__ = ("_keyless", "_process", "_unsent")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._unsent = False
        self._keyless = False

    def forbids(self, request: Request) -> bool:
        """Whether this call is not to be made. It counts as one that has failed."""
        args: Any = request.args
        if self._unsent and request.number == SYS_setsockopt:
            cancelled = (args.level, args.name) in TX_KEYS
            self._keyless = self._keyless or cancelled
            return cancelled
        said = self._keyless and request.number == SYS_sendmsg
        return said and args.fd in self._process.netlink

    def made(self, request: Request, answer: Answer | None) -> None:
        """What has come of a call; None where it has failed."""
        args: Any = request.args
        if request.number == SYS_sendmsg:
            self._unsent = self._unsent or answer is None
        elif request.number in OPTIONS and (args.level, args.name) in KEYS:
            works = answer is not None and (answer.result is None or any(answer.result))
            self._keyless = self._keyless or not works
