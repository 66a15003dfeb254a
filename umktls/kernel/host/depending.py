"""What of several calls that are made together depends on those in front of it."""

from __future__ import annotations

from typing import Any

from umktls.abi.freebsd import TCP_TLS_MODE_NONE
from umktls.abi.rpctls import SYS_sendmsg, SYS_setsockopt
from umktls.kernel.host.handlers import Answer
from umktls.kernel.host.process import Process
from umktls.kernel.sockets.calls import RX_KEYS, TX_KEYS
from umktls.ktls.session import Direction
from umktls.upcall.datagrams import Request

__all__ = ["Depending"]

KEYS: dict[tuple[int, int], Direction] = {
    **dict.fromkeys(TX_KEYS, "tx"),
    **dict.fromkeys(RX_KEYS, "rx"),
}


class Depending:
    """Of one row of calls of `process`: what is not done because of what came in front.

    Behind a sendmsg that has failed no key for sending is set: the peer knows nothing of it. Behind
    a key that was not taken, or is not used, the daemon says nothing on its netlink socket: it
    would answer an upcall as if all were well.
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
        elif request.number == SYS_setsockopt:
            direction = KEYS.get((args.level, args.name))
            if direction is not None and not self._keyless:
                self._keyless = answer is None or not self._used(args.fd, direction)

    def _used(self, fd: int, direction: Direction) -> bool:
        """Whether the key of that socket is, which has just been set."""
        return self._process.descriptor(fd).state.mode(direction) != TCP_TLS_MODE_NONE
