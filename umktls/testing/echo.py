"""A small RPC service to call in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from umktls.rpc import xdr
from umktls.rpc.program import Program
from umktls.rpc.server import CallContext, Service

__all__ = ["BREAK", "COUNT", "ECHO", "SAY", "SLOW", "WAIT", "Echo"]

WAIT_SECONDS = 60.0  # real ones: so that a test that has failed ends

ECHO = Program(0x20000001, 1, "ECHO")
ECHO.add(0, "NULL", xdr.VOID, xdr.VOID)
SAY = ECHO.add(1, "SAY", xdr.opaque(1 << 21), xdr.opaque(1 << 21))
"""Says the same."""
COUNT = ECHO.add(2, "COUNT", xdr.UINT, xdr.UINT, idempotent=False)
"""How often it was called; a repeated call does not count."""
SLOW = ECHO.add(3, "SLOW", xdr.UINT, xdr.UINT)
"""Says the same, from a thread."""
BREAK = ECHO.add(4, "BREAK", xdr.VOID, xdr.VOID)
"""Fails."""
WAIT = ECHO.add(5, "WAIT", xdr.UINT, xdr.UINT, idempotent=False)
"""Says the same when it may go on."""


class Echo:
    """The service behind the program, with what it has seen."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.waiting, self.go_on = threading.Event(), threading.Event()

    def wait(self, number: int, context: CallContext) -> int:
        self.counted.append(number)
        self.waiting.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return number

    def count(self, number: int, context: CallContext) -> int:
        self.counted.append(number)
        return len(self.counted)

    def fail(self, nothing: None, context: CallContext) -> None:
        raise ZeroDivisionError

    def service(self) -> Service:
        handlers: dict[str, Callable[..., object]] = {
            "SAY": lambda data, context: data,
            "COUNT": self.count,
            "SLOW": lambda number, context: number,
            "BREAK": self.fail,
            "WAIT": self.wait,
        }
        blocking = dict.fromkeys(("SLOW", "WAIT"), lambda number: True)
        return Service(ECHO, handlers, blocking=blocking, cache=True)
