"""What a thread has put off, and what the upcall that it works on has brought."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from umktls.rpc.xdr import Struct
from umktls.upcall.syscalls import MAX_TOGETHER
from umktls.userland.exchange import Answer
from umktls.userland.failures import SystemCallError
from umktls.userland.grouping import Group, in_groups
from umktls.userland.ktls import Record

__all__ = ["Posted", "Say"]

# Makes of what a handler answers the system call that answers its upcall.
Say = Callable[[Any], Struct]


class Posted(threading.local):
    """The calls that a thread has put off, and whom to tell of a failure; the first failure of
    one that was needed; and what its upcall has brought: a record, or the reply to the first calls
    about a socket. `say`, where the kernel takes an answer to the upcall by a system call, and
    whether it has taken it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Struct, Callable[[SystemCallError], None]]] = []
        self.error: SystemCallError | None = None
        self.record: Record | None = None
        self.brought: Answer | None = None
        self.say: Say | None = None
        self.answered = False

    def fail(self, error: SystemCallError) -> None:
        self.error = self.error or error

    def with_answer(self, calls: Sequence[Struct], answer: Any) -> Group | None:
        """The calls, and the one that answers the upcall; None where it cannot be, or they do not
        go together: whether it is done depends on those in front."""
        if answer is None or self.say is None or self.answered or len(calls) >= MAX_TOGETHER:
            return None
        group, *more = in_groups([*calls, self.say(answer)])
        return None if more else group
